//! axum's routers, and other services with its type of body.

use std::any::{Any, TypeId};
use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::request::Parts;
use axum::http::{Request, Response};
use hyper::service::Service as _;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::service::Handler;
use super::{Accept, Options, RequestBody, serve_with};

/// Serves HTTP on a listener until this process hands over or stops, and loses nothing: HTTP/1.1, and with the feature `http2`
/// also HTTP/2 to clients that begin with it (prior knowledge). The feature `rustls` has both under TLS: see `TcpListener::tls`.
///
/// ```no_run
/// # async fn example(http: flip::TcpListener) -> std::io::Result<()> {
/// flip::serve(http, axum::Router::new().route("/", axum::routing::get(async || "hello"))).await
/// # }
/// ```
///
/// `service` is an [`axum::Router`], or any other tower service of such requests; [`serve_hyper`](crate::serve_hyper) takes those of hyper. Each connection runs as a task, and a
/// handler that panics takes only its connection, or its HTTP/2 stream, with it. On TCP, handlers can extract
/// [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo).
///
/// It returns when nothing will be accepted any more and each of its connections is done, or was cut. Until
/// then, in a process that handed over or stops:
///
/// - a connection without an answer yet gets one, however late its request arrives, and so does every request that was
///   pipelined;
/// - a connection that rests between two requests is passed to the new process, with what was read of it; its client does
///   not notice. Where the new process takes no more, it is served here, and ends with its next answer or at rest;
/// - in a service that stops, each connection has its turn: its next answer with nothing behind it announces `Connection: close`,
///   and where it rests it is closed after about a second without a request (a quarter of the time left, if that is less), because
///   one may be on its way. Of up to a hundred connections it is everybody's turn at once. Of more, each gets a moment by chance,
///   over a time that grows by a millisecond with each (half of `drain_timeout` at most), so that their clients do not all come back
///   in the same moment; until then it is served as before;
/// - one with a part of its next request does not rest: in a service that stops it is waited for, until that request is whole and has its
///   answer, or until `drain_timeout`. A single client that stops in the middle of a head makes a stop last that long;
/// - streaming answers and upgraded connections go on;
/// - an HTTP/2 connection takes no more requests (GOAWAY) and ends with its last stream; it is not passed. What reaches it too
///   late, or came while the state was on its way, is refused (REFUSED_STREAM) before a handler has seen it, so that its client
///   sends it again, to the new process. In a service without state it is answered, and in one that stops, too, where GOAWAY is said in its turn;
/// - a connection under TLS is not passed either: it is told by the next answer, or closed where it would have been passed, after about a
///   second;
/// - what is left at `drain_timeout` is cut.
///
/// From a listener that [keeps accepting](crate::ListenOptions::keep_accepting) it goes on in a service that stops until all else
/// is done.
///
/// # Errors
///
/// When the listener fails for good. Connections that failed before they were accepted, and a lack of descriptors, are
/// waited out.
///
/// # Cancel safety
///
/// When the future is dropped nothing more is accepted; the connections go on.
///
/// # Caveats
///
/// Without the feature `http2` HTTP/2 is not spoken; with it, not by `Upgrade: h2c`.
///
/// A request that a client has pipelined behind an upload of which the handler did not see the end may have been parsed when the handoff is committed. In a
/// service with state it is then answered by 503 with `Retry-After`, before a handler has seen it.
pub async fn serve<L, S, B>(listener: L, service: S) -> io::Result<()>
where
    L: Accept,
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    let service = ready_made(service);
    serve_with(listener, move |peer| Routes::new(service.clone(), peer), Options::default()).await
}

/// The same service; of a router, the one in which each handler has become a route already. Otherwise it does that anew for each
/// request. `axum::serve` does it for each connection.
fn ready_made<S: 'static>(service: S) -> S {
    let mut service = Some(service);
    let any: &mut dyn Any = &mut service;
    if let Some(router) = any.downcast_mut::<Option<Router>>() {
        *router = router.take().map(|router| router.with_state(()));
    }
    service.expect("a router was put back")
}

/// A tower service of axum's requests, as one connection has it.
#[derive(Clone)]
pub(super) struct Routes<S> {
    service: S,
    peer: Option<SocketAddr>,
}

impl<S> Routes<S> {
    pub(super) fn new(service: S, peer: Option<SocketAddr>) -> Routes<S> {
        Routes { service, peer }
    }
}

impl<S, B> Handler for Routes<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<Box<dyn StdError + Send + Sync>>,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn StdError + Send + Sync>>,
{
    type Body = B;
    type Error = S::Error;
    type Future = Routed<S>;

    // Always: what it makes is large, and is copied less often where it is made in place.
    #[inline(always)]
    fn call(&self, mut head: Parts, body: RequestBody) -> Self::Future {
        if let Some(peer) = self.peer {
            head.extensions.insert(ConnectInfo(peer));
        }
        let body = if body.is_end_stream() { Body::empty() } else { Body::new(body) };
        let request = Request::from_parts(head, body);
        let mut service = self.service.clone();
        // A router is always ready, and runs nobody's code until what it gives is polled.
        if TypeId::of::<S>() == TypeId::of::<Router>() {
            Routed::Here { future: service.call(request) }
        } else {
            Routed::Later { future: TowerToHyperService::new(service).call(request) }
        }
    }
}

pin_project! {
    /// A request on its way through a tower service.
    #[project = Step]
    pub(super) enum Routed<S: Service<Request<Body>>> {
        Here {
            #[pin]
            future: S::Future,
        },
        // It waits until the service is ready, and calls it then.
        Later {
            #[pin]
            future: TowerToHyperServiceFuture<S, Request<Body>>,
        },
    }
}

impl<S: Service<Request<Body>>> Future for Routed<S> {
    type Output = Result<S::Response, S::Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            Step::Here { future } => future.poll(cx),
            Step::Later { future } => future.poll(cx),
        }
    }
}
