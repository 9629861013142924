//! A web service whose numbers are in a database that one process can have open.

use std::path::Path as File;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use flip::{BoxError, Exclusive, ExclusiveError, Handoff, Live, TcpListener};
use flip_tests::inside::{pass_gate, say, start};
use redb::{Database, ReadableTable, TableDefinition};

/// What clients wrote, each with the process that did it.
const NUMBERS: TableDefinition<'static, u64, u32> = TableDefinition::new("numbers");

/// State beside the database, because both are handed over in one cut.
#[derive(Default, Handoff)]
struct Writes {
    count: u64,
}

/// Fails where the test has put a file of this name.
fn unless(file: &str) -> Result<(), String> {
    if File::new(file).exists() { Err(format!("there is a file `{file}`")) } else { Ok(()) }
}

fn open() -> Result<Database, BoxError> {
    static OPENED: AtomicBool = AtomicBool::new(false);
    if OPENED.swap(true, Ordering::SeqCst) {
        pass_gate("reopen");
    } else {
        pass_gate("open");
        unless("cannot-open")?;
    }
    let store = Database::create("numbers.redb")?;
    let write = store.begin_write()?;
    write.open_table(NUMBERS)?;
    write.commit()?;
    say("has the store");
    Ok(store)
}

fn close(store: Database) -> Result<(), String> {
    drop(store);
    say("has closed the store");
    pass_gate("close");
    unless("cannot-close")
}

fn put(store: &Database, number: u64) -> Result<(), BoxError> {
    let write = store.begin_write()?;
    write.open_table(NUMBERS)?.insert(number, std::process::id())?;
    write.commit()?;
    Ok(())
}

fn all(store: &Database) -> Result<String, BoxError> {
    let mut all = vec![];
    for entry in store.begin_read()?.open_table(NUMBERS)?.iter()? {
        all.push(entry?.0.value().to_string());
    }
    Ok(all.join(" "))
}

enum Failure {
    Elsewhere(ExclusiveError),
    Store(BoxError),
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        match self {
            Failure::Elsewhere(error) => error.into_response(),
            Failure::Store(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        }
    }
}

/// On a thread that may wait for the disk.
async fn with<R: Send + 'static>(
    store: Exclusive<Database>,
    run: impl FnOnce(&Database) -> Result<R, BoxError> + Send + 'static,
) -> Result<R, Failure> {
    let used = tokio::task::spawn_blocking(move || store.with(run)).await.expect("a database does not panic");
    used.map_err(Failure::Elsewhere)?.map_err(Failure::Store)
}

fn app(store: &Exclusive<Database>, writes: &Live<Writes>) -> Router {
    let write = |Path(number): Path<u64>, store: Exclusive<Database>, writes: Live<Writes>| {
        with(store, move |store| {
            put(store, number)?;
            // Inside, so that no freeze comes between the two.
            let counted = writes.update(|writes| writes.count += 1);
            counted.expect("whoever may use the store has the state");
            Ok(std::process::id().to_string())
        })
    };
    let slow = |store| {
        with(store, |_| {
            pass_gate("slow");
            Ok(std::process::id().to_string())
        })
    };
    let late = async |store| {
        let passed = tokio::task::spawn_blocking(|| pass_gate("late")).await;
        passed.expect("a gate does not panic");
        with(store, |_| Ok("in time".to_owned())).await
    };
    let (for_write, for_slow, for_all) = (store.clone(), store.clone(), store.clone());
    let for_late = store.clone();
    let (written, count) = (writes.clone(), writes.clone());
    Router::new()
        .route("/write/{number}", post(move |path| write(path, for_write.clone(), written.clone())))
        .route("/slow", get(move || slow(for_slow.clone())))
        .route("/late", get(move || late(for_late.clone())))
        .route("/numbers", get(move || with(for_all.clone(), all)))
        .route("/count", get(async move || count.read(|writes| writes.count.to_string())))
        .route("/pid", get(async || std::process::id().to_string()))
}

/// Where the test has put a file `fails-inside`, a parameter that fails while a thread uses the store, and goes on to.
fn fail_inside(store: &Exclusive<Database>) -> Result<(), BoxError> {
    if !File::new("fails-inside").exists() {
        return Ok(());
    }
    let (store, (inside, is_inside)) = (store.clone(), std::sync::mpsc::channel());
    std::thread::spawn(move || {
        store.with(|_| {
            inside.send(()).expect("it is waited for");
            loop {
                std::thread::park();
            }
        })
    });
    is_inside.recv()?;
    Err("it fails while the store is used".into())
}

#[flip::main]
async fn main(
    #[listen("127.0.0.1:0")] http: TcpListener,
    #[exclusive(open = open, close = close)] store: Exclusive<Database>,
    #[with(fail_inside(&store)?)] _inside: (),
    writes: Live<Writes>,
) -> Result<(), BoxError> {
    say(&format!("listens at {}", http.local_addr()?));
    if File::new("use-first").exists() {
        store.with(|store| put(store, u64::from(std::process::id())))??;
    }
    start()?;
    say("is ready");
    let app = app(&store, &writes);
    flip::serve(http, app).await?;
    Ok(())
}
