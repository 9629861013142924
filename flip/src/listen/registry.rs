//! The listeners of one process: which were inherited, which are bound, and what becomes of them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::stat::fstat;
use socket2::{Domain, SockAddr, SockRef, Socket};

use super::address::Address;
use super::error::{ListenError, ListenErrorKind};
use super::holder;
use super::kind::{Fd, Kind, unix_sockaddr};
use super::named::{Fields, Manner, Named, Offered, Slot};
use super::options::{Drift, ListenOptions, drift};
use super::passed::{self, Passed};
use super::path::{self, Lock, Owned, PathInode};
use super::stored;
use crate::log::say;
use crate::phase::Phase;
use crate::shared::{MainTurn, Shared};

/// A socket that the old process gave.
#[derive(Debug)]
pub(crate) struct InheritedSocket {
    pub(crate) offered: Offered,
    pub(crate) fd: OwnedFd,
}

impl InheritedSocket {
    /// Where it is bound, as clients know it: a socket that was renamed to its path still says the name that it was bound
    /// to.
    fn local(&self) -> io::Result<SockAddr> {
        match (self.offered.bound, &self.offered.path) {
            (Some(at), _) => Ok(at.into()),
            (None, Some(path)) => SockAddr::unix(path.path()),
            (None, None) => match self.offered.address.parse() {
                Ok(address @ Address::Abstract(_)) => unix_sockaddr(&address),
                _ => SockRef::from(&self.fd).local_addr(),
            },
        }
    }
}

/// A socket on its way to the new process. It stays open until this is dropped, closed listener or not.
pub(crate) struct Outgoing {
    pub(crate) offered: Offered,
    fd: Arc<Fd>,
}

impl AsFd for Outgoing {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What became of the sockets when this process began to serve.
#[derive(Debug, Default)]
pub(crate) struct Started {
    /// Listeners that cannot listen after all.
    pub(crate) failed: Vec<ListenError>,
    /// Inherited ones that nobody asked for, which are closed.
    pub(crate) closed: Vec<String>,
}

/// The named listeners of one process.
pub struct Listeners {
    shared: Arc<Shared>,
    /// The process that serves until this one does.
    predecessor: Option<u32>,
    /// What the predecessor holds, claimed or not.
    theirs: Theirs,
    /// By which names the process before has put its own into a store of descriptors.
    stored_before: Mutex<Vec<String>>,
    /// That one has a name that the store does not take was said.
    pub(super) says_unstored: Once,
    state: Mutex<State>,
    /// Rung once, when nothing is accepted here any more, for threads in poll(2).
    alarm: OnceLock<EventFd>,
    /// The same for listeners that last.
    last_alarm: OnceLock<EventFd>,
}

#[derive(Default)]
struct Theirs {
    addresses: Vec<(Kind, SocketAddr)>,
    paths: Vec<PathInode>,
    /// Their sockets (proc(5), `/proc/<pid>/fd`).
    inodes: Vec<u64>,
}

#[derive(Default)]
struct State {
    /// Not asked for so far.
    inherited: Vec<Inherited>,
    named: Vec<Arc<Named>>,
    /// Names that are being bound at this moment.
    binding: Vec<(Arc<str>, u32)>,
    /// Paths whose listener was dropped before it could be known whether this process will serve.
    orphans: Vec<Owned>,
    /// What a service manager passed and nobody has asked for so far.
    passed: Vec<Passed>,
    /// All that it passed, for who asks for something else.
    passed_at_start: Vec<String>,
    drift: Vec<Drift>,
    managed: usize,
    /// A managed one that is gone was used before.
    used: bool,
    /// Dropped without having been used.
    unused: Vec<String>,
    /// One of these by a panic.
    panicked: bool,
    /// One of these by `main`, which has not gone on since: it may be failing.
    dropped_by_main: bool,
    /// A new process has an offer, and all that was in it: what goes here may be in use there.
    offered: bool,
    /// `listen` is called at once from here on.
    started: bool,
    closed: bool,
    handed_over: bool,
}

struct Inherited {
    offered: Offered,
    socket: Socket,
    local: SockAddr,
}

impl Listeners {
    /// `predecessor`: the pid of the old process, which serves until [`start`](Self::start); `None` at a cold start.
    ///
    /// # Errors
    /// A descriptor is no socket of the kind that it was offered as.
    pub(crate) fn new(
        shared: Arc<Shared>,
        inherited: Vec<InheritedSocket>,
        predecessor: Option<u32>,
    ) -> Result<Arc<Listeners>, ListenError> {
        let mut theirs = Theirs::default();
        let mut received = Vec::with_capacity(inherited.len());
        for inherited in inherited {
            let local = inherited.local();
            let InheritedSocket { offered, fd } = inherited;
            let failed = |source: io::Error| {
                ListenError::system(&offered.name, &offered.address, "taking over its socket", source)
            };
            let socket = Socket::from(fd);
            if !offered.kind.fits(&socket).map_err(failed)? {
                let what = format!("the old process gave something that is no {}", offered.kind);
                return Err(ListenError::asked(&offered.name, &offered.address, what));
            }
            // Nothing is inherited by a child of the user's; who sent it may not have asked for that.
            fcntl(&socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(|error| failed(error.into()))?;
            if !offered.blocking {
                // It should be already, on both sides at once. A runtime would stall if it were not.
                socket.set_nonblocking(true).map_err(failed)?;
            }
            let local = local.map_err(failed)?;
            theirs.inodes.push(fstat(&socket).map_err(|error| failed(error.into()))?.st_ino);
            theirs.addresses.extend(local.as_socket().map(|address| (offered.kind, address)));
            theirs.paths.extend(offered.path.clone());
            received.push(Inherited { offered, socket, local });
        }
        let stored_before = received.iter().filter_map(|one| stored::name(&one.offered)).collect();
        let state = State { inherited: received, started: predecessor.is_none(), ..State::default() };
        Ok(Arc::new(Listeners {
            shared,
            predecessor,
            theirs,
            stored_before: Mutex::new(stored_before),
            says_unstored: Once::new(),
            state: Mutex::new(state),
            alarm: OnceLock::new(),
            last_alarm: OnceLock::new(),
        }))
    }

    /// Those of a process without a predecessor: with what a service manager passed, each under its name. What an earlier process has
    /// left in its store is as if it had been handed over.
    pub(crate) fn cold(shared: Arc<Shared>, passed: Vec<(String, OwnedFd)>) -> Arc<Listeners> {
        let (ours, passed): (Vec<_>, Vec<_>) = passed.into_iter().partition(|(name, _)| name.starts_with(stored::OURS));
        let stored: Vec<_> = ours.iter().map(|(name, _)| name.clone()).collect();
        let inherited = ours.into_iter().filter_map(|(name, fd)| {
            restored(&name, fd)
                .map_err(|why| say!(warn, "`{name}` from the store of descriptors is not used: {why}"))
                .ok()
        });
        let listeners = Listeners::new(Arc::clone(&shared), inherited.collect(), None).unwrap_or_else(|error| {
            say!(warn, "what the store of descriptors has is not used: {}", crate::error::chain(&error));
            Listeners::new(shared, vec![], None).expect("nothing is inherited, so nothing can be wrong with it")
        });
        *listeners.stored_before.lock().unwrap_or_else(PoisonError::into_inner) = stored;
        let passed = Passed::sort(passed);
        {
            let mut state = listeners.state();
            state.passed_at_start = passed.iter().map(ToString::to_string).collect();
            state.passed = passed;
        }
        listeners
    }

    /// How many sockets there are for all listeners of this name, which are inherited or were passed.
    pub(super) fn count(&self, name: &str, address: &Address) -> u32 {
        let Address::Systemd(passed) = address else { return 1 };
        let state = self.state();
        let address = address.to_string();
        let inherited = state.inherited.iter().filter(|one| one.offered.name == name && one.offered.address == address);
        let inherited = inherited.map(|one| one.offered.index + 1).max().unwrap_or(0);
        inherited.max(u32::try_from(passed::named(&state.passed, passed).len()).unwrap_or(u32::MAX))
    }

    /// A cold start has all that it wants: what was passed besides is said once, and given up.
    pub(crate) fn close_unclaimed(&self) {
        for Inherited { offered, .. } in std::mem::take(&mut self.state().inherited) {
            say!(
                warn,
                "the store of descriptors has the listener `{}` at {}, and nobody asks for it any more",
                offered.label(),
                offered.address
            );
            if let Some(path) = &offered.path {
                unlink(path);
            }
        }
        for passed in std::mem::take(&mut self.state().passed) {
            say!(
                warn,
                "{passed} was passed to this process, and no listener asks for it: write \"systemd:<name>\" as its address"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The listener of this name, inherited if the old process has one at this address, bound otherwise.
    ///
    /// # Errors
    /// The address does not fit the kind, is another listener's, is in use, or the system refuses it.
    pub(crate) fn bind(
        self: &Arc<Self>,
        kind: Kind,
        name: &str,
        address: Address,
        options: &ListenOptions,
        manner: Manner,
    ) -> Result<Arc<Named>, ListenError> {
        let fail = |step, error: io::Error| ListenError::system(name, &address, step, error);
        if let Some(why) = kind.refuses(&address) {
            return Err(ListenError::asked(name, &address, why));
        }
        let name_arc: Arc<str> = name.into();
        let key = (Arc::clone(&name_arc), options.index);

        // Resolving may take long, and so may a lock file: none of it under a lock that the control thread takes.
        let known = {
            let mut state = self.state();
            self.check_name(&state, &key, kind, &address)?;
            state.binding.push(key.clone());
            state.inherited.iter().any(|inherited| inherited.is(kind, name, &address))
        };
        let _binding = Binding { listeners: self, key };
        let resolved = match address.resolve() {
            Ok(resolved) => resolved,
            // It needs no name server to keep what it has.
            Err(_) if known => Vec::new(),
            Err(error) => return Err(fail("resolving it", error)),
        };
        let claimed = {
            let mut state = self.state();
            check_address(&state, name, kind, &address, &resolved)?;
            state.claim(kind, name, options.index, &address, &resolved)
        };

        let mut slots = Vec::new();
        let mut drifts = Vec::new();
        let theirs: Vec<_> = claimed.iter().take(1).map(|inherited| inherited.offered.label()).collect();
        for inherited in claimed {
            drifts.extend(report_drift(&name_arc, kind, &inherited, options));
            slots.push(self.adopt(inherited, kind, manner).map_err(|error| fail("taking over its socket", error))?);
        }
        drifts.dedup();
        let wanted = options.shards as usize;
        if slots.len() > wanted {
            say!(
                info,
                "the old process had {} shards of the listener `{name}`, more than the {wanted} asked for; all are kept, \
                 because closing one loses its queue",
                slots.len()
            );
        }
        let mut lock = None;
        if slots.is_empty()
            && let Address::Systemd(passed) = &address
        {
            slots.push(self.claim_passed(kind, name, passed, options)?);
        }
        if slots.is_empty() {
            let (slot, held) = self.bind_first(kind, name, &address, &resolved, options)?;
            slots.push(slot);
            lock = held;
        }
        if wanted > slots.len() && matches!(address, Address::Systemd(_)) {
            let what = "sockets that share a port are systemd's to make: write ReusePort=yes and several socket units, without `shards`";
            return Err(ListenError::asked(name, &address, what));
        }
        if wanted > slots.len() && !kind.is_ip() {
            return Err(ListenError::asked(name, &address, format!("a {kind} cannot have shards")));
        }
        let found = slots.len();
        if wanted > found && slots[0].inherited && !kind.accepts() && !self.state().started {
            // The old process's datagrams would come here while it still serves, and be lost with this process.
            say!(
                warn,
                "the old process had {found} shards of the listener `{name}`, and more of a socket that receives as soon as it is \
                 bound are made only at a start without an old process: it goes on with {found}, where {wanted} are asked for"
            );
        } else if wanted > found {
            // All that share an address must say so.
            for slot in &mut slots {
                slot.overlap_allowed = false;
                slot.fd.socket().set_reuse_port(true).map_err(|error| fail("setting SO_REUSEPORT", error))?;
            }
            let at = slots[0].local.clone();
            while slots.len() < wanted {
                let socket = self
                    .bind_ip(kind, &at, options, true)
                    .map_err(|(step, error)| self.refused(kind, name, &address, at.as_socket(), step, error))?;
                slots.push(Slot::new(Fd::new(kind, socket.into()), at.clone(), None, false));
            }
        }

        let mut state = self.state();
        // A bare one listens at once: what its user does with it is not known here.
        if state.started || manner != Manner::Managed {
            for slot in &mut slots {
                begin(slot, kind, options.listen_backlog(), manner, state.started)
                    .map_err(|(step, error)| self.refused(kind, name, &address, slot.local.as_socket(), step, error))?;
            }
        }
        drop(lock);
        let local = slots[0].local.clone();
        let named = Arc::new(Named::new(
            Fields {
                name: name_arc,
                index: options.index,
                kind,
                address: address.clone(),
                manner,
                backlog: options.listen_backlog(),
                lasting: options.lasting,
                shared: Arc::clone(&self.shared),
                registry: Arc::downgrade(self),
            },
            slots,
            local,
        ));
        if manner == Manner::Managed {
            state.managed += 1;
            if kind.accepts() {
                self.shared.arrivals.expect(&named.label(), theirs);
            }
        }
        state.drift.extend(drifts);
        if state.closed {
            named.close();
        }
        state.named.push(Arc::clone(&named));
        Ok(named)
    }

    fn check_name(
        &self,
        state: &State,
        key: &(Arc<str>, u32),
        kind: Kind,
        address: &Address,
    ) -> Result<(), ListenError> {
        let taken = state.named.iter().any(|named| (&named.name, named.index) == (&key.0, key.1));
        if taken || state.binding.contains(key) {
            let what = format!("two listeners have this name; give this {kind} one of its own");
            return Err(ListenError::asked(&key.0, address, what));
        }
        Ok(())
    }

    /// A socket of the old process, made ours.
    fn adopt(&self, inherited: Inherited, kind: Kind, manner: Manner) -> io::Result<Slot> {
        let Inherited { offered, socket, local } = inherited;
        let listening = !kind.accepts() || socket.is_listener()?;
        if offered.blocking && manner == Manner::Bare {
            // A runtime panics or stalls on a blocking socket, and it is the old process's choice no more.
            say!(
                warn,
                "the old process uses the socket of the listener `{}` as a blocking one; it is made non-blocking for both",
                offered.name
            );
            socket.set_nonblocking(true)?;
        }
        if !offered.blocking && manner == Manner::BareBlocking {
            say!(
                warn,
                "the old process uses the socket of the listener `{}` as a non-blocking one, and until this one serves it \
                 stays so for both",
                offered.name
            );
        }
        let path = offered.path.clone().map(Owned::inherited);
        if let Some(path) = &path
            && !path.inode.is_in_place()
        {
            say!(
                warn,
                "somebody removed or replaced the path of the listener `{}`, {}: nobody can connect to it any more",
                offered.name,
                path.inode.path().display()
            );
        }
        let mut slot = Slot::new(Fd::new(kind, socket.into()), local, path, listening);
        slot.inherited = true;
        slot.overlap_allowed = offered.overlap_allowed;
        Ok(slot)
    }

    /// What was passed under a name, if it is what it should be.
    fn claim_passed(&self, kind: Kind, name: &str, passed: &str, options: &ListenOptions) -> Result<Slot, ListenError> {
        let address = Address::Systemd(passed.to_owned());
        let asked = |what: String| ListenError::asked(name, &address, what);
        let mut state = self.state();
        let at = passed::named(&state.passed, passed);
        let first = match at[..] {
            [] if self.predecessor.is_some() => {
                return Err(asked(
                    "the running process has no listener of this name that was passed to it, and only a first process can be \
                     passed one: stop the service and start it again"
                        .to_owned(),
                ));
            }
            [] => return Err(asked(passed::missing(passed, &state.passed_at_start))),
            [_, _, ..] if !options.several => {
                let sockets: Vec<_> = at.iter().map(|at| state.passed[*at].to_string()).collect();
                let what =
                    format!("{} were passed: ask for a Vec, or give each a FileDescriptorName=", sockets.join(", "));
                return Err(asked(what));
            }
            [first, ..] => first,
        };
        state.passed[first].check(kind).map_err(asked)?;
        let Passed { socket, local, .. } = state.passed.remove(first);
        Ok(Slot::new(Fd::new(kind, socket.into()), local, None, kind.accepts()))
    }

    fn bind_first(
        &self,
        kind: Kind,
        name: &str,
        address: &Address,
        resolved: &[SocketAddr],
        options: &ListenOptions,
    ) -> Result<(Slot, Option<Lock>), ListenError> {
        match address {
            Address::Ip(_) | Address::Host(_) => {
                let mut refused = None;
                for at in resolved {
                    let overlaps = self.overlaps(kind, *at);
                    if overlaps && !kind.accepts() && !self.state().started {
                        let why = "it overlaps with an address of the old process, which would lose what is sent there before this \
                                   one serves: a datagram socket receives as soon as it is bound; stop and start for this change";
                        refused = Some(ListenError::asked(name, address, why));
                        continue;
                    }
                    if overlaps && self.predecessor.is_none() {
                        self.share_stored(kind, *at);
                    }
                    let shared = options.shards > 1 || overlaps;
                    match self.bind_ip(kind, &(*at).into(), options, shared) {
                        Ok(socket) => {
                            let slot = self
                                .slot(kind, socket, None)
                                .map_err(|error| ListenError::system(name, address, "getsockname(2)", error))?;
                            return Ok((slot, None));
                        }
                        Err((step, error)) => {
                            refused = Some(self.refused(kind, name, address, Some(*at), step, error));
                        }
                    }
                }
                Err(refused.unwrap_or_else(|| ListenError::asked(name, address, "it resolves to nothing")))
            }
            Address::Unix(path) => {
                let theirs = |path: &Path| self.theirs.paths.iter().any(|at| at.is_at(path) && at.is_in_place());
                let (socket, owned, lock) =
                    path::bind(kind, path, options, theirs).map_err(|refused| match refused {
                        path::Refused::Asked(what) => ListenError::asked(name, address, what),
                        path::Refused::Live(who) => {
                            let holder = format!(
                                "{who}; {}",
                                holder::of(kind, address, None, self.predecessor, &self.theirs.inodes)
                            );
                            ListenError {
                                name: name.to_owned(),
                                address: address.to_string(),
                                kind: ListenErrorKind::InUse { holder },
                                source: None,
                            }
                        }
                        path::Refused::System(step, error) => self.refused(kind, name, address, None, step, error),
                    })?;
                let slot = self
                    .slot(kind, socket, Some(owned))
                    .map_err(|error| ListenError::system(name, address, "getsockname(2)", error))?;
                Ok((slot, Some(lock)))
            }
            // Passed, or an error, before it comes to this.
            Address::Systemd(passed) => Err(ListenError::asked(name, address, passed::missing(passed, &[]))),
            Address::Abstract(_) => {
                let bound = unix_sockaddr(address).map_err(|error| ("reading it", error)).and_then(|at| {
                    let socket = kind.open(Domain::UNIX).map_err(|error| ("socket(2)", error))?;
                    options.apply(&socket).map_err(|error| ("setting its options", error))?;
                    socket.bind(&at).map_err(|error| ("bind(2)", error))?;
                    self.slot(kind, socket, None).map_err(|error| ("getsockname(2)", error))
                });
                let slot = bound.map_err(|(step, error)| self.refused(kind, name, address, None, step, error))?;
                Ok((slot, None))
            }
        }
    }

    fn slot(&self, kind: Kind, socket: Socket, path: Option<Owned>) -> io::Result<Slot> {
        // A socket that is renamed to its path still says the name that it was bound to.
        let local = match &path {
            Some(owned) => SockAddr::unix(owned.inode.path()).or_else(|_| socket.local_addr())?,
            None => socket.local_addr()?,
        };
        Ok(Slot::new(Fd::new(kind, socket.into()), local, path, false))
    }

    fn bind_ip(
        &self,
        kind: Kind,
        at: &SockAddr,
        options: &ListenOptions,
        reuse_port: bool,
    ) -> Result<Socket, (&'static str, io::Error)> {
        let socket = kind.open(at.domain()).map_err(|error| ("socket(2)", error))?;
        if kind == Kind::Tcp {
            // As std and tokio do: connections of an earlier process in TIME_WAIT do not matter (socket(7)).
            socket.set_reuse_address(true).map_err(|error| ("setting SO_REUSEADDR", error))?;
        }
        if reuse_port {
            socket.set_reuse_port(true).map_err(|error| ("setting SO_REUSEPORT", error))?;
        }
        options.apply(&socket).map_err(|error| ("setting its options", error))?;
        socket.bind(at).map_err(|error| ("bind(2)", error))?;
        Ok(socket)
    }

    /// A listener of another address than before: what a store still holds at the old one would be in its way until it is taken out.
    fn share_stored(&self, kind: Kind, at: SocketAddr) {
        let is_there = |one: &&Inherited| {
            one.offered.kind == kind && one.local.as_socket().is_some_and(|local| holder::overlap(local, at))
        };
        for Inherited { offered, socket, .. } in self.state().inherited.iter().filter(is_there) {
            if let Err(error) = socket.set_reuse_port(true) {
                say!(warn, "cannot set SO_REUSEPORT for the listener `{}` in the store: {error}", offered.label());
            }
        }
    }

    /// The old process listens there too, at this address or at one that includes it.
    fn overlaps(&self, kind: Kind, at: SocketAddr) -> bool {
        self.theirs.addresses.iter().any(|(theirs, address)| *theirs == kind && holder::overlap(*address, at))
    }

    fn refused(
        &self,
        kind: Kind,
        name: &str,
        address: &Address,
        resolved: Option<SocketAddr>,
        step: &'static str,
        error: io::Error,
    ) -> ListenError {
        if error.raw_os_error() == Some(Errno::EADDRINUSE as i32) {
            let holder = holder::of(kind, address, resolved, self.predecessor, &self.theirs.inodes);
            return ListenError {
                name: name.to_owned(),
                address: address.to_string(),
                kind: ListenErrorKind::InUse { holder },
                source: Some(error.into()),
            };
        }
        // ip(7): ip_unprivileged_port_start; a listener that is handed over needs no leave.
        let is_low = resolved.is_some_and(|at| (1..1024).contains(&at.port()));
        let step = if is_low && error.raw_os_error() == Some(Errno::EACCES as i32) {
            "to bind a port below 1024 takes CAP_NET_BIND_SERVICE (AmbientCapabilities= in the unit, or a socket unit); bind(2)"
        } else {
            step
        };
        ListenError::system(name, address, step, error)
    }

    /// This process serves: what it bound listens, with the backlog that is asked for, and what nobody asked for is closed.
    /// Once; it never blocks.
    pub(crate) fn start(&self) -> Started {
        let mut started = Started::default();
        let mut state = self.state();
        if std::mem::replace(&mut state.started, true) {
            return started;
        }
        let State { inherited, named, orphans, .. } = &mut *state;
        for named in named.iter() {
            for slot in &mut named.slots().open {
                if let Err((step, error)) = begin(slot, named.kind, named.backlog, named.manner, true) {
                    let at = slot.local.as_socket();
                    started.failed.push(self.refused(named.kind, &named.name, &named.address, at, step, error));
                }
                forbid(named, slot);
            }
        }
        for Inherited { offered, socket, local } in inherited.drain(..) {
            if let Some(path) = &offered.path {
                unlink(path);
            }
            let heir = named.iter().find(|named| {
                named.manner == Manner::Managed && *named.name == *offered.name && named.kind == offered.kind
            });
            match heir {
                // Its name goes on at another address: who is in its queue is still served, by whoever has the name.
                Some(heir) if offered.kind.accepts() => {
                    // Whoever hears this may accept from it before: it must not block.
                    if socket.set_nonblocking(true).is_ok() {
                        let mut slot = Slot::new(Fd::new(offered.kind, socket.into()), local, None, true);
                        slot.leftover = true;
                        heir.slots().open.push(slot);
                    }
                }
                _ => {
                    say!(
                        warn,
                        "the old process had the listener `{}` at {}, and nobody asks for it any more: it is closed",
                        offered.label(),
                        offered.address
                    );
                    started.closed.push(offered.label());
                }
            }
        }
        for orphan in orphans.drain(..) {
            unlink(&orphan.inode);
        }
        started
    }

    /// What goes to the new process.
    pub(crate) fn offer(&self) -> Vec<Outgoing> {
        let state = self.state();
        let mut offered = Vec::new();
        for named in &state.named {
            let slots = named.slots();
            for (shard, slot) in slots.open.iter().filter(|slot| !slot.leftover).enumerate() {
                offered.push(Outgoing {
                    offered: Offered {
                        name: named.name.to_string(),
                        index: named.index,
                        shard: shard as u32,
                        kind: named.kind,
                        address: named.address.to_string(),
                        bound: slot.local.as_socket(),
                        path: slot.path.as_ref().map(|path| path.inode.clone()),
                        blocking: named.manner == Manner::BareBlocking,
                        overlap_allowed: slot.overlap_allowed,
                    },
                    fd: Arc::clone(&slot.fd),
                });
            }
        }
        offered
    }

    /// What belongs into a service manager's store of descriptors, each by its name: what the manager has not made itself.
    pub(crate) fn to_store(&self) -> Vec<(String, Outgoing)> {
        let ours =
            self.offer().into_iter().filter(|one| !matches!(one.offered.address.parse(), Ok(Address::Systemd(_))));
        let named = |one: Outgoing| match stored::name(&one.offered) {
            Some(name) => Some((name, one)),
            None => {
                let (label, address) = (one.offered.label(), &one.offered.address);
                self.says_unstored.call_once(|| {
                    say!(
                        warn,
                        "the listener `{label}` at {address} is not stored: with its address its name is too long for a store \
                         of descriptors; a process that dies leaves it to nobody"
                    );
                });
                None
            }
        };
        ours.filter_map(named).collect()
    }

    /// By which names something of the process before lies in that store.
    pub(crate) fn stored_before(&self) -> Vec<String> {
        std::mem::take(&mut *self.stored_before.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What nobody has asked for yet, for a process that begins again.
    pub(crate) fn take_unclaimed(&self) -> Vec<InheritedSocket> {
        let inherited = std::mem::take(&mut self.state().inherited);
        inherited
            .into_iter()
            .map(|Inherited { offered, socket, .. }| InheritedSocket { offered, fd: socket.into() })
            .collect()
    }

    /// Lets the new process bind what overlaps an address of this one, until [`forbid_overlap`](Self::forbid_overlap):
    /// that needs SO_REUSEPORT on both (socket(7)).
    pub(crate) fn allow_overlap(&self) {
        self.state().offered = true;
        self.each_ip_slot(|named, slot| {
            let socket = slot.fd.socket();
            match socket.reuse_port() {
                Ok(true) => {}
                _ => match socket.set_reuse_port(true) {
                    Ok(()) => slot.overlap_allowed = true,
                    Err(error) => say!(warn, "cannot set SO_REUSEPORT for the listener `{}`: {error}", named.name),
                },
            }
        });
    }

    /// After a roll-back: nobody else may bind there again, and paths go whose listener did so meanwhile.
    pub(crate) fn forbid_overlap(&self) {
        let orphans = {
            let mut state = self.state();
            state.offered = false;
            std::mem::take(&mut state.orphans)
        };
        orphans.iter().for_each(|path| unlink(&path.inode));
        self.each_ip_slot(forbid);
    }

    fn each_ip_slot(&self, mut change: impl FnMut(&Named, &mut Slot)) {
        // What was passed is not ours alone, and its options are its owner's.
        let is_ours = |named: &&Arc<Named>| named.kind.is_ip() && !matches!(named.address, Address::Systemd(_));
        for named in self.state().named.iter().filter(is_ours) {
            for slot in &mut named.slots().open {
                change(named, slot);
            }
        }
    }

    /// Handed over, or stopping: every listening descriptor of this process is closed, whoever still holds a face. Call it
    /// after the phase says so, and again where some last. Datagram sockets can send until they are dropped. Bare ones are
    /// their users'.
    pub(crate) fn close(&self) {
        let (named, unclaimed) = {
            let mut state = self.state();
            state.closed = true;
            state.handed_over |= self.shared.phase.get() == Phase::HandedOff;
            let State { named, orphans, .. } = &mut *state;
            let lasts = self.shared.lasting.is_open();
            let ends: Vec<_> = named.iter().filter(|named| !(lasts && named.lasting)).cloned().collect();
            for named in &ends {
                // Whether they go is said by `unlink_owned`.
                orphans.extend(named.slots().open.iter_mut().filter_map(|slot| slot.path.take()));
            }
            (ends, std::mem::take(&mut state.inherited))
        };
        for named in named {
            named.close();
        }
        drop(unclaimed);
        self.wake();
    }

    /// The service ends: paths go that still are our own sockets. Call it after [`close`](Self::close); it does nothing in a
    /// process that has handed over, or that never served.
    pub(crate) fn unlink_owned(&self) {
        let mut state = self.state();
        if state.started && !state.handed_over {
            for path in state.orphans.drain(..) {
                unlink(&path.inode);
            }
        }
    }

    /// Wakes threads that wait in poll(2) for a connection, once this process will accept none any more.
    pub(crate) fn wake(&self) {
        let leaving = self.state().closed || self.shared.phase.get().is_leaving();
        let last = leaving && !self.shared.lasting.is_open();
        for alarm in [(leaving, &self.alarm), (last, &self.last_alarm)] {
            if let (true, Some(alarm)) = (alarm.0, alarm.1.get()) {
                // It fails only when its counter is full, and then it rings already.
                let _ = alarm.write(1);
            }
        }
    }

    /// Readable from the end of accepting on, and never reset; `lasting`: on listeners that last.
    pub(super) fn alarm(&self, lasting: bool) -> io::Result<&EventFd> {
        let alarm = if lasting { &self.last_alarm } else { &self.alarm };
        if let Some(alarm) = alarm.get() {
            return Ok(alarm);
        }
        let made = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        // Another thread may have been faster; either is as good.
        Ok(alarm.get_or_init(|| made))
    }

    /// Every managed listener was used once or dropped, and one was used, if there are any: a program that fails on its way
    /// drops all of them.
    pub(crate) fn all_polled(&self) -> bool {
        let state = self.state();
        let any_used =
            state.used || state.named.iter().any(|named| named.manner == Manner::Managed && named.is_polled());
        let all_polled = state.named.iter().all(|named| named.is_polled());
        all_polled && !state.panicked && !state.dropped_by_main && (any_used || state.managed == 0)
    }

    /// What `main` dropped so far counts as dropped; says whether anything did not before.
    pub(crate) fn main_goes_on(&self) -> bool {
        std::mem::take(&mut self.state().dropped_by_main)
    }

    /// Those that nobody waits on yet.
    pub(crate) fn unpolled(&self) -> Vec<String> {
        let state = self.state();
        let unpolled = state.named.iter().filter(|named| !named.is_polled()).map(|named| named.label());
        let dropped = state.unused.iter().map(|label| format!("{label} (dropped unused)"));
        unpolled.chain(dropped).collect()
    }

    /// Where they listen, in the order in which `main` asked for them.
    pub(crate) fn places(&self) -> Vec<String> {
        let place = |named: &Arc<Named>| match named.local().as_socket() {
            Some(address) => address.to_string(),
            None => named.address.to_string(),
        };
        let mut places: Vec<_> = self.state().named.iter().map(place).collect();
        // Several sockets of one address.
        places.dedup();
        places
    }

    /// How many managed listeners were ever asked for.
    pub(crate) fn managed(&self) -> usize {
        self.state().managed
    }

    /// Inherited ones that nobody asked for, so far; [`start`](Self::start) closes them.
    #[cfg(test)]
    pub(super) fn unclaimed(&self) -> Vec<String> {
        let mut names: Vec<_> = self.state().inherited.iter().map(|inherited| inherited.offered.label()).collect();
        names.dedup();
        names
    }

    /// Options that inherited sockets do not have as they are asked for.
    #[cfg(test)]
    pub(super) fn drift(&self) -> Vec<Drift> {
        self.state().drift.clone()
    }

    /// How many sockets are open.
    #[cfg(test)]
    pub(super) fn sockets(&self) -> usize {
        self.state().named.iter().map(|named| named.slots().open.len()).sum()
    }

    /// A face is dropped.
    pub(super) fn left(&self, named: &Arc<Named>) {
        let mut state = self.state();
        state.named.retain(|other| !Arc::ptr_eq(other, named));
        if named.manner == Manner::Managed {
            if named.is_polled() {
                state.used = true;
            } else {
                state.unused.push(named.label());
                state.panicked |= std::thread::panicking();
                state.dropped_by_main |= MainTurn::is_now();
            }
        }
        let paths: Vec<_> = named.slots().open.iter_mut().filter_map(|slot| slot.path.take()).collect();
        match (state.started && !state.closed && !state.offered, self.shared.phase.get()) {
            // Nobody will listen there any more.
            (true, Phase::Serving | Phase::Frozen) => paths.iter().for_each(|path| unlink(&path.inode)),
            // The old process may still go on with it, or the new one has it.
            _ => state.orphans.extend(paths),
        }
    }
}

/// A listener that lay in a store, if it still is what its name says.
fn restored(name: &str, fd: OwnedFd) -> Result<InheritedSocket, String> {
    let offered = stored::parse(name).ok_or("this release does not know what it is")?;
    let socket = Socket::from(fd);
    if !offered.kind.fits(&socket).map_err(|error| error.to_string())? {
        return Err(format!("it is no {}", offered.kind));
    }
    if offered.path.as_ref().is_some_and(|path| !path.is_in_place()) {
        return Err("its path leads to it no longer".to_owned());
    }
    Ok(InheritedSocket { offered, fd: socket.into() })
}

fn report_drift(name: &Arc<str>, kind: Kind, inherited: &Inherited, options: &ListenOptions) -> Vec<Drift> {
    let drifts = drift(name, kind, &inherited.socket, options).map(|mut drifts| {
        if let (Some(wanted), Some(found)) = (options.mode, inherited.offered.path.as_ref().and_then(PathInode::mode))
            && wanted != found
        {
            let (wanted, found) = (format!("{wanted:#o}"), format!("{found:#o}"));
            drifts.push(Drift { name: Arc::clone(name), option: "mode", wanted, found });
        }
        drifts
    });
    match drifts {
        Ok(drifts) => {
            for Drift { name, option, wanted, found } in &drifts {
                say!(
                    warn,
                    "the inherited socket of the listener `{name}` keeps the options it was bound with: {option} is {found}, \
                     and {wanted} is asked for; stop and start to change it"
                );
            }
            drifts
        }
        Err(error) => {
            say!(
                warn,
                "whether the inherited socket of the listener `{name}` has the options that are asked for cannot be told: \
                 {error}"
            );
            Vec::new()
        }
    }
}

/// From here on clients reach this socket; `started`: and no other process's is concerned.
fn begin(
    slot: &mut Slot,
    kind: Kind,
    backlog: i32,
    manner: Manner,
    started: bool,
) -> Result<(), (&'static str, io::Error)> {
    let blocking = manner == Manner::BareBlocking;
    if started || !slot.inherited {
        // Not earlier for an inherited one: the flag is of the open file description, which the old process uses too.
        slot.fd.socket().set_nonblocking(!blocking).map_err(|error| ("setting O_NONBLOCK", error))?;
    }
    if kind.accepts() && (started || !slot.listening) {
        // Again for one that listens already: the backlog may be another one (listen(2)).
        slot.fd.socket().listen(backlog).map_err(|error| ("listen(2)", error))?;
        slot.listening = true;
    }
    if let (true, Some(path)) = (started, &mut slot.path) {
        path.publish().map_err(|error| ("renaming over its path", error))?;
    }
    Ok(())
}

/// Takes SO_REUSEPORT back where it was set for a handoff.
fn forbid(named: &Named, slot: &mut Slot) {
    if std::mem::take(&mut slot.overlap_allowed)
        && let Err(error) = slot.fd.socket().set_reuse_port(false)
    {
        say!(warn, "cannot unset SO_REUSEPORT for the listener `{}`: {error}", named.name);
    }
}

fn unlink(path: &PathInode) {
    if let Err(error) = path.unlink() {
        say!(warn, "cannot remove the path of a Unix socket, {}: {error}", path.path().display());
    }
}

/// The address belongs to no other listener of this process. What overlaps across IPv4 and IPv6 is left to the kernel, because
/// IPV6_V6ONLY decides it.
fn check_address(
    state: &State,
    name: &str,
    kind: Kind,
    address: &Address,
    resolved: &[SocketAddr],
) -> Result<(), ListenError> {
    let same = |named: &&Arc<Named>| {
        // Of one name there may be several, and each is there once.
        named.kind == kind
            && !matches!(address, Address::Systemd(_))
            && match named.local().as_socket() {
                Some(local) => resolved.iter().any(|at| at.is_ipv4() == local.is_ipv4() && holder::overlap(*at, local)),
                None => named.address == *address,
            }
    };
    match state.named.iter().find(same) {
        Some(other) => {
            let what = match other.local().as_socket() {
                Some(at) => format!("the listener `{}` already has {at}", other.label()),
                None => format!("the listener `{}` already has this address", other.label()),
            };
            Err(ListenError::asked(name, address, what))
        }
        None => Ok(()),
    }
}

impl Inherited {
    /// By name and configured address: with port 0 it keeps the port it has.
    fn is(&self, kind: Kind, name: &str, address: &Address) -> bool {
        self.offered.kind == kind && self.offered.name == name && self.offered.address == address.to_string()
    }

    /// By where it is bound, whatever it was called or however the address was written.
    fn is_at(&self, kind: Kind, address: &Address, resolved: &[SocketAddr]) -> bool {
        self.offered.kind == kind
            && match address {
                Address::Ip(_) | Address::Host(_) => {
                    self.local.as_socket().is_some_and(|local| resolved.contains(&local))
                }
                Address::Unix(path) => self.offered.path.as_ref().is_some_and(|at| at.is_at(path)),
                Address::Abstract(_) | Address::Systemd(_) => self.offered.address == address.to_string(),
            }
    }
}

impl Offered {
    fn label(&self) -> String {
        if self.index == 0 { self.name.clone() } else { format!("{}[{}]", self.name, self.index) }
    }
}

impl State {
    /// Takes all shards of the inherited listener that this one continues.
    fn claim(
        &mut self,
        kind: Kind,
        name: &str,
        index: u32,
        address: &Address,
        resolved: &[SocketAddr],
    ) -> Vec<Inherited> {
        let named = |inherited: &&Inherited| inherited.is(kind, name, address);
        let found = (self.inherited.iter().find(|inherited| named(inherited) && inherited.offered.index == index))
            .or_else(|| self.inherited.iter().find(named))
            .or_else(|| self.inherited.iter().find(|inherited| inherited.is_at(kind, address, resolved)));
        let Some(found) = found else { return Vec::new() };
        let (name, index) = (found.offered.name.clone(), found.offered.index);
        let mut claimed: Vec<_> = self
            .inherited
            .extract_if(.., |one| one.offered.kind == kind && one.offered.name == name && one.offered.index == index)
            .collect();
        claimed.sort_by_key(|inherited| inherited.offered.shard);
        claimed
    }
}

/// A name stays reserved while its socket is bound.
struct Binding<'a> {
    listeners: &'a Listeners,
    key: (Arc<str>, u32),
}

impl Drop for Binding<'_> {
    fn drop(&mut self) {
        self.listeners.state().binding.retain(|key| *key != self.key);
    }
}
