//! What lies between hyper and the user's service: when a request may be dispatched, and when its answer has ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, HttpBody};
use axum::http::header::{CONNECTION, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service as _;
use hyper_util::service::{TowerToHyperService, TowerToHyperServiceFuture};
use pin_project_lite::pin_project;
use tower_service::Service;

use super::gate::State;
use super::sealed::Peer;
use crate::drain::Running;

/// The user's service, as one connection's hyper sees it.
pub(super) struct Tracked<S, P> {
    service: TowerToHyperService<S>,
    peer: P,
    state: Arc<State>,
}

impl<S, P> Tracked<S, P> {
    pub(super) fn new(service: TowerToHyperService<S>, peer: P, state: Arc<State>) -> Tracked<S, P> {
        Tracked { service, peer, state }
    }

    pub(super) fn into_parts(self) -> (TowerToHyperService<S>, P) {
        (self.service, self.peer)
    }
}

impl<S, P, B> hyper::service::Service<Request<Incoming>> for Tracked<S, P>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    P: Peer,
    B: HttpBody,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Handling<S>;

    fn call(&self, request: Request<Incoming>) -> Handling<S> {
        if request.body().is_end_stream() {
            self.state.begin(false);
            return self.handle(request.map(|_| Body::empty()));
        }
        let number = self.state.begin(true);
        let end = UploadEnd { state: Arc::clone(&self.state), number, reached: false };
        self.handle(request.map(|body| Body::new(Upload { body, end })))
    }
}

impl<S, P> Tracked<S, P>
where
    S: Service<Request<Body>> + Clone,
    P: Peer,
{
    pub(super) fn handle(&self, mut request: Request<Body>) -> Handling<S> {
        let wish = Wish::of(&request);
        self.peer.describe(request.extensions_mut());
        let end = End(Arc::clone(&self.state));
        let running = self.state.shared.handlers.begin();
        Handling { future: self.service.call(request), running, wish, end: Some(end) }
    }
}

/// What the request says about the connection's future.
#[derive(Clone, Copy)]
struct Wish {
    version: Version,
    connect: bool,
    /// `Connection: close`, or HTTP/1.0 without `keep-alive`.
    close: bool,
}

impl Wish {
    fn of<B>(request: &Request<B>) -> Wish {
        let close = match request.version() {
            Version::HTTP_10 => !names(request.headers(), "keep-alive"),
            _ => names(request.headers(), "close"),
        };
        Wish { version: request.version(), connect: request.method() == Method::CONNECT, close }
    }

    /// Whether hyper may close the connection after this answer, or give it away. Where that is not certain it says yes,
    /// which costs nothing but that the connection is not held there.
    fn ends_with<B: HttpBody>(self, response: &Response<B>) -> bool {
        self.close
            || response.status() == StatusCode::SWITCHING_PROTOCOLS
            || (self.connect && response.status().is_success())
            || names(response.headers(), "close")
            || response.version() == Version::HTTP_10
            // Without chunks only the connection's end ends a body of unknown length.
            || (self.version == Version::HTTP_10
                && (response.body().size_hint().exact().is_none() || response.headers().contains_key(TRANSFER_ENCODING)))
    }
}

/// Whether `Connection` names the option.
fn names(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    })
}

pin_project! {
    /// A request on its way to an answer's head.
    pub(super) struct Handling<S>
    where
        S: Service<Request<Body>>,
    {
        #[pin]
        future: TowerToHyperServiceFuture<S, Request<Body>>,
        // Dropped with the head: a body that streams is not a handler that runs.
        running: Running,
        wish: Wish,
        end: Option<End>,
    }
}

impl<S, B> Future for Handling<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone,
    B: HttpBody,
{
    type Output = Result<Response<Answer<B>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        let end = this.end.take().expect("a future is not polled after its end");
        let state = &end.0;
        let mut closing = this.wish.ends_with(&response);
        // With more requests behind it, this is not the last answer. A body that is not yet read is not a request.
        if !closing && announces_close(state) && (state.is_body_open() || !state.has_unread()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            closing = true;
        }
        state.answer(closing);
        Poll::Ready(Ok(response.map(|body| Answer { body, end })))
    }
}

/// A leaving process ends its connections with an answer, unless another one takes them.
fn announces_close(state: &State) -> bool {
    state.shared.phase.get().is_leaving() && state.shared.passing().is_none()
}

pin_project! {
    /// An answer's body; hyper drops it when it has all of it, and before it flushes that.
    pub(super) struct Answer<B> {
        #[pin]
        body: B,
        end: End,
    }
}

struct End(Arc<State>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<B: HttpBody> HttpBody for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body.
struct Upload {
    body: Incoming,
    // Dropped after the body: hyper then knows as much as the state says.
    end: UploadEnd,
}

struct UploadEnd {
    state: Arc<State>,
    /// Of the request.
    number: u64,
    reached: bool,
}

impl Drop for UploadEnd {
    fn drop(&mut self) {
        if !self.reached {
            self.state.body_dropped(self.number);
        }
    }
}

impl HttpBody for Upload {
    type Data = <Incoming as HttpBody>::Data;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => self.body.is_end_stream(),
            // hyper closes the connection then.
            Some(Err(_)) => false,
        };
        if ended && !self.end.reached {
            self.end.reached = true;
            self.end.state.body_read(self.end.number);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
