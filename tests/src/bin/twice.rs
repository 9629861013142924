//! A program that runs flip inside of flip.

use flip::{Builder, Ready};

fn main() -> Result<(), flip::BoxError> {
    Builder::new().ready(Ready::Manual).run_blocking(async |_: &flip::Setup| {
        Ok(|| {
            std::thread::spawn(|| Builder::new().ready(Ready::Manual).run_blocking(async |_: &flip::Setup| Ok(|| ())))
                .join()
                .map_err(|_| "it panicked")?;
            Ok(())
        })
    })
}
