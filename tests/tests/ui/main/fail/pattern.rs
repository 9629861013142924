struct Config {
    _http: String,
}

#[flip::main(ready = manual)]
async fn main(#[with(Config { _http: String::new() })] Config { _http }: Config) {}
