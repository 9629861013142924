//! A count and a note, in the shape that the name of the executable says: as `first` has them, with a field more, with a
//! field of another type, or without the note.

use flip::{Handle, Handoff, Live, Shutdown};
use flip_tests::inside::{Gates, answer, say};

#[derive(Default, Handoff)]
struct Count {
    total: u64,
    gates: Gates,
}

#[derive(Default, Handoff)]
struct Note {
    text: String,
}

mod field {
    #[derive(Default, flip::Handoff)]
    pub(crate) struct Note {
        pub(crate) text: String,
        pub(crate) author: String,
    }
}

mod kind {
    #[derive(Default, flip::Handoff)]
    pub(crate) struct Note {
        pub(crate) text: Vec<u8>,
    }
}

async fn serve(count: Live<Count>, note: Live<Note>, flip: Handle, shutdown: Shutdown) {
    let handle = flip.clone();
    answer(move |question| {
        let (count, note, flip) = (count.clone(), note.clone(), handle.clone());
        async move {
            let added = |count: &mut Count| {
                count.total += 1;
                count.total.to_string()
            };
            match question.split_once(' ') {
                None if question == "add" => count.update(added).unwrap_or_else(|error| error.to_string()),
                None if question == "note" => {
                    note.read(|note| note.text.clone()).unwrap_or_else(|error| error.to_string())
                }
                Some(("note", text)) => {
                    let text = text.to_owned();
                    note.update(|note| note.text = text).map_or_else(|error| error.to_string(), |()| "noted".to_owned())
                }
                None if question == "upgrade" => match flip.upgrade().await {
                    Ok(new) => format!("pid {}", new.pid),
                    Err(error) => format!("error: {error}"),
                },
                _ => format!("error: {question}?"),
            }
        }
    });
    flip.ready();
    flip.serving().await;
    say("is ready");
    shutdown.await;
}

#[flip::service(ready = manual)]
async fn first(count: Live<Count>, note: Live<Note>, flip: Handle, shutdown: Shutdown) {
    serve(count, note, flip, shutdown).await;
}

#[flip::service(ready = manual)]
async fn another_field(count: Live<Count>, note: Live<field::Note>, flip: Handle, shutdown: Shutdown) {
    let text = note.read(|note| format!("{} by {}", note.text, note.author)).unwrap_or_default();
    serve(count, Live::new(Note { text }), flip, shutdown).await;
}

#[flip::service(ready = manual)]
async fn another_type(count: Live<Count>, note: Live<kind::Note>, flip: Handle, shutdown: Shutdown) {
    let text = note.read(|note| String::from_utf8_lossy(&note.text).into_owned()).unwrap_or_default();
    serve(count, Live::new(Note { text }), flip, shutdown).await;
}

#[flip::service(ready = manual)]
async fn no_note(count: Live<Count>, flip: Handle, shutdown: Shutdown) {
    serve(count, Live::new(Note::default()), flip, shutdown).await;
}

fn main() -> std::io::Result<()> {
    match std::env::current_exe()?.file_name().and_then(|name| name.to_str()) {
        Some("another_field") => flip::run(another_field()),
        Some("another_type") => flip::run(another_type()),
        Some("no_note") => flip::run(no_note()),
        _ => flip::run(first()),
    }
    Ok(())
}
