use flip::Apply;

#[derive(Default, flip::Handoff)]
#[handoff(calls(Hit, Reset))]
struct Visits {
    total: u64,
}

#[derive(flip::Handoff)]
struct Hit;

#[derive(flip::Handoff)]
enum Reset {
    To(u64),
}

impl Apply<Hit> for Visits {
    type Answer = u64;

    fn apply(&mut self, _: Hit) -> u64 {
        self.total += 1;
        self.total
    }
}

impl Apply<Reset> for Visits {
    type Answer = ();

    fn apply(&mut self, Reset::To(total): Reset) {
        self.total = total;
    }
}

fn call<T: flip::__private::Accepts<Op>, Op>(_: Op) {}

fn main() {
    call::<Visits, _>(Hit);
    call::<Visits, _>(Reset::To(3));
}
