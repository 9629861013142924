#[flip::main(ready = manual)]
async fn main()
where
    u8: Copy,
{
}
