//! What lies between hyper and the user's service: when a request may be dispatched, and when its answer has ended.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;

use super::gate::State;
use crate::drain::Running;

/// A service that can ask who is at the other end.
#[derive(Clone)]
pub(super) struct Described<S> {
    service: S,
    peer: Option<SocketAddr>,
}

impl<S> Described<S> {
    pub(super) fn new(service: S, peer: Option<SocketAddr>) -> Described<S> {
        Described { service, peer }
    }
}

impl<S: Service<Request<RequestBody>>> Service<Request<RequestBody>> for Described<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<RequestBody>) -> S::Future {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        self.service.call(request)
    }
}

/// The user's service, as one connection's hyper sees it.
pub(super) struct Tracked<S> {
    service: S,
    state: Arc<State>,
}

impl<S> Tracked<S> {
    pub(super) fn new(service: S, state: Arc<State>) -> Tracked<S> {
        Tracked { service, state }
    }

    pub(super) fn into_inner(self) -> S {
        self.service
    }
}

impl<S, B> Service<Request<Incoming>> for Tracked<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>>,
    B: HttpBody,
{
    type Response = Response<Answer<B>>;
    type Error = S::Error;
    type Future = Handling<S::Future>;

    #[inline]
    fn call(&self, request: Request<Incoming>) -> Handling<S::Future> {
        self.handle(request.map(|body| {
            if body.is_end_stream() {
                self.state.begin(false);
                return RequestBody::default();
            }
            let number = self.state.begin(true);
            let end = UploadEnd { state: Arc::clone(&self.state), number, reached: false };
            RequestBody { incoming: Some(body), end: Some(end) }
        }))
    }
}

impl<S: Service<Request<RequestBody>>> Tracked<S> {
    #[inline]
    pub(super) fn handle(&self, request: Request<RequestBody>) -> Handling<S::Future> {
        let wish = Wish::of(&request);
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
    #[inline]
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

/// Whether `Connection` names the option. It looks at each header in turn: there are few of them, and to compare a name that the
/// standard has takes less than to hash one.
#[inline]
fn names(headers: &HeaderMap, option: &str) -> bool {
    headers.keys().any(|name| *name == CONNECTION) && is_listed(headers, option)
}

fn is_listed(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value
            .as_bytes()
            .split(|&byte| byte == b',')
            .any(|token| token.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
    })
}

pin_project! {
    /// A request on its way to an answer's head.
    pub(super) struct Handling<F> {
        #[pin]
        future: F,
        // Dropped with the head: a body that streams is not a handler that runs.
        running: Running,
        wish: Wish,
        end: Option<End>,
    }
}

impl<F, B, E> Future for Handling<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
{
    type Output = Result<Response<Answer<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.future.poll(cx))?;
        let end = this.end.take().expect("a future is not polled after its end");
        let state = &end.0;
        let mut closing = this.wish.ends_with(&response);
        // With more requests behind it, this is not the last answer. A body that is not yet read is not a request.
        if !closing && state.announces_close() && (state.is_body_open() || !state.has_unread()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            closing = true;
        }
        state.answer(closing);
        Poll::Ready(Ok(response.map(|body| Answer { body, end })))
    }
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
    #[inline]
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

/// A request's body, as the services of [`serve_hyper`](crate::serve_hyper) get it: hyper's own, and flip sees when it was read.
///
/// An empty one, for a test that calls a service, is `RequestBody::default()`.
///
/// ```
/// use flip::RequestBody;
/// use hyper::body::Body;
/// use hyper::{Request, Response};
///
/// async fn how_much(request: Request<RequestBody>) -> hyper::Result<Response<String>> {
///     Ok(Response::new(format!("{:?} bytes", request.body().size_hint().exact())))
/// }
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let answer = how_much(Request::new(RequestBody::default())).await.unwrap();
/// assert_eq!(answer.into_body(), "Some(0) bytes");
/// # });
/// ```
#[derive(Default)]
pub struct RequestBody {
    incoming: Option<Incoming>,
    // Dropped after the body: hyper then knows as much as the state says.
    end: Option<UploadEnd>,
}

#[cfg(feature = "http2")]
impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> RequestBody {
        RequestBody { incoming: Some(body), end: None }
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody").finish_non_exhaustive()
    }
}

struct UploadEnd {
    state: Arc<State>,
    /// Of the request.
    number: u64,
    reached: bool,
}

impl UploadEnd {
    fn reach(&mut self) {
        if !self.reached {
            self.reached = true;
            self.state.body_read(self.number);
        }
    }
}

impl Drop for UploadEnd {
    fn drop(&mut self) {
        if !self.reached {
            self.state.body_dropped(self.number);
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.incoming else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        let ended = match &frame {
            None => true,
            Some(Ok(_)) => body.is_end_stream(),
            // hyper closes the connection then.
            Some(Err(_)) => false,
        };
        if ended && let Some(end) = &mut self.end {
            end.reach();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}
