use super::{calls::Accepts, *};

#[derive(Default, Handoff)]
#[handoff(calls(Hit, Rename<String>))]
struct Visits {
    total: u64,
    name: String,
}

#[derive(Handoff)]
struct Hit {
    count: u64,
}

#[derive(Handoff)]
struct Rename<T>(T);

impl Apply<Hit> for Visits {
    type Answer = u64;

    fn apply(&mut self, hit: Hit) -> u64 {
        self.total += hit.count;
        self.total
    }
}

impl Apply<Rename<String>> for Visits {
    type Answer = Result<String, String>;

    fn apply(&mut self, Rename(name): Rename<String>) -> Result<String, String> {
        Ok(std::mem::replace(&mut self.name, name))
    }
}

fn forward<T, Op: Handoff>(state: &mut T, op: &Op) -> Result<T::Answer, CallRefused>
where
    T: Handoff + Apply<Op, Answer: Handoff> + Accepts<Op>,
{
    let answer = apply(state, &Calls::<T>::name_of::<Op>(), &to_bytes(op).unwrap())?;
    Ok(from_bytes(&answer).unwrap())
}

fn apply<T: Handoff>(state: &mut T, name: &str, bytes: &[u8]) -> Result<Vec<u8>, CallRefused> {
    Ok(Calls::of().apply(name, bytes, &mut |apply| apply(state))?.unwrap())
}

#[test]
fn a_forwarded_call_is_applied_and_answered() {
    let mut visits = Visits::default();
    assert_eq!(forward(&mut visits, &Hit { count: 2 }).unwrap(), 2);
    assert_eq!(forward(&mut visits, &Hit { count: 3 }).unwrap(), 5);
    assert_eq!(forward(&mut visits, &Rename("new".to_owned())).unwrap(), Ok(String::new()));
    assert_eq!(visits.name, "new");
}

#[test]
fn a_call_that_is_not_listed_is_refused() {
    let error = apply(&mut Visits::default(), "Reset", &[]).unwrap_err();
    assert_eq!(error.to_string(), "the new process does not know the call `Reset`");
}

#[test]
fn a_call_of_an_older_form_is_applied() {
    #[derive(Handoff)]
    struct OlderHit {
        count: u32,
        gone: String,
    }
    let mut visits = Visits::default();
    let bytes = to_bytes(&OlderHit { count: 2, gone: "g".into() }).unwrap();
    apply(&mut visits, "Hit", &bytes).unwrap();
    assert_eq!(visits.total, 2);
}

#[test]
fn a_call_of_another_form_is_refused_and_not_applied() {
    #[derive(Handoff)]
    struct OtherHit {
        count: String,
    }
    let mut visits = Visits::default();
    let bytes = to_bytes(&OtherHit { count: "1".into() }).unwrap();
    let error = apply(&mut visits, "Hit", &bytes).unwrap_err();
    let error = error.to_string();
    let start = "the call could not be read: `Hit.count` is u64 here and String in the running process: ";
    assert!(error.starts_with(start), "{error}");
    assert_eq!(visits.total, 0);
}

/// What an operation is called does not depend on where it lies.
#[test]
fn an_operation_has_the_name_of_its_type() {
    #[derive(Handoff)]
    #[handoff(rename = "Hit")]
    struct Moved {
        #[allow(dead_code)]
        count: u64,
    }
    assert_eq!(Calls::<Visits>::name_of::<Hit>(), "Hit");
    assert_eq!(Calls::<Visits>::name_of::<Moved>(), "Hit");
    assert_eq!(Calls::<Visits>::name_of::<Rename<String>>(), "Rename");
    assert!(Calls::<Visits>::of().conflict().is_none());
}

#[test]
fn two_operations_of_one_name_are_found() {
    #[derive(Default, Handoff)]
    #[handoff(calls(Hit, elsewhere::Hit))]
    struct Both;
    mod elsewhere {
        #[derive(flip::Handoff)]
        pub struct Hit;
    }
    impl Apply<Hit> for Both {
        type Answer = ();
        fn apply(&mut self, _: Hit) {}
    }
    impl Apply<elsewhere::Hit> for Both {
        type Answer = ();
        fn apply(&mut self, _: elsewhere::Hit) {}
    }
    let conflict = Calls::<Both>::of().conflict().map(ToString::to_string).unwrap();
    assert!(
        conflict.contains("call::Hit` and `") && conflict.contains("elsewhere::Hit` are both called `Hit`"),
        "{conflict}"
    );
}

/// Whoever reads the state meanwhile is not held up by what an operation is made of.
#[test]
fn an_operation_is_read_before_the_state_is_taken() {
    let error = Calls::<Visits>::of().apply("Hit", &[], &mut |_| panic!("it was taken")).unwrap_err();
    assert!(matches!(error, CallRefused::Operation(_)), "{error}");
    let nothing = Calls::<Visits>::of().apply("Hit", &to_bytes(&Hit { count: 1 }).unwrap(), &mut |_| {});
    assert!(nothing.unwrap().is_none());
}

/// Calls follow each other closely; the types need not be asked again what they read.
#[test]
fn what_was_compared_is_remembered() {
    use std::sync::atomic::{AtomicUsize, Ordering};

    static READ: AtomicUsize = AtomicUsize::new(0);
    #[derive(serde::Serialize)]
    struct Counted(u8);
    impl<'de> serde::Deserialize<'de> for Counted {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            READ.fetch_add(1, Ordering::Relaxed);
            serde::Deserialize::deserialize(deserializer).map(Self)
        }
    }
    #[derive(Handoff)]
    struct One {
        counted: Counted,
    }
    #[derive(Handoff)]
    struct Two {
        counted: Counted,
        #[allow(dead_code)]
        more: String,
    }
    let one = to_bytes(&One { counted: Counted(7) }).unwrap();
    let others = (0..3).map(|_| to_bytes(&Two { counted: Counted(8), more: "m".into() }).unwrap());
    let others: Vec<_> = others.collect();
    from_bytes::<One>(&one).unwrap();
    from_bytes::<One>(&others[0]).unwrap();
    READ.store(0, Ordering::Relaxed);
    for other in others {
        assert_eq!(from_bytes::<One>(&one).unwrap().counted.0, 7);
        assert_eq!(from_bytes::<One>(&other).unwrap().counted.0, 8);
    }
    assert_eq!(READ.load(Ordering::Relaxed), 6);
}

#[test]
fn a_descriptor_cannot_be_forwarded() {
    #[derive(Handoff)]
    struct Take {
        it: std::fs::File,
    }
    let error = to_bytes(&Take { it: std::fs::File::open("/dev/null").unwrap() }).unwrap_err();
    assert_eq!(error.to_string(), "Take.it: a descriptor cannot travel in a call or its answer");
}
