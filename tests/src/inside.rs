//! What the services of the tests have in common: gates, behaviour by file, and a socket on which a process is asked.

use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::abort;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixListener;

/// A line that no other process's can get into.
pub fn say(what: &str) {
    let line = format!("pid {} {what}\n", std::process::id());
    std::io::stderr().write_all(line.as_bytes()).expect("the test reads it");
}

/// Says so and waits, if there is a gate of this name and it is shut.
pub fn pass_gate(name: &str) {
    let path = PathBuf::from(format!("{name}.gate"));
    if let Ok(mut fifo) = File::open(path) {
        say(&format!("is at the gate {name}"));
        fifo.read_exact(&mut [0]).expect("a gate gives a byte to each who comes by");
        say(&format!("has passed the gate {name}"));
    }
}

/// How many bytes there are, and a number that others would hardly have.
pub fn digest(bytes: &[u8]) -> String {
    let mut hash = DefaultHasher::new();
    bytes.hash(&mut hash);
    format!("{} bytes, hash {}", bytes.len(), hash.finish())
}

/// What takes as long to be written and to be read as the gates `save` and `restore` want, as part of a state; where it goes on from a
/// checkpoint, `restore-stored`.
#[derive(Default)]
pub struct Gates;

impl Serialize for Gates {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if is_called("flip-freeze") {
            pass_gate("save");
        }
        to.serialize_unit()
    }
}

impl<'de> Deserialize<'de> for Gates {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        <()>::deserialize(from)?;
        pass_gate(if is_called("flip-content") { "restore" } else { "restore-stored" });
        Ok(Gates)
    }
}

/// flip also looks at the type, with values that it makes up; that is not what the gates are for.
pub fn is_called(thread: &str) -> bool {
    std::thread::current().name() == Some(thread)
}

/// Does what the file `start` in the working directory says, if it is there.
///
/// # Errors
/// What the file wants to be one.
pub fn start() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    pass_gate("start");
    let wanted = std::fs::read_to_string("start").unwrap_or_default();
    match wanted.trim() {
        "" => Ok(()),
        "panic" => panic!("the new one panics on purpose"),
        "error" => Err("the new one fails on purpose".into()),
        // SAFETY: ends the process, as a library that gives up might.
        "exit" => unsafe { libc::_exit(3) },
        "abort" => abort(),
        "hang" => loop {
            std::thread::park();
        },
        "hold" => {
            std::mem::forget(std::hint::black_box(vec![1_u8; 150 << 20]));
            Ok(())
        }
        "eat" => {
            let mut eaten = vec![];
            while eaten.len() < 1000 {
                eaten.push(std::hint::black_box(vec![1_u8; 1 << 20]));
            }
            panic!("a gigabyte was there");
        }
        other => panic!("nobody knows how to {other:?}"),
    }
}

/// Answers each line that is written to the socket `<pid>.ask` in the working directory, one task a connection.
pub fn answer<F>(answer: impl Fn(String) -> F + Send + Sync + 'static)
where
    F: Future<Output = String> + Send + 'static,
{
    let path = format!("{}.ask", std::process::id());
    // No other process has this number, but an earlier program of this one may have been here.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).expect("the name is free");
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = Arc::clone(&answer);
            tokio::spawn(async move {
                let (read, mut write) = stream.split();
                let mut lines = BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let said = answer(line).await.replace('\n', " ");
                    if write.write_all(format!("{said}\n").as_bytes()).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
}
