//! The handshake (RFC 6455, 4.2), as an extractor.

use axum::extract::FromRequestParts;
use axum::http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use tungstenite::handshake::derive_accept_key;

use super::WebSocket;

/// A request for a WebSocket: the argument of a handler, which answers it by [`on_upgrade`](Self::on_upgrade).
///
/// ```no_run
/// use axum::response::Response;
/// use flip::ws::{Upgrade, WebSocket};
///
/// async fn echo(upgrade: Upgrade) -> Response {
///     upgrade.max_message_size(1 << 20).on_upgrade(|mut socket: WebSocket| async move {
///         while let Some(Ok(message)) = socket.recv().await {
///             if socket.send(message).await.is_err() {
///                 return;
///             }
///         }
///     })
/// }
/// ```
#[must_use = "`on_upgrade` makes the answer"]
pub struct Upgrade {
    on_upgrade: OnUpgrade,
    accept: HeaderValue,
    offered: Vec<HeaderValue>,
    protocol: Option<HeaderValue>,
    limit: usize,
}

impl std::fmt::Debug for Upgrade {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upgrade").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Upgrade {
    /// The longest message that is taken, in bytes: 16 MiB if nothing is said. Of one that is longer the client hears 1009.
    pub fn max_message_size(mut self, bytes: usize) -> Upgrade {
        self.limit = bytes;
        self
    }

    /// The protocols that this server speaks, the best one first: the first that the client offers, too, is agreed on. See
    /// [`WebSocket::protocol`].
    pub fn protocols<'a>(mut self, known: impl IntoIterator<Item = &'a str>) -> Upgrade {
        let offered = |known: &str| {
            let mut all =
                self.offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
            all.any(|one| one.trim() == known)
        };
        self.protocol = known.into_iter().find(|&known| offered(known)).and_then(|known| known.parse().ok());
        self
    }

    /// Agrees, and runs this with the WebSocket, as a task.
    pub fn on_upgrade<F, Talk>(self, talk: F) -> Response
    where
        F: FnOnce(WebSocket) -> Talk + Send + 'static,
        Talk: Future<Output = ()> + Send + 'static,
    {
        let Upgrade { on_upgrade, accept, protocol, limit, .. } = self;
        let agreed = protocol.as_ref().and_then(|protocol| protocol.to_str().ok()).map(str::to_owned);
        tokio::spawn(async move {
            match on_upgrade.await {
                Ok(upgraded) => talk(WebSocket::upgraded(upgraded, agreed, limit)).await,
                Err(error) => tracing::debug!(%error, "a WebSocket was agreed on, and its connection is lost"),
            }
        });
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        if let Some(protocol) = protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
    }
}

/// A request is none for a WebSocket.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpgradeRejection {
    /// Another method, or another version of HTTP.
    #[error("a WebSocket begins with a GET of HTTP/1.1")]
    Method,
    /// `Connection`, `Upgrade` or `Sec-WebSocket-Key` is missing, or is not what it must be.
    #[error("the request does not ask for a WebSocket")]
    NotAsked,
    /// `Sec-WebSocket-Version` is not 13.
    #[error("the version of WebSockets that is spoken here is 13")]
    Version,
    /// The server gives no connection away.
    #[error("this connection cannot be upgraded")]
    NotUpgradable,
}

/// 405, 400, 426, or 500.
impl IntoResponse for UpgradeRejection {
    fn into_response(self) -> Response {
        let status = match self {
            UpgradeRejection::Method => StatusCode::METHOD_NOT_ALLOWED,
            UpgradeRejection::NotAsked => StatusCode::BAD_REQUEST,
            UpgradeRejection::Version => {
                // So that a client may try again with this one (RFC 6455, 4.4).
                let headers = [(SEC_WEBSOCKET_VERSION, "13"), (UPGRADE, "websocket"), (CONNECTION, "upgrade")];
                return (StatusCode::UPGRADE_REQUIRED, headers, self.to_string()).into_response();
            }
            UpgradeRejection::NotUpgradable => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Upgrade {
    type Rejection = UpgradeRejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Upgrade, UpgradeRejection> {
        if parts.method != Method::GET || parts.version != Version::HTTP_11 {
            return Err(UpgradeRejection::Method);
        }
        let headers = &parts.headers;
        if !names(headers, CONNECTION, "upgrade") || !names(headers, UPGRADE, "websocket") {
            return Err(UpgradeRejection::NotAsked);
        }
        if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
            return Err(UpgradeRejection::Version);
        }
        let key =
            headers.get(SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes())).ok_or(UpgradeRejection::NotAsked)?;
        // It is base64, which a header may have.
        let accept = derive_accept_key(key.as_bytes()).parse().map_err(|_| UpgradeRejection::NotAsked)?;
        let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().cloned().collect();
        let on_upgrade = parts.extensions.remove::<OnUpgrade>().ok_or(UpgradeRejection::NotUpgradable)?;
        Ok(Upgrade { on_upgrade, accept, offered, protocol: None, limit: 16 << 20 })
    }
}

/// Whether it is sixteen bytes in base64 (RFC 6455, 4.2.1).
fn is_key(key: &[u8]) -> bool {
    let is_digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.strip_suffix(b"==").is_some_and(|digits| digits.iter().all(is_digit))
}

/// Whether a header that is a list has this in it.
fn names(headers: &HeaderMap, header: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(header).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(wanted))
}
