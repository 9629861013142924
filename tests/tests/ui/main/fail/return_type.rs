#[flip::main(ready = manual)]
async fn main() -> std::io::Result<()> {
    3
}
