#[derive(flip::Handoff)]
struct Peer {
    #[handoff(serde)]
    stream: std::net::TcpStream,
}

fn main() {}
