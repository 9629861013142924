//! Live state in axum's handlers.

use std::convert::Infallible;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{CallError, HandedOff, Live};

/// The state is elsewhere for good, so the client's next connection finds it: 503 with `Retry-After: 1`.
const TRY_AGAIN: (StatusCode, [(HeaderName, &str); 1]) =
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")]);

impl IntoResponse for HandedOff {
    fn into_response(self) -> Response {
        (TRY_AGAIN.0, TRY_AGAIN.1, self.to_string()).into_response()
    }
}

/// 503 with `Retry-After: 1` where the call was not applied, 500 where that is unknown: a client must not just repeat it.
impl IntoResponse for CallError {
    fn into_response(self) -> Response {
        match self {
            CallError::Refused(_) => (TRY_AGAIN.0, TRY_AGAIN.1, self.to_string()).into_response(),
            CallError::Lost => (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response(),
        }
    }
}

/// An argument of a handler, from a router's state that is a `Live<T>` or has one.
impl<S, T> FromRequestParts<S> for Live<T>
where
    Live<T>: FromRef<S>,
    S: Send + Sync,
    T: Send + Sync,
{
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Live::from_ref(state))
    }
}
