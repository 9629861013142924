//! A program may ask for its states in another order than the one before it, and read one before it asks for the next.
#![allow(clippy::unwrap_used, reason = "what is not as it must be fails the test")]

use flip_tests::Start;

#[test]
fn states_are_read_one_after_the_other_in_another_order() {
    let start = Start::new(env!("CARGO_BIN_EXE_order"));
    let order = start.dir().join("order");
    std::fs::write(&order, "a b c").unwrap();
    let mut service = start.start();
    service.tell("a");
    service.tell("b");
    service.tell("b");
    for next in ["c b a", "b c a", "b a"] {
        std::fs::write(&order, next).unwrap();
        let old = service.upgrade().unwrap();
        service.exit(&old);
        service.line("reads 2 of b");
    }
    assert_eq!((service.tell("a"), service.tell("b")), ("2".to_owned(), "3".to_owned()));
    let log = service.stop();
    assert_eq!(log.count("reads 1 of a"), 3, "{}", log.text());
}
