#[flip::main]
async fn main(_number: u64) {}
