//! What tonic-build makes of this, written by hand, so that nobody needs `protoc`:
//!
//! ```proto
//! package talk;
//!
//! message Line {
//!     string text = 1;
//!     uint32 pid = 2;
//! }
//! message Wish {
//!     string text = 1;
//!     uint32 times = 2;
//! }
//! service Talk {
//!     rpc Say(Line) returns (Line);
//!     rpc Tell(Wish) returns (stream Line);
//!     rpc Chat(stream Line) returns (stream Line);
//! }
//! ```

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http;
use futures_util::Stream;
use tonic::body::Body;

use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Line {
    #[prost(string, tag = "1")]
    pub text: String,
    /// Who wrote it.
    #[prost(uint32, tag = "2")]
    pub pid: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Wish {
    #[prost(string, tag = "1")]
    pub text: String,
    #[prost(uint32, tag = "2")]
    pub times: u32,
}

/// What a call answers with that answers more than once.
pub type Lines = Pin<Box<dyn Stream<Item = Result<Line, Status>> + Send>>;

pub trait Talk: Send + Sync + 'static {
    fn say(&self, line: Request<Line>) -> impl Future<Output = Result<Response<Line>, Status>> + Send;
    fn tell(&self, wish: Request<Wish>) -> impl Future<Output = Result<Response<Lines>, Status>> + Send;
    fn chat(&self, lines: Request<Streaming<Line>>) -> impl Future<Output = Result<Response<Lines>, Status>> + Send;
}

/// The service, as tonic's server takes it.
pub struct TalkServer<T>(Arc<T>);

impl<T> TalkServer<T> {
    pub fn new(talk: T) -> TalkServer<T> {
        TalkServer(Arc::new(talk))
    }
}

impl<T> Clone for TalkServer<T> {
    fn clone(&self) -> Self {
        TalkServer(Arc::clone(&self.0))
    }
}

impl<T> NamedService for TalkServer<T> {
    const NAME: &'static str = "talk.Talk";
}

impl<T: Talk> tower::Service<http::Request<Body>> for TalkServer<T> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let talk = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(match request.uri().path() {
                "/talk.Talk/Say" => {
                    let say = service_fn(move |line| {
                        let talk = Arc::clone(&talk);
                        async move { talk.say(line).await }
                    });
                    Grpc::new(ProstCodec::default()).unary(say, request).await
                }
                "/talk.Talk/Tell" => {
                    let tell = service_fn(move |wish| {
                        let talk = Arc::clone(&talk);
                        async move { talk.tell(wish).await }
                    });
                    Grpc::new(ProstCodec::default()).server_streaming(tell, request).await
                }
                "/talk.Talk/Chat" => {
                    let chat = service_fn(move |lines| {
                        let talk = Arc::clone(&talk);
                        async move { talk.chat(lines).await }
                    });
                    Grpc::new(ProstCodec::default()).streaming(chat, request).await
                }
                _ => Status::unimplemented("no such call").into_http(),
            })
        })
    }
}
