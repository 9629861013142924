//! What lies between hyper and the user's service: when a request may be dispatched, and when its answer has ended.

use std::error::Error as StdError;
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, EXPECT, HeaderMap, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use pin_project_lite::pin_project;

use super::gate::{State, Turn};

type BoxError = Box<dyn StdError + Send + Sync>;

/// The user's service, as one connection has it. It takes a request in two parts, so that it is put together once, with the body
/// that the service wants.
pub(super) trait Handler: Clone + Send + 'static {
    type Body: HttpBody<Data: Send, Error: Into<BoxError>> + Send + 'static;
    type Error: Into<BoxError>;
    type Future: Future<Output = Result<Response<Self::Body>, Self::Error>> + Send;

    fn call(&self, head: Parts, body: RequestBody) -> Self::Future;
}

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

impl<S, B> Handler for Described<S>
where
    S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: HttpBody + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Body = B;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn call(&self, mut head: Parts, body: RequestBody) -> S::Future {
        if let Some(peer) = self.peer {
            head.extensions.insert(peer);
        }
        self.service.call(Request::from_parts(head, body))
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

impl<S: Handler> Service<Request<Incoming>> for Tracked<S> {
    type Response = Response<Answer<S::Body>>;
    type Error = S::Error;
    type Future = Handling<S::Future>;

    #[inline]
    fn call(&self, request: Request<Incoming>) -> Handling<S::Future> {
        let (head, body) = request.into_parts();
        let body = if body.is_end_stream() {
            self.state.begin(false);
            RequestBody::default()
        } else {
            let number = self.state.begin(true);
            let asks = head.headers.contains_key(EXPECT);
            let end = UploadEnd { state: Arc::clone(&self.state), number, asks, reached: false };
            RequestBody { incoming: Some(body), end: Some(end) }
        };
        // The gate holds hyper back where it can: not behind a body that ends, or is left, after its answer has.
        if self.state.is_held() { self.park(head, body) } else { self.handle(head, body) }
    }
}

impl<S: Handler> Tracked<S> {
    #[cold]
    fn park(&self, head: Parts, body: RequestBody) -> Handling<S::Future> {
        let tracked = Tracked::new(self.service.clone(), Arc::clone(&self.state));
        let begin = Box::new(move || tracked.handle(head, body));
        Handling::Parked { begin: Some(begin), state: Arc::clone(&self.state) }
    }

    // Always: it has two callers, of which one is rare.
    #[inline(always)]
    pub(super) fn handle(&self, head: Parts, body: RequestBody) -> Handling<S::Future> {
        let wish = Wish::of(&head);
        self.state.shared.handlers.enter();
        let running = Running(Some(End(Arc::clone(&self.state))));
        Handling::Begun { future: self.service.call(head, body), running, wish }
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
    fn of(head: &Parts) -> Wish {
        let close = match head.version {
            Version::HTTP_10 => !names(&head.headers, "keep-alive"),
            _ => names(&head.headers, "close"),
        };
        Wish { version: head.version, connect: head.method == Method::CONNECT, close }
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

type Begin<F> = Box<dyn FnOnce() -> Handling<F> + Send>;

pin_project! {
    /// A request on its way to an answer's head.
    #[project = Step]
    pub(super) enum Handling<F> {
        Begun {
            #[pin]
            future: F,
            running: Running,
            wish: Wish,
        },
        // hyper has parsed it while requests have to wait; the user's service has not seen it.
        Parked { begin: Option<Begin<F>>, state: Arc<State> },
    }
}

impl<F, B, E> Future for Handling<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: HttpBody,
{
    type Output = Result<Response<Answer<B>>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (future, running, wish) = match self.as_mut().project() {
            Step::Begun { future, running, wish } => (future, running, wish),
            Step::Parked { begin, state } => {
                let turn = ready!(state.poll_turn());
                let begin = begin.take().expect(UNTIL_ITS_END);
                if let Turn::Refused = turn {
                    drop(begin);
                    return Poll::Ready(Ok(Answer::refusal(End(Arc::clone(state)))));
                }
                let begun = begin();
                self.set(begun);
                return self.poll(cx);
            }
        };
        let mut response = ready!(future.poll(cx))?;
        let end = running.end().expect(UNTIL_ITS_END);
        let state = &end.0;
        let mut closing = wish.ends_with(&response);
        // With more requests behind it, this is not the last answer. A body that is not yet read is not a request.
        if !closing && state.announces_close() && (state.is_body_open() || !state.has_unread()) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            closing = true;
        }
        state.answer(closing);
        Poll::Ready(Ok(response.map(|body| Answer { body: Some(body), end })))
    }
}

const UNTIL_ITS_END: &str = "a future is not polled after its end";

pin_project! {
    /// An answer's body; hyper drops it when it has all of it, and before it flushes that.
    pub(super) struct Answer<B> {
        // None of a refusal.
        #[pin]
        body: Option<B>,
        end: End,
    }
}

impl<B> Answer<B> {
    /// To a request that no handler of this process may see any more. Its client sends it again, on a connection to the new process.
    #[cold]
    fn refusal(end: End) -> Response<Answer<B>> {
        end.0.answer(true);
        let mut response = Response::new(Answer { body: None, end });
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        let headers = response.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }
}

struct End(Arc<State>);

impl Drop for End {
    #[inline]
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A handler that is counted, until there is a head: a body that streams is not a handler that runs.
struct Running(Option<End>);

impl Running {
    #[inline]
    fn end(&mut self) -> Option<End> {
        let end = self.0.take()?;
        end.0.shared.handlers.leave();
        Some(end)
    }
}

impl Drop for Running {
    #[inline]
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl<B: HttpBody> HttpBody for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().body.as_pin_mut() {
            Some(body) => body.poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
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

impl Drop for RequestBody {
    #[inline]
    fn drop(&mut self) {
        if self.end.as_ref().is_some_and(|end| !end.reached && !end.asks) {
            self.look_for_the_end();
        }
    }
}

impl RequestBody {
    /// Its end may be here already, and then it is known where the next request begins.
    #[cold]
    fn look_for_the_end(&mut self) {
        /// As much as hyper reads ahead: a piece, and trailers.
        const AHEAD: usize = 3;
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..AHEAD {
            if !matches!(Pin::new(&mut *self).poll_frame(&mut cx), Poll::Ready(Some(Ok(_)))) {
                return;
            }
        }
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
    /// To read it is to ask the client for it.
    asks: bool,
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
