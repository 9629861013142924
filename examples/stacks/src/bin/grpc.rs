//! gRPC by tonic: a call that is answered once, one that is answered again and again, and a conversation.
//!
//! A call that runs during an upgrade is finished by the process that it came to. tonic tells the clients of that process,
//! by HTTP/2's GOAWAY, to make their next call over a new connection, which reaches the new one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use flip::{BoxError, Shutdown, TcpListener, TcpStream};
use flip_stacks::Cli;
use flip_stacks::talk::{Line, Lines, Talk, TalkServer, Wish};
use futures_util::stream::{StreamExt, iter, try_unfold};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tonic::{Request, Response, Status, Streaming};

/// With how many calls have come to this process.
struct Speaker(Arc<AtomicU64>);

impl Speaker {
    fn hears(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn by_me(text: String) -> Line {
    Line { text, pid: std::process::id() }
}

impl Talk for Speaker {
    async fn say(&self, line: Request<Line>) -> Result<Response<Line>, Status> {
        self.hears();
        Ok(Response::new(by_me(line.into_inner().text)))
    }

    async fn tell(&self, wish: Request<Wish>) -> Result<Response<Lines>, Status> {
        self.hears();
        let Wish { text, times } = wish.into_inner();
        Ok(Response::new(iter((0..times).map(move |_| Ok(by_me(text.clone())))).boxed()))
    }

    async fn chat(&self, lines: Request<Streaming<Line>>) -> Result<Response<Lines>, Status> {
        self.hears();
        Ok(Response::new(lines.into_inner().map(|line| Ok(by_me(line?.text))).boxed()))
    }
}

/// A connection as tonic wants it: flip's, so that a process knows what it still has open.
struct Connection(TcpStream);

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.0.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[flip::main]
async fn main(
    #[args] args: Cli,
    // As tonic does with connections that it accepts by itself.
    #[listen(args.listen, options = |socket| socket.set_tcp_nodelay(true))] grpc: TcpListener,
    shutdown: Shutdown,
) -> Result<(), BoxError> {
    eprintln!("listens at {}", grpc.local_addr()?);
    let connections = try_unfold(grpc, async |grpc| {
        let accepted = grpc.accept().await?;
        io::Result::Ok(accepted.map(|(stream, _)| (Connection(stream), grpc)))
    });
    let left = async { _ = shutdown.await };
    let calls = Arc::default();
    let talk = TalkServer::new(Speaker(Arc::clone(&calls)));
    Server::builder().add_service(talk).serve_with_incoming_shutdown(connections, left).await?;
    eprintln!("{} calls came to pid {}", calls.load(Ordering::Relaxed), std::process::id());
    Ok(())
}
