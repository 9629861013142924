//! Under a real systemd of each release that differs.

use std::os::unix::fs::PermissionsExt;

use flip_tests::client::Http;
use flip_tests::places::free_address;
use flip_tests::systemd::{Release, Systemd, Unit};

use super::{COUNTER, deployed, hit, served_at, whoami};

/// The service unit, with the lines that the files give for this release.
fn counter(systemd: &'static Systemd, listen: &str) -> Unit {
    let text = deployed(include_str!("../../deploy/counter.service"), COUNTER).replace("127.0.0.1:0", listen);
    let unit = Unit::of(systemd, &text);
    let before_253 = include_str!("../../deploy/counter.service.d/before-253.conf");
    // The program of this build lies in a home, which the service is not to see.
    let program = format!("[Service]\nBindReadOnlyPaths={COUNTER}\n");
    unit.adds(&if systemd.release().waits() { program } else { format!("{before_253}{program}") });
    unit
}

fn until_serves(unit: &Unit, generation: u64) {
    unit.until("StatusText", |status| status.starts_with(&format!("generation {generation} serves")));
    unit.until("ActiveState", |state| state == "active");
}

/// Under each release that this machine can have.
fn under_each(does: impl Fn(&'static Systemd)) {
    for release in [Release::V252, Release::V254, Release::V257, Release::V262] {
        if let Some(systemd) = Systemd::get(release, "", env!("CARGO_TARGET_TMPDIR")) {
            does(systemd);
        }
    }
}

#[test]
fn service_goes_on() {
    under_each(service);
}

#[test]
fn socket_is_systemd_s() {
    under_each(socket);
}

#[test]
fn service_of_a_user_goes_on() {
    under_each(user);
}

fn service(systemd: &'static Systemd) {
    let unit = counter(systemd, "127.0.0.1:0");
    unit.does(&["start"]);
    let address = served_at(&unit.journal()).unwrap();
    let is_served_by = |generation: u64| {
        assert_eq!(whoami(address).unwrap(), (unit.main_pid(), generation));
    };
    is_served_by(1);
    assert_eq!((hit(address), hit(address)), (1, 2));
    unit.does(&["reload"]);
    until_serves(&unit, 2);
    is_served_by(2);
    // journald knows each line by the process that wrote it.
    systemd.says(&["journalctl", "--sync"]);
    let of_the_new =
        systemd.says(&["journalctl", "-u", unit.name(), &format!("_PID={}", unit.main_pid()), "-o", "cat"]);
    assert!(of_the_new.contains("generation 2 ") && !of_the_new.contains("generation 1 (pid"), "{of_the_new}");
    assert_eq!(hit(address), 3);
    unit.shows("NRestarts", "0");
    unit.does(&["restart"]);
    assert_eq!(hit(address), 4, "a restart has the same port, and loses nothing");
    unit.does(&["kill", "-s", "KILL", "--kill-whom=main"]);
    unit.until("NRestarts", |count| count == "1");
    until_serves(&unit, 1);
    assert!((4..=5).contains(&hit(address)), "the port is the same, and the count is that of a checkpoint");
    let journal = unit.journal();
    for told in ["; write ", " aside", "rolled back"] {
        assert!(!journal.contains(told), "nothing is to be said of these lines: {journal}");
    }
    unit.does(&["stop"]);
    unit.shows("Result", "success");
    assert!(Http::open(address).is_err(), "a stop is one");
}

fn socket(systemd: &'static Systemd) {
    let unit = counter(systemd, "systemd:http");
    let free = free_address();
    let text = include_str!("../../deploy/counter.socket").replace("127.0.0.1:8080", &free.to_string());
    unit.socket(&text);
    unit.shows("ActiveState", "inactive");
    assert_eq!(hit(free), 1, "whoever comes first has it started");
    for generation in 2..4 {
        unit.does(&["reload"]);
        until_serves(&unit, generation);
        assert_eq!(whoami(free).unwrap(), (unit.main_pid(), generation));
        assert_eq!(hit(free), generation);
    }
    unit.does(&["restart"]);
    assert_eq!(hit(free), 4);
}

/// Of a user who is not root, on systemd's own program for that.
fn user(systemd: &'static Systemd) {
    if !systemd.release().waits() {
        // The unit is for those that know notify-reload, as it says.
        return;
    }
    let runtime = format!("flip-user-{}", std::process::id());
    let manager = Unit::of(
        systemd,
        &format!(
            "[Service]\nType=notify\nUser=nobody\nDelegate=yes\nRuntimeDirectory={runtime}\n\
             Environment=XDG_RUNTIME_DIR=/run/{runtime}\nExecStart=/usr/lib/systemd/systemd --user\n"
        ),
    );
    let home = manager.path("");
    let units = manager.path(".config/systemd/user");
    std::fs::create_dir_all(&units).unwrap();
    let deployed = deployed(include_str!("../../deploy/counter-user.service"), COUNTER);
    std::fs::write(format!("{units}/counter.service"), deployed).unwrap();
    std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o755)).unwrap();
    manager.adds(&format!("[Service]\nEnvironment=HOME={home}\n"));
    manager.does(&["start"]);
    let as_user = |words: &[&str]| {
        let environment = format!("XDG_RUNTIME_DIR=/run/{runtime}");
        let user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", &environment];
        systemd.says(&[&user, words].concat())
    };
    let show = |property: &str| as_user(&["systemctl", "--user", "show", "-P", property, "counter.service"]);
    as_user(&["systemctl", "--user", "start", "counter.service"]);
    let address = served_at(&manager.journal()).unwrap();
    let is_served_by = |generation: u64| {
        assert_eq!(whoami(address).unwrap(), (show("MainPID").parse().unwrap(), generation));
    };
    is_served_by(1);
    assert_eq!((hit(address), hit(address)), (1, 2));
    as_user(&["systemctl", "--user", "reload", "counter.service"]);
    is_served_by(2);
    assert_eq!(hit(address), 3);
    assert_eq!((show("NRestarts"), show("Result")), ("0".to_owned(), "success".to_owned()));
    as_user(&["systemctl", "--user", "restart", "counter.service"]);
    assert_eq!(hit(address), 4, "a restart has the same port, and loses nothing");
    assert!(!manager.journal().contains("; write "), "nothing is to be said of these lines: {}", manager.journal());
    std::fs::create_dir_all(format!("{units}/counter.service.d")).unwrap();
    std::fs::write(format!("{units}/counter.service.d/more.conf"), "[Service]\nKillMode=process\n").unwrap();
    as_user(&["systemctl", "--user", "daemon-reload"]);
    as_user(&["systemctl", "--user", "restart", "counter.service"]);
    assert_eq!(hit(address), 5);
    let journal = manager.journal();
    assert!(journal.contains("counter.service: ") && journal.contains("; write KillMode=mixed"), "{journal}");
    as_user(&["systemctl", "--user", "stop", "counter.service"]);
    assert!(Http::open(address).is_err(), "a stop is one");
}
