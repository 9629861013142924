//! hyper alone, a task a connection.

use std::io;
use std::pin::pin;

use flip::{Shutdown, TcpListener, TcpStream};
use flip_stacks::{Cli, answer};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;

async fn handle(request: Request<Incoming>) -> hyper::Result<Response<String>> {
    let sent = request.into_body().collect().await?.to_bytes();
    Ok(Response::new(answer(&sent)))
}

async fn serve(stream: TcpStream, shutdown: Shutdown) -> hyper::Result<()> {
    let asked = Notify::new();
    let service = service_fn(|request| {
        asked.notify_one();
        handle(request)
    });
    let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    // Not before the first request: hyper would close a connection whose client has asked and was not heard yet.
    let leave = async {
        asked.notified().await;
        shutdown.await
    };
    tokio::select! {
        done = connection.as_mut() => return done,
        _ = leave => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

#[flip::main]
async fn main(#[args] args: Cli, #[listen(args.listen)] http: TcpListener, shutdown: Shutdown) -> io::Result<()> {
    eprintln!("listens at {}", http.local_addr()?);
    while let Some((stream, _)) = http.accept().await? {
        let shutdown = shutdown.clone();
        tokio::spawn(async {
            // A client that goes away in the middle is no mistake of the server's.
            let _ = serve(stream, shutdown).await;
        });
    }
    Ok(())
}
