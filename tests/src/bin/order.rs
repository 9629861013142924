//! Two states, asked for in the order that the file `order` says, and the last one only after the first was read.

use flip::{Handle, Live, Ready, Setup};
use flip_tests::inside::{answer, say};

fn main() -> Result<(), flip::BoxError> {
    let order = std::fs::read_to_string("order")?;
    flip::Builder::new().ready(Ready::Manual).run(async |setup: &Setup| {
        let mut states = Vec::new();
        for name in order.split_whitespace() {
            let state: Live<u64> = setup.param(name).await?;
            say(&format!("reads {} of {name}", state.read(|n| *n).unwrap_or(u64::MAX)));
            states.push((name.to_owned(), state));
        }
        let (flip, shutdown): (Handle, flip::Shutdown) = (setup.param("flip").await?, setup.param("shutdown").await?);
        Ok(async move {
            answer(move |name| {
                let (_, state) = states.iter().find(|(other, _)| *other == name).expect("a state of this name");
                let added = state.update(|n| {
                    *n += 1;
                    *n
                });
                async move { added.map_or_else(|error| error.to_string(), |n| n.to_string()) }
            });
            flip.ready();
            flip.serving().await;
            say("is ready");
            shutdown.await;
            Ok(())
        })
    })
}
