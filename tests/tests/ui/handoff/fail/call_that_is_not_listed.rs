use flip::Apply;

#[derive(flip::Handoff)]
struct Visits {
    total: u64,
}

#[derive(flip::Handoff)]
struct Hit;

impl Apply<Hit> for Visits {
    type Answer = ();
    fn apply(&mut self, _: Hit) {}
}

struct Live<T>(T);

impl<T> Live<T> {
    fn call<Op>(&self, _: Op)
    where
        T: flip::__private::Accepts<Op>,
    {
    }
}

fn main() {
    Live(Visits { total: 0 }).call(Hit);
}
