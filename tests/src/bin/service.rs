//! A count, and nothing that listens: what a handoff is about, without its sockets.

use flip::{Apply, Handle, Handoff, Live, Shutdown};
use flip_tests::inside::{Gates, answer, pass_gate, say, start};
use std::sync::{Arc, Mutex};

#[derive(Default, Handoff)]
#[handoff(calls(Add))]
struct Count {
    total: u64,
}

#[derive(Handoff)]
struct Add(u64);

impl Apply<Add> for Count {
    type Answer = u64;
    fn apply(&mut self, Add(more): Add) -> u64 {
        self.total += more;
        self.total
    }
}

/// Takes as long to be written and to be read as the gates `save` and `restore` want.
#[derive(Default, Handoff)]
struct Slow {
    gates: Gates,
}

fn or_why<T: ToString>(result: Result<T, impl ToString>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => format!("error: {}", error.to_string()),
    }
}

#[flip::main(ready = manual)]
pub async fn main(
    #[with(pass_gate("parameters"))] _gate: (),
    count: Live<Count>,
    slow: Live<Slow>,
    flip: Handle,
    shutdown: Shutdown,
) -> Result<(), flip::BoxError> {
    // Both reach the content when `main` is done with it, not before.
    let _slow = slow;
    if std::path::Path::new("touch").exists() {
        count.read(|count| count.total)?;
    }
    let serving = flip.clone();
    tokio::spawn(async move {
        serving.serving().await;
        say(&format!("pid {} runs the job", std::process::id()));
    });
    start()?;
    let held = Arc::new(Mutex::new(Vec::new()));
    let handle = flip.clone();
    answer(move |question| {
        let (count, flip, held) = (count.clone(), handle.clone(), Arc::clone(&held));
        async move {
            let mut words = question.split(' ');
            let verb = words.next().unwrap_or_default();
            let rest = question[verb.len()..].trim();
            let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(1);
            match verb {
                "get" => or_why(count.read(|count| count.total)),
                "add" => or_why(count.update(|count| {
                    count.total += number();
                    count.total
                })),
                "call" => or_why(count.call(Add(number())).await),
                "upgrade" => or_why(flip.upgrade().await.map(|new| format!("pid {}", new.pid))),
                "generation" => flip.generation().to_string(),
                "hold" => {
                    held.lock().expect("nobody panics with it").push(flip.guard(rest));
                    "held".to_owned()
                }
                "release" => {
                    held.lock().expect("nobody panics with it").clear();
                    "released".to_owned()
                }
                "cd" => or_why(std::env::set_current_dir(rest).map(|()| "there")),
                "args" => format!("{:?}", std::env::args_os().collect::<Vec<_>>()),
                "env" => format!("{:?}", std::env::vars_os().collect::<std::collections::BTreeMap<_, _>>()),
                "run" => {
                    let output = tokio::process::Command::new("sh").args(["-c", rest]).output().await;
                    or_why(output.map(|output| String::from_utf8_lossy(&output.stdout).trim().replace('\n', ";")))
                }
                other => format!("error: {other}?"),
            }
        }
    });
    pass_gate("ready");
    flip.ready();
    say("is ready");
    let why = shutdown.await;
    say(&format!("leaves: {why:?}"));
    Ok(())
}
