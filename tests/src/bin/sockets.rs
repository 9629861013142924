//! Listeners of every kind, where the file `places` in the working directory says: a name and an address a line. Whoever
//! sends a line, or a datagram, gets it back with the pid of the process and the listener's name.

use std::io;

use flip::{Handle, Shutdown, TcpListener, UdpSocket, UnixDatagram, UnixListener};
use flip_tests::inside::{answer, pass_gate, say, start};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::task::spawn_blocking;

struct Places(Vec<(String, String)>);

impl Places {
    fn read() -> io::Result<Places> {
        let text = std::fs::read_to_string("places")?;
        let split = |line: &str| line.split_once(' ').map(|(name, place)| (name.to_owned(), place.to_owned()));
        Ok(Places(text.lines().filter_map(split).collect()))
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.0.iter().filter(|(other, _)| other == name).map(|(_, place)| place.clone()).collect()
    }

    fn one(&self, name: &str) -> Option<String> {
        self.all(name).pop()
    }

    /// What the library that does not know flip does.
    fn bare(&self) -> io::Result<Vec<std::net::TcpListener>> {
        self.all("bare").into_iter().map(std::net::TcpListener::bind).collect()
    }
}

fn reply(name: &str, line: &str) -> String {
    format!("{} {name} {}", std::process::id(), line.trim_end())
}

/// The line `bye` closes the connection, this side first.
async fn talk(name: String, stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 0 {
        stream.write_all(format!("{}\n", reply(&name, &line)).as_bytes()).await?;
        if line == "bye\n" {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// Between two accepts, and between a datagram and its answer, the process can be held by a gate of its generation.
async fn gate(name: &str, generation: u64) {
    let gate = format!("{name}-{generation}");
    spawn_blocking(move || pass_gate(&gate)).await.expect("a gate does not panic");
}

#[flip::main(flavor = "current_thread")]
#[allow(clippy::too_many_arguments)]
async fn main(
    #[with(Places::read()?)] places: Places,
    #[with(places.bare()?)] bare: Vec<std::net::TcpListener>,
    #[with(places.one("shards").map_or(1, |number| number.parse().expect("a number")))] shards: u32,
    #[with(places.one("keepalive").is_some())] keepalive: bool,
    #[listen(places.one("tcp"), shards = shards, options = move |socket| socket.set_keepalive(keepalive))] tcp: Option<
        TcpListener,
    >,
    #[listen(places.all("more"))] more: Vec<TcpListener>,
    #[listen(places.one("unix"))] unix: Option<UnixListener>,
    #[listen(places.one("udp"))] udp: Option<UdpSocket>,
    #[listen(places.one("datagram"))] datagram: Option<UnixDatagram>,
    flip: Handle,
    shutdown: Shutdown,
) -> Result<(), flip::BoxError> {
    let generation = flip.generation();
    let tcp = tcp.into_iter().map(|listener| ("tcp".to_owned(), listener));
    let more = more.into_iter().enumerate().map(|(index, listener)| (format!("more{index}"), listener));
    let listeners: Vec<_> = tcp.chain(more).collect();
    for (name, listener) in &listeners {
        say(&format!("has {name} at {}", listener.local_addr()?));
    }
    if let Some(udp) = &udp {
        say(&format!("has udp at {}", udp.local_addr()?));
    }
    if !std::fs::read_to_string("start").is_ok_and(|what| what == "halfway") {
        start()?;
    }
    for (name, listener) in listeners {
        tokio::spawn(async move {
            while let Some((stream, _)) = listener.accept().await? {
                tokio::spawn(talk(name.clone(), stream));
                gate("accept", generation).await;
            }
            io::Result::Ok(())
        });
    }
    // The others are not in use yet.
    tokio::task::yield_now().await;
    if std::fs::read_to_string("start").is_ok_and(|what| what == "halfway") {
        return Err("the new one fails halfway".into());
    }
    if let Some(listener) = unix {
        tokio::spawn(async move {
            while let Some((stream, _)) = listener.accept().await? {
                tokio::spawn(talk("unix".to_owned(), stream));
            }
            io::Result::Ok(())
        });
    }
    if let Some(socket) = udp {
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Some((length, peer)) = socket.recv_from(&mut buffer).await? {
                gate("answer", generation).await;
                let text = reply("udp", &String::from_utf8_lossy(&buffer[..length]));
                socket.send_to(text.as_bytes(), peer).await?;
            }
            io::Result::Ok(())
        });
    }
    if let Some(socket) = datagram {
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Some((length, peer)) = socket.recv_from(&mut buffer).await? {
                let text = reply("datagram", &String::from_utf8_lossy(&buffer[..length]));
                if let Some(path) = peer.as_pathname() {
                    socket.send_to(text.as_bytes(), path).await?;
                }
            }
            io::Result::Ok(())
        });
    }
    answer(move |question| async move {
        let output = tokio::process::Command::new("sh").args(["-c", &question]).output().await;
        output
            .map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    });
    say("is ready");
    shutdown.await;
    drop(bare);
    Ok(())
}
