//! Many bytes as part of the state: in a region, and in a plain vector, which an upgrade copies.

use flip::{Handle, Handoff, Live, Region, Shutdown};
use flip_tests::inside::{answer, digest, say, start};

#[derive(Default, Handoff)]
struct Store {
    writes: u64,
    bytes: Region,
}

/// How long it is, and what it has.
fn look(store: &Live<Store>) -> Result<String, flip::BoxError> {
    Ok(store.read(|store| format!("{} writes, {}", store.writes, digest(&store.bytes)))?)
}

/// What is asked, in words.
fn obey(store: &Live<Store>, question: &str) -> Result<String, flip::BoxError> {
    let words: Vec<_> = question.split(' ').collect();
    match words[..] {
        ["look"] => return look(store),
        ["append", count, byte] => {
            let (count, byte): (usize, u8) = (count.parse()?, byte.parse()?);
            store.update(|store| {
                store.writes += 1;
                store.bytes.resize(store.bytes.len() + count, byte)
            })??;
        }
        ["put", at, byte] => {
            let (at, byte): (usize, u8) = (at.parse()?, byte.parse()?);
            store.update(|store| {
                store.writes += 1;
                store.bytes[at] = byte;
            })?;
        }
        ["clear"] => store.update(|store| {
            store.writes += 1;
            store.bytes.clear();
        })?,
        _ => return Err(format!("{question}?").into()),
    }
    Ok("written".to_owned())
}

/// What the plain vector has, once it has so many bytes more where a number is given.
fn copy(copied: &Live<Vec<u8>>, more: &str) -> Result<String, flip::BoxError> {
    if let Ok(more) = more.trim().parse::<usize>() {
        copied.update(|bytes| {
            let length = bytes.len();
            bytes.extend((length..length + more).map(|at| at as u8));
        })?;
    }
    Ok(copied.read(|bytes| digest(bytes))?)
}

/// How the bytes are mapped, as in `r--s`.
fn mapped(store: &Live<Store>) -> Result<String, flip::BoxError> {
    let at = store.read(|store| store.bytes.as_ptr() as usize)?;
    for line in std::fs::read_to_string("/proc/self/maps")?.lines() {
        let mut words = line.split(' ');
        let (from, to) = words.next().and_then(|range| range.split_once('-')).ok_or("a mapping has a range")?;
        if (usize::from_str_radix(from, 16)?..usize::from_str_radix(to, 16)?).contains(&at) {
            return Ok(words.next().ok_or("a mapping has permissions")?.to_owned());
        }
    }
    Err("it is not mapped".into())
}

#[flip::main(ready = manual)]
async fn main(
    store: Live<Store>,
    copied: Live<Vec<u8>>,
    flip: Handle,
    shutdown: Shutdown,
) -> Result<(), flip::BoxError> {
    if std::fs::read_to_string("start").is_ok_and(|what| what == "late") {
        store.ready().await;
        say(&format!("has {}, mapped {}", look(&store)?, mapped(&store)?));
        return Err("the new one fails when it has the content".into());
    }
    start()?;
    answer(move |question| {
        let answer = match question.strip_prefix("copied") {
            Some(more) => copy(&copied, more),
            None if question == "mapped" => mapped(&store),
            None => obey(&store, &question),
        };
        async move { answer.unwrap_or_else(|error| format!("error: {error}")) }
    });
    flip.ready();
    flip.serving().await;
    say("is ready");
    shutdown.await;
    Ok(())
}
