//! A program that runs flip inside of flip.

use flip::{Builder, Ready};

fn main() -> Result<(), flip::BoxError> {
    Builder::new().ready(Ready::Manual).run_blocking(async |flip: &flip::Setup| {
        let handle: flip::Handle = flip.param("handle").await?;
        Ok(move || {
            handle.ready();
            std::thread::spawn(|| Builder::new().ready(Ready::Manual).run_blocking(async |_: &flip::Setup| Ok(|| ())))
                .join()
                .map_err(|_| "it panicked")?;
            Ok(())
        })
    })
}
