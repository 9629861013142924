use flip::TcpListener;

// The mistake in the service is the only one: its callers still find what they call.
#[flip::service]
async fn serve(#[given] number: u64, _http: TcpListener) -> u64 {
    number
}

fn main() {
    let _number: u64 = flip::run(serve(3));
}
