struct Service;

impl Service {
    #[flip::service(ready = manual)]
    async fn serve(&self) {}
}

fn main() {}
