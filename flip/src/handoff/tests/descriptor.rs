use std::{
    fs::File,
    io::{IoSlice, IoSliceMut, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::{
        fd::AsRawFd,
        unix::net::{UnixDatagram, UnixListener, UnixStream},
    },
    thread,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, UnixAddr, recvmsg, sendmsg},
};

use super::*;

/// What the runtime will do, over a stream socket pair.
struct Pair(UnixStream);

impl Sink for Pair {
    fn send(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &rights[..0] } else { &rights };
        let iov = [IoSlice::new(bytes)];
        let some = sendmsg::<UnixAddr>(self.0.as_raw_fd(), &iov, control, MsgFlags::empty(), None)?;
        self.0.write_all(&bytes[some..])
    }
}

impl Source for Pair {
    #[allow(unsafe_code)]
    fn receive(&mut self, bytes: &mut Vec<u8>, fds: &mut VecDeque<OwnedFd>) -> io::Result<usize> {
        use std::os::fd::FromRawFd as _;
        let mut some = vec![0; 10_000];
        let mut control = cmsg_space!([i32; DESCRIPTORS]);
        let mut iov = [IoSliceMut::new(&mut some)];
        let message =
            recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut iov, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(raw) = control {
                // SAFETY: recvmsg(2) has just made them, for this process and nobody else.
                fds.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
        }
        let count = message.bytes;
        bytes.extend_from_slice(&some[..count]);
        Ok(count)
    }
}

fn through_a_socket<T: Handoff + Sync>(value: &T) -> T {
    let (old, new) = UnixStream::pair().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || save(value, &mut Pair(old)).unwrap());
        let mut new = Pair(new);
        let mut input = Restorer::new(&mut new, Limits::default());
        let value = restore(&mut input).unwrap();
        input.finish().unwrap();
        value
    })
}

#[derive(Handoff)]
struct Session {
    peer: TcpStream,
    log: Option<File>,
    side: Vec<UnixStream>,
    name: String,
}

#[test]
fn connections_go_on_at_any_depth() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (peer, _) = listener.accept().unwrap();
    let (mut one, other) = UnixStream::pair().unwrap();
    let log = tempfile::tempfile().unwrap();
    let old = vec![Session { peer, log: Some(log), side: vec![other], name: "a".into() }];

    let mut new = through_a_socket(&old);
    drop(old);

    let session = &mut new[0];
    assert_eq!(session.name, "a");
    session.peer.write_all(b"still here").unwrap();
    let mut answer = [0; 10];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"still here");
    one.write_all(b"x").unwrap();
    session.side[0].read_exact(&mut answer[..1]).unwrap();
    session.log.as_mut().unwrap().write_all(b"written").unwrap();
}

#[test]
fn more_descriptors_than_one_message_holds() {
    let pairs: Vec<(UnixStream, UnixStream)> = (0..3).map(|_| UnixStream::pair().unwrap()).collect();
    let ends: Vec<OwnedFd> = (0..300).map(|at| pairs[at % 3].1.try_clone().unwrap().into()).collect();
    let new = through_a_socket(&ends);
    assert_eq!(new.len(), 300);
    for (at, end) in new.into_iter().enumerate() {
        UnixStream::from(end).write_all(&[at as u8]).unwrap();
        let mut byte = [0];
        (&pairs[at % 3].0).read_exact(&mut byte).unwrap();
        assert_eq!(byte, [at as u8], "descriptor {at} is another one");
    }
}

#[test]
fn a_descriptor_never_comes_after_its_number() {
    // So much between them that each message holds few; the source panics nowhere if one is late, the restorer refuses.
    let (one, _other) = UnixStream::pair().unwrap();
    let old: Vec<(Vec<u8>, OwnedFd)> =
        (0..20).map(|at| (vec![at; CHUNK / 3], one.try_clone().unwrap().into())).collect();
    assert_eq!(through_a_socket(&old).len(), 20);
    round_trip(&old);
}

#[test]
fn every_kind() {
    type All = (OwnedFd, File, TcpStream, TcpListener, UdpSocket, UnixStream, UnixListener, UnixDatagram);
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let old: All = (
        File::open("/dev/null").unwrap().into(),
        tempfile::tempfile().unwrap(),
        TcpStream::connect(address).unwrap(),
        listener,
        UdpSocket::bind("127.0.0.1:0").unwrap(),
        UnixStream::pair().unwrap().0,
        UnixListener::bind(dir.path().join("s")).unwrap(),
        UnixDatagram::unbound().unwrap(),
    );
    let new: All = through_a_socket(&old);
    assert_eq!(new.3.local_addr().unwrap(), address);
    assert_eq!(new.4.local_addr().unwrap(), old.4.local_addr().unwrap());
}

#[test]
fn a_descriptor_that_did_not_come_is_missed() {
    let mut kept = sent(&OwnedFd::from(File::open("/dev/null").unwrap()));
    kept.chunks[0].1.clear();
    let error = received::<OwnedFd>(kept).unwrap_err();
    assert_eq!(error.to_string(), "OwnedFd: descriptor 0 did not arrive");
}

#[test]
fn a_descriptor_that_nobody_asked_for_is_refused() {
    let mut kept = sent(&1u8);
    kept.chunks[0].1.push(File::open("/dev/null").unwrap().into());
    assert_eq!(received::<u8>(kept).unwrap_err().to_string(), "1 descriptors are left over");
}

#[test]
fn several_states_share_one_saver() {
    let (first, second) = (vec![1u8, 2], File::open("/dev/null").unwrap());
    let mut kept = Kept::default();
    let mut out = Saver::new(&mut kept);
    save_into(&first, &mut out).unwrap();
    save_into(&second, &mut out).unwrap();
    out.finish().unwrap();
    let mut input = Restorer::new(&mut kept, Limits::default());
    assert_eq!(restore::<Vec<u8>>(&mut input).unwrap(), first);
    restore::<File>(&mut input).unwrap();
    input.finish().unwrap();
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use std::os::fd::AsFd as _;

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use tokio::{io::Interest, runtime};

    use super::*;

    #[test]
    fn tokio_sockets_are_registered_again() {
        let runtime = runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let (blocking, mut far) = UnixStream::pair().unwrap();
        // Sent by a program that kept it blocking, so it is the restoring that must change it.
        let kept = sent(&blocking);
        let new: tokio::net::UnixStream = received(kept).unwrap();
        let flags = fcntl(new.as_fd(), FcntlArg::F_GETFL).unwrap();
        assert!(OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK));
        far.write_all(b"x").unwrap();
        let ready = runtime.block_on(new.ready(Interest::READABLE)).unwrap();
        assert!(ready.is_readable());

        let udp = runtime.block_on(tokio::net::UdpSocket::bind("127.0.0.1:0")).unwrap();
        assert_eq!(through_a_socket(&udp).local_addr().unwrap(), udp.local_addr().unwrap());
    }

    #[test]
    fn without_a_runtime_they_are_refused() {
        let kept = sent(&UnixStream::pair().unwrap().0);
        let error = received::<tokio::net::UnixStream>(kept).unwrap_err();
        assert_eq!(error.to_string(), "UnixStream: a socket of tokio's is restored outside of its runtime");
    }
}
