//! The benchmark's service on ecdysis, put together as its own example is. It hands over the listener and no state.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use ecdysis::tokio_ecdysis::{SignalKind, StopOnShutdown, TokioEcdysisBuilder};
use flip_tests::contender::{self, ADDRESS, GENERATION, Visits};
use futures_util::{Stream, StreamExt};
use tokio::net::TcpStream;

fn main() -> io::Result<()> {
    let generation = contender::number(GENERATION).unwrap_or(1);
    // ecdysis gives the child the environment that it has itself, so what the child should read is written there.
    #[expect(clippy::disallowed_methods, reason = "as ecdysis's example does, though before any thread exists")]
    // SAFETY: no other thread exists yet: the runtime is built below.
    unsafe {
        std::env::set_var(GENERATION, (generation + 1).to_string());
    }
    serve(generation)
}

#[tokio::main]
async fn serve(generation: u64) -> io::Result<()> {
    let address: SocketAddr =
        std::env::var(ADDRESS).ok().and_then(|a| a.parse().ok()).expect("the driver gives an address");
    let builder = TokioEcdysisBuilder::new(SignalKind::hangup())?;
    // Its listen_tcp leaves SO_REUSEADDR off and queues 128; these are what tokio's bind sets for the others.
    let stream = builder.build_listen_tcp(StopOnShutdown::Yes, address, |socket, address| {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    })?;
    let app = contender::routes(generation)
        .route("/", get(|State(visits): State<Arc<Visits>>| async move { contender::answer(visits.add()) }))
        .with_state(Arc::new(Visits::default()));
    let (_ecdysis, upgraded) = builder.ready()?;
    axum::serve(Incoming { stream, address }, app)
        .with_graceful_shutdown(async {
            if let Err(error) = upgraded.await {
                eprintln!("ecdysis gave up: {error}");
            }
        })
        .await
}

/// ecdysis's stream of connections as what axum accepts from.
struct Incoming<S> {
    stream: S,
    address: SocketAddr,
}

impl<S> axum::serve::Listener for Incoming<S>
where
    S: Stream<Item = io::Result<TcpStream>> + Unpin + Send + 'static,
{
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.stream.next().await {
                Some(Ok(stream)) => return (stream, self.address),
                Some(Err(error)) => eprintln!("accept: {error}"),
                // The stream ends when the successor has taken over; the graceful shutdown then ends the server.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
