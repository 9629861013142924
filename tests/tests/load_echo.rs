//! A thousand restarts under clients that connect for each message: none of them notices.

use std::time::Instant;

use flip_tests::client::{Load, Loss, Lost, Shared, ask_line};
use flip_tests::{Chain, Exit, Start};

const RESTARTS: usize = 1_000;
const CLIENTS: u64 = 8;

fn resident(service: &Chain) -> u64 {
    let text = service.owner().status("VmRSS");
    text.trim_end_matches(" kB").parse().expect("a number of kB")
}

/// Lets clients talk to the owner until each thread and buffer that it needs is there.
fn warm_up(service: &Chain, load: &Shared) {
    let enough = load.answered() + 2_000;
    service.until("the clients have talked to it for a while", || load.answered() >= enough);
}

#[test]
fn thousand_restarts_lose_no_message_and_leave_nothing_behind() {
    let mut service = Start::new(env!("CARGO_BIN_EXE_lines")).start();
    let line = service.line("listens at ");
    let address = line.rsplit_once(' ').unwrap().1.parse().unwrap();
    let restart = |service: &mut Chain| {
        let old = service.upgrade().unwrap();
        assert_eq!(service.exit(&old), Exit::Status(0));
    };
    let descriptors = service.owner().descriptor_kinds();
    restart(&mut service);

    let shared = Shared::default();
    let (before, tally) = std::thread::scope(|scope| {
        let mut load = Load::new(&shared);
        for client in 0..CLIENTS {
            load.client(scope, move |_, number| {
                let line = format!("{client}/{number}");
                let answer = ask_line(address, &line)?;
                match answer.split_once(": ") {
                    Some((pid, echo)) if pid.parse::<i32>().is_ok() && echo == line => Ok(()),
                    _ => Err(Lost(Loss::Wrong, format!("{line:?} came back as {answer:?}"))),
                }
            });
        }
        warm_up(&service, &shared);
        let before = resident(&service);
        let begin = Instant::now();
        for _ in 0..RESTARTS {
            restart(&mut service);
        }
        println!("{RESTARTS} restarts in {:.1?}", begin.elapsed());
        warm_up(&service, &shared);
        (before, load.stop())
    });
    println!("{tally}");
    assert!(!tally.has_lost(), "{tally}");

    let is_as_before = || service.owner().descriptor_kinds() == descriptors;
    service.until(&format!("it has the descriptors {descriptors:?}"), is_as_before);
    let after = resident(&service);
    println!("resident: {before} kB in generation 2, {after} kB in generation {}", RESTARTS + 2);
    assert!(after < before + before / 10, "{before} kB have become {after} kB");
    assert_eq!(service.log().count("cut"), 0, "{}", service.log().text());
    service.stop();
}
