//! Which HTTP a fresh connection speaks. Its first bytes are read here and not by hyper: until they tell, the connection
//! rests, whatever part of them is there, and can be passed like any other.

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Options;
use super::connection::{Resting, Watch};
use super::sealed::Transport;
use crate::phase::Phase;

/// What a client of HTTP/2 says before anything else (RFC 9113, 3.4); no request of HTTP/1 begins so.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is to be done with a connection; what was read of it is unread still.
pub(super) enum Told {
    Http1,
    Http2,
    /// Nothing was told yet, and the new process takes it from here.
    Pass,
    /// It failed, or the time is up.
    Over,
}

/// Reads until it is known which version the client speaks.
pub(super) async fn read<I: Transport>(resting: &mut Resting<I>, watch: &mut Watch, options: Options) -> Told {
    std::future::poll_fn(|cx| poll(resting, cx, watch, options)).await
}

fn poll<I: AsyncRead + Unpin>(
    resting: &mut Resting<I>,
    cx: &mut Context<'_>,
    watch: &mut Watch,
    _options: Options,
) -> Poll<Told> {
    let phase = watch.phase(cx);
    if phase >= Phase::Cut {
        return Poll::Ready(Told::Over);
    }
    if watch.is_passing() {
        return Poll::Ready(Told::Pass);
    }
    #[cfg(test)]
    watch.is_to_rebuild(phase, _options);
    // Once hyper has it, HTTP/2 is not passed.
    if matches!(phase, Phase::Starting | Phase::Frozen) {
        return Poll::Pending;
    }
    loop {
        match resting.unread.strip_prefix(PREFACE) {
            Some(_) => return Poll::Ready(Told::Http2),
            None if !PREFACE.starts_with(&resting.unread) => return Poll::Ready(Told::Http1),
            None => {}
        }
        // As much as is there, so that a request costs no read more than without this.
        let mut room = [const { MaybeUninit::uninit() }; 4096];
        let mut buf = ReadBuf::uninit(&mut room);
        match ready!(Pin::new(&mut resting.io).poll_read(cx, &mut buf)) {
            // Of an end in the middle hyper makes what it makes of any.
            Ok(()) if buf.filled().is_empty() => return Poll::Ready(Told::Http1),
            Ok(()) => resting.unread = [&resting.unread, buf.filled()].concat().into(),
            Err(error) => {
                tracing::trace!(%error, "connection failed");
                return Poll::Ready(Told::Over);
            }
        }
    }
}
