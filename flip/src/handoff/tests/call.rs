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
    let answer = Calls::of().apply(state, Calls::<T>::name_of::<Op>(), &to_bytes(op).unwrap())?;
    Ok(from_bytes(&answer).unwrap())
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
    let error = Calls::of().apply(&mut Visits::default(), "Reset", &[]).unwrap_err();
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
    Calls::of().apply(&mut visits, Calls::<Visits>::name_of::<Hit>(), &bytes).unwrap();
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
    let error = Calls::of().apply(&mut visits, Calls::<Visits>::name_of::<Hit>(), &bytes).unwrap_err();
    let error = error.to_string();
    let start = "the call could not be read: `Hit.count` is u64 here and String in the running process: ";
    assert!(error.starts_with(start), "{error}");
    assert_eq!(visits.total, 0);
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
