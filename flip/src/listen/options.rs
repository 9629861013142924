//! How a listener listens, and whether an inherited one listens as it is asked to.

use std::fmt;
use std::io;
use std::sync::Arc;

use socket2::{Domain, Socket};

use super::kind::Kind;

type Configure = Arc<dyn Fn(&Socket) -> io::Result<()> + Send + Sync>;

/// How a listener listens.
///
/// ```
/// use flip::ListenOptions;
///
/// let options = ListenOptions::new()
///     .backlog(1024)
///     .shards(2)
///     .socket(|socket| socket.set_recv_buffer_size(1 << 20));
/// # let _ = options;
/// ```
#[derive(Clone)]
pub struct ListenOptions {
    pub(super) backlog: u32,
    pub(super) shards: u32,
    pub(super) mode: Option<u32>,
    pub(super) lasting: bool,
    pub(super) configure: Vec<Configure>,
    /// Which of the listeners of one name: the place in a `Vec`.
    pub(super) index: u32,
    /// All that were passed under one name are asked for.
    pub(super) several: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions {
            backlog: 4096,
            shards: 1,
            mode: None,
            lasting: false,
            configure: Vec::new(),
            index: 0,
            several: false,
        }
    }
}

impl ListenOptions {
    /// The defaults: a backlog of 4096, one shard, permissions as the umask leaves them, closed by a stop.
    pub fn new() -> ListenOptions {
        ListenOptions::default()
    }

    /// How many connections may wait to be accepted; 4096 by default, and never more than
    /// `/proc/sys/net/core/somaxconn` (listen(2)). It is applied to an inherited listener as well.
    pub fn backlog(mut self, connections: u32) -> ListenOptions {
        self.backlog = connections;
        self
    }

    /// How many sockets share the address through `SO_REUSEPORT` (socket(7)); 1 by default, which sets no such option.
    ///
    /// Each shard is handed over by its number, and the listener accepts from all of them. An old process that had more
    /// hands all over, and all are kept: closing one would lose the connections in its queue.
    pub fn shards(mut self, sockets: u32) -> ListenOptions {
        self.shards = sockets.max(1);
        self
    }

    /// The permissions of a Unix socket's path, such as `0o660`; by default what the umask leaves.
    pub fn mode(mut self, mode: u32) -> ListenOptions {
        self.mode = Some(mode & 0o7777);
        self
    }

    /// Whether a stop leaves this listener open until all others are done, so that health checks are answered meanwhile;
    /// no by default.
    ///
    /// It goes on accepting, and its connections are served as before, until nothing else of the service is open: no
    /// connection of another listener, no [guard](crate::Handle::guard), no datagram socket that has received, no earlier
    /// generation that drains; at most for `drain_timeout`. Then its `accept` gives `None` like any other. Nobody waits for its own
    /// connections: `flip::serve` closes those that rest, gives the others a second, and returns. A handler learns
    /// from [`Handle::draining`](crate::Handle::draining) that the service stops.
    ///
    /// In a handoff it changes nothing: there the new process accepts.
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")] mod program {
    /// # use axum::{http::StatusCode, routing::get, Router};
    /// async fn health(flip: flip::Handle) -> (StatusCode, String) {
    ///     match flip.draining() {
    ///         None => (StatusCode::OK, "serves".to_owned()),
    ///         Some(drain) => (StatusCode::SERVICE_UNAVAILABLE, drain.to_string()),
    ///     }
    /// }
    ///
    /// #[flip::main]
    /// async fn main(
    ///     #[listen("127.0.0.1:8080")] http: flip::TcpListener,
    ///     #[listen("127.0.0.1:9000", keep_accepting = true)] checks: flip::TcpListener,
    ///     flip: flip::Handle,
    /// ) -> std::io::Result<()> {
    ///     let checked = Router::new().route("/health", get(move || health(flip.clone())));
    ///     let served = Router::new().route("/", get(async || "hello\n"));
    ///     tokio::try_join!(flip::serve(http, served), flip::serve(checks, checked))?;
    ///     Ok(())
    /// }
    /// # }
    /// # fn main() {}
    /// ```
    pub fn keep_accepting(mut self, keep: bool) -> ListenOptions {
        self.lasting = keep;
        self
    }

    /// Sets options before the socket is bound. Called several times, all are applied, in order.
    ///
    /// A socket that is inherited keeps the options it was bound with; those that are asked for here and read otherwise
    /// there are logged as a warning. To change them, stop and start, or change the address.
    pub fn socket(mut self, configure: impl Fn(&Socket) -> io::Result<()> + Send + Sync + 'static) -> ListenOptions {
        self.configure.push(Arc::new(configure));
        self
    }

    pub(super) fn at(&self, index: u32) -> ListenOptions {
        ListenOptions { index, ..self.clone() }
    }

    pub(super) fn apply(&self, socket: &Socket) -> io::Result<()> {
        self.configure.iter().try_for_each(|configure| configure(socket))
    }

    pub(super) fn listen_backlog(&self) -> i32 {
        i32::try_from(self.backlog).unwrap_or(i32::MAX)
    }
}

impl fmt::Debug for ListenOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenOptions")
            .field("backlog", &self.backlog)
            .field("shards", &self.shards)
            .field("mode", &self.mode.map(|mode| format!("{mode:#o}")))
            .field("keep_accepting", &self.lasting)
            .field("configure", &self.configure.len())
            .finish()
    }
}

/// An option that an inherited socket does not have as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Drift {
    pub(crate) name: Arc<str>,
    pub(crate) option: &'static str,
    pub(crate) wanted: String,
    pub(crate) found: String,
}

/// Options of `found` that `options` asks for otherwise.
///
/// What is asked for shows on a scratch socket: there an option differs from its default only if it was set. What has no
/// safe reader (`TCP_DEFER_ACCEPT`, `TCP_FASTOPEN`, multicast memberships) is not compared.
pub(super) fn drift(name: &Arc<str>, kind: Kind, found: &Socket, options: &ListenOptions) -> io::Result<Vec<Drift>> {
    if options.configure.is_empty() {
        return Ok(Vec::new());
    }
    let domain = found.domain()?;
    let plain = scratch(kind, domain)?;
    let asked = scratch(kind, domain)?;
    options.apply(&asked)?;
    Ok(READERS
        .iter()
        .filter_map(|(option, read)| {
            // What this kind of socket does not have is not asked for.
            let (plain, wanted, found) = (read(&plain).ok()?, read(&asked).ok()?, read(found).ok()?);
            (wanted != plain && wanted != found).then(|| Drift { name: Arc::clone(name), option, wanted, found })
        })
        .collect())
}

fn scratch(kind: Kind, domain: Domain) -> io::Result<Socket> {
    let socket = kind.open(domain)?;
    if kind == Kind::Tcp {
        socket.set_reuse_address(true)?;
    }
    Ok(socket)
}

type Reader = fn(&Socket) -> io::Result<String>;

macro_rules! readers {
    ($($option:literal => $method:ident),* $(,)?) => {
        &[$(($option, |socket| Ok(format!("{:?}", socket.$method()?)))),*]
    };
}

const READERS: &[(&str, Reader)] = readers! {
    "SO_RCVBUF" => recv_buffer_size,
    "SO_SNDBUF" => send_buffer_size,
    "SO_REUSEADDR" => reuse_address,
    "SO_REUSEPORT" => reuse_port,
    "SO_KEEPALIVE" => keepalive,
    "SO_LINGER" => linger,
    "SO_BROADCAST" => broadcast,
    "SO_MARK" => mark,
    "SO_PRIORITY" => priority,
    "SO_BINDTODEVICE" => device,
    "SO_PASSCRED" => passcred,
    "SO_OOBINLINE" => out_of_band_inline,
    "SO_RCVTIMEO" => read_timeout,
    "SO_SNDTIMEO" => write_timeout,
    "SO_BUSY_POLL" => busy_poll,
    "TCP_NODELAY" => tcp_nodelay,
    "TCP_KEEPIDLE" => tcp_keepalive_time,
    "TCP_KEEPINTVL" => tcp_keepalive_interval,
    "TCP_KEEPCNT" => tcp_keepalive_retries,
    "TCP_MAXSEG" => tcp_mss,
    "TCP_USER_TIMEOUT" => tcp_user_timeout,
    "TCP_CORK" => tcp_cork,
    "TCP_QUICKACK" => tcp_quickack,
    "TCP_NOTSENT_LOWAT" => tcp_notsent_lowat,
    "TCP_CONGESTION" => tcp_congestion,
    "IP_TOS" => tos_v4,
    "IP_TTL" => ttl_v4,
    "IP_TRANSPARENT" => ip_transparent_v4,
    "IP_FREEBIND" => freebind_v4,
    "IP_MULTICAST_ALL" => multicast_all_v4,
    "IP_MULTICAST_IF" => multicast_if_v4,
    "IP_MULTICAST_LOOP" => multicast_loop_v4,
    "IP_MULTICAST_TTL" => multicast_ttl_v4,
    "IP_RECVTOS" => recv_tos_v4,
    "IPV6_V6ONLY" => only_v6,
    "IPV6_TCLASS" => tclass_v6,
    "IPV6_UNICAST_HOPS" => unicast_hops_v6,
    "IPV6_FREEBIND" => freebind_v6,
    "IPV6_TRANSPARENT" => ip_transparent_v6,
    "IPV6_MULTICAST_HOPS" => multicast_hops_v6,
    "IPV6_MULTICAST_LOOP" => multicast_loop_v6,
};
