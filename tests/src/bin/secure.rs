//! HTTP under TLS, with the certificate and the key that lie in its directory.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use flip::ws::Upgrade;
use flip::{Apply, BoxError, CallError, Handoff, Live, TcpListener};
use flip_tests::inside::{pass_gate, say, start};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::task::spawn_blocking;

#[derive(Default, Handoff)]
#[handoff(calls(Hit))]
struct Hits(u64);

#[derive(Handoff)]
struct Hit;

impl Apply<Hit> for Hits {
    type Answer = u64;
    fn apply(&mut self, _: Hit) -> u64 {
        self.0 += 1;
        self.0
    }
}

async fn hit(hits: Live<Hits>) -> Result<String, CallError> {
    Ok(hits.call(Hit).await?.to_string())
}

/// Is answered when the gate lets it.
async fn slow() -> String {
    say("is in slow");
    spawn_blocking(|| pass_gate("slow")).await.expect("a gate does not panic");
    std::process::id().to_string()
}

/// Says again what comes, as long as anything does.
async fn echo(upgrade: Upgrade) -> Response {
    upgrade.on_upgrade(async |mut socket| {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                break;
            }
        }
    })
}

fn config() -> Result<Arc<ServerConfig>, BoxError> {
    let chain = vec![CertificateDer::from(std::fs::read("certificate")?)];
    let key = PrivateKeyDer::try_from(std::fs::read("key")?)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[flip::main]
async fn main(
    #[with(config()?)] config: Arc<ServerConfig>,
    #[listen("127.0.0.1:0")] https: TcpListener,
    hits: Live<Hits>,
) -> Result<(), BoxError> {
    say(&format!("listens at {}", https.local_addr()?));
    if std::fs::read_to_string("start").is_ok_and(|what| what == "late") {
        hits.ready().await;
        return Err("the new one fails when it has the content".into());
    }
    start()?;
    say("is ready");
    let router = Router::new()
        .route("/hit", post(hit))
        .route("/slow", get(slow))
        .route("/echo", get(echo))
        .route("/pid", get(async || std::process::id().to_string()))
        .with_state(hits);
    let mut https = https.tls(config);
    if let Ok(millis) = std::env::var("HANDSHAKE") {
        https = https.handshake_timeout(Duration::from_millis(millis.parse()?));
    }
    flip::serve(https, router).await?;
    Ok(())
}
