//! A service whose state is another one in each release goes from one to the next and back under load, and nothing is lost.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use flip_tests::client::{Http, Load, Shared};
use flip_tests::places::free_address;
use flip_tests::{Chain, Exit, Start};
use serde_json::{Value, json};

const V1: &str = env!("CARGO_BIN_EXE_evolve-v1");
const V2: &str = env!("CARGO_BIN_EXE_evolve-v2");
const V3: &str = env!("CARGO_BIN_EXE_evolve-v3");

/// Release 1, started through a link that another release can take the place of.
fn start() -> (Chain, SocketAddr) {
    let address = free_address();
    let start = Start::new(V1).arg("--listen").arg(&address.to_string());
    let link = start.dir().join("service");
    symlink(V1, &link).unwrap();
    let service = start.called(link.to_str().unwrap()).spawn();
    service.until("it listens", || {
        if service.owner().has_ended() {
            service.fail("it has ended");
        }
        Http::open(address).is_ok()
    });
    (service, address)
}

fn install(service: &Chain, release: &str) {
    service.install("service", |path| symlink(release, path).unwrap());
}

fn ask(address: SocketAddr, method: &str, path: &str) -> String {
    Http::open(address).unwrap().exchange(method, path).unwrap().body
}

fn desk(address: SocketAddr) -> Value {
    serde_json::from_str(&ask(address, "GET", "/desk")).unwrap()
}

/// What must be the same whatever the release, and what only this one has.
fn split(mut desk: Value) -> (Value, Value) {
    let common = ["taken", "revenue", "towns", "note", "patience_ms"];
    let mut common: Value = common.map(|name| (name.to_owned(), desk[name].take())).into_iter().collect();
    common["name"] = desk["name"].take();
    if common["name"].is_null() {
        common["name"] = desk["title"].take();
    }
    // A list in release 1, in the order of the orders; a set in release 2.
    common["towns"].as_array_mut().unwrap().sort_by_key(Value::to_string);
    desk["pid"].take();
    let last = desk["last"].take().to_string();
    common["last"] = last.replace("New", "Open").replace("parcels: None, ", "").into();
    desk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    (common, desk)
}

fn open_ms(desk: &Value) -> u64 {
    desk["open_ms"].as_u64().unwrap()
}

#[test]
fn state_is_intact_in_the_next_release_and_back() {
    let (mut service, address) = start();
    for number in 1..=4 {
        assert_eq!(ask(address, "POST", "/order"), format!("order {number}\n"));
    }
    assert_eq!(ask(address, "POST", "/order/coupon"), "order 5\n");
    let began = desk(address);
    let (first, only) = split(began.clone());
    assert_eq!(
        first,
        json!({
            "name": "the desk",
            "taken": 5,
            "revenue": 18.75,
            "towns": ["Bern", "Chur", "Genf"],
            "note": "mind the step",
            "patience_ms": 1500,
            "last": r#"[[5,"soup",4.75,"Chur","Open"],[4,"cake",3.5,"Genf","Paid"],[3,"tea",2.25,"Bern","Sent { days: 2 }"]]"#,
        })
    );
    let open = open_ms(&only);
    assert_eq!(only, json!({ "release": 1, "open_ms": open, "color": "green", "coupons": 1, "journal": true }));

    install(&service, V2);
    let old = service.upgrade().unwrap();
    let (second, only) = split(desk(address));
    assert_eq!(second, first);
    assert!(open_ms(&only) >= open, "it was opened at the same moment: {only} and {open}");
    let open = open_ms(&only);
    let expected = json!({ "release": 2, "open_ms": open, "colour": "green", "size": 12, "seats": 3, "refunds": 0.0 });
    assert_eq!(only, expected);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.line("the state `coupons` of the old process has no successor here and is dropped");

    install(&service, V1);
    let old = service.upgrade().unwrap();
    let (third, only) = split(desk(address));
    assert_eq!(third, first);
    assert!(open_ms(&only) >= open, "it was opened at the same moment: {only} and {open}");
    // What release 2 did not have begins anew.
    let expected = json!({ "release": 1, "open_ms": open_ms(&only), "color": "green", "coupons": 0, "journal": false });
    assert_eq!(only, expected);
    assert_eq!(service.exit(&old), Exit::Status(0));
    service.stop();
}

#[test]
fn releases_change_under_load_and_lose_nothing() {
    let (mut service, address) = start();
    let shared = Shared::default();
    let tally = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        load.client(scope, |_, _| Http::open(address)?.exchange("POST", "/order").map(drop));
        let mut kept: Option<Http> = None;
        load.client(scope, move |tally, _| {
            let mut http = match kept.take() {
                Some(http) => http,
                None => Http::open(address)?,
            };
            let answer = http.exchange("POST", "/order")?;
            if answer.last {
                tally.closed += 1;
            } else {
                kept = Some(http);
            }
            Ok(())
        });
        for release in [V2, V1, V2, V1, V2] {
            let before = shared.answered();
            service.until("it takes orders", || shared.answered() > before || shared.first_loss().is_some());
            install(&service, release);
            let old = service.upgrade().unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(service.exit(&old), Exit::Status(0));
        }

        // The next one has a field that nothing can be made of.
        install(&service, V3);
        let before = shared.answered();
        let report = service.upgrade().unwrap_err();
        let why = "the state `desk` of the running process cannot become what it is here: `Desk.waiters` is a list of String \
                   without a default here and absent in the running process: give it a default, `#[handoff(default)]`, or say \
                   what it was called, `#[handoff(alias = \"towns\")]`; generation 6 ";
        assert!(report.contains(why), "{report}");
        let goes_on = format!("generation 6 (pid {}) goes on", service.owner().pid);
        assert!(report.contains(&goes_on), "{report}");
        service.until("it takes orders", || shared.answered() > before || shared.first_loss().is_some());
        load.stop()
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");
    let taken = desk(address);
    assert_eq!((&taken["release"], &taken["taken"]), (&json!(2), &json!(tally.answered)));
    assert_eq!(taken["revenue"], json!((1..=tally.answered).map(|n| [2.25, 3.5, 4.75][n as usize % 3]).sum::<f64>()));
    service.stop();
}

#[test]
fn value_that_the_older_release_does_not_know_is_rolled_back() {
    let (mut service, address) = start();
    assert_eq!(ask(address, "POST", "/order"), "order 1\n");
    install(&service, V2);
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(ask(address, "POST", "/refund"), "refunded 3.5\n");
    install(&service, V1);
    let report = service.upgrade().unwrap_err();
    let why = "desk: Desk.orders[0].status: it is `Refunded` in the running process, a variant that the enum `Status` does \
               not have here: keep it, or say what it is called now, `#[handoff(alias = \"Refunded\")]`; generation 2 ";
    assert!(report.contains(why), "{report}");
    // The next order pays for it.
    assert_eq!(ask(address, "POST", "/order"), "order 2\n");
    let old = service.upgrade().unwrap();
    assert_eq!(service.exit(&old), Exit::Status(0));
    assert_eq!(desk(address)["release"], json!(1));
    service.stop();
}
