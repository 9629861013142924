//! What only one process may hold, in axum's handlers.

use std::convert::Infallible;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::{Exclusive, ExclusiveError};

impl IntoResponse for ExclusiveError {
    fn into_response(self) -> Response {
        match self {
            // The client's next connection finds who holds it.
            ExclusiveError::HandedOff | ExclusiveError::Ended => {
                (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], self.to_string()).into_response()
            }
            // The reason is for whoever reads the log.
            ExclusiveError::NotReopened(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "it could not be opened again").into_response()
            }
        }
    }
}

/// An argument of a handler, from a router's state that is an `Exclusive<T>` or has one.
impl<S, T> FromRequestParts<S> for Exclusive<T>
where
    Exclusive<T>: FromRef<S>,
    S: Send + Sync,
    T: Send,
{
    type Rejection = Infallible;

    async fn from_request_parts(_: &mut Parts, state: &S) -> Result<Self, Infallible> {
        Ok(Exclusive::from_ref(state))
    }
}
