use flip::TcpListener;

// Each mistake is reported, and so is the one in the body, which the macro does not look into.
#[flip::main(flavour = "local", drain_timeout = 30)]
unsafe fn main(_http: TcpListener, #[with] _number: u64) -> u8 {
    "no number"
}
