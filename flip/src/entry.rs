//! What the attribute calls, and what people call who write no attribute. The only place that ends the process.

use std::any::Any;
use std::ffi::OsString;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use nix::sys::signal::SigSet;

use crate::__private::wordless;
use crate::checkpoint::Checkpoints;
use crate::config::{Config, Launcher, Ready, Settings, Store};
use crate::control::{self, Control};
use crate::error::{Error, chain};
use crate::launcher;
use crate::listen::Listeners;
use crate::log;
use crate::params::Setup;
use crate::phase::Phase;
use crate::pid_file::PidFile;
use crate::shared::{MainTurn, Note, Shared, Start};
use crate::sys::env::{self, Inherited, Origin};
use crate::sys::oom::First;
use crate::sys::signal::{self, Signals};

/// Ends the process.
#[expect(clippy::disallowed_methods, reason = "the one place that ends the process")]
pub(crate) fn end(status: i32) -> ! {
    std::process::exit(status)
}

/// A function that [`service`](macro@crate::service) made ready to be [run](run()).
pub trait Service {
    /// What the function returns.
    type Output;

    #[doc(hidden)]
    fn run(self) -> Self::Output;
}

/// Runs a service from a `main` of one's own, which must not have started threads before.
///
/// ```no_run
/// #[flip::service]
/// async fn serve(#[listen("127.0.0.1:8080")] http: flip::TcpListener) -> std::io::Result<()> {
///     while let Some((_stream, _peer)) = http.accept().await? {}
///     Ok(())
/// }
///
/// fn main() -> std::io::Result<()> {
///     match std::env::args().nth(1).as_deref() {
///         Some("serve") => flip::run(serve()),
///         _ => Ok(println!("usage: example serve")),
///     }
/// }
/// ```
pub fn run<S: Service>(service: S) -> S::Output {
    service.run()
}

/// What [`main`](macro@crate::main) does, without an attribute.
///
/// ```no_run
/// use std::time::Duration;
///
/// fn main() -> std::io::Result<()> {
///     flip::Builder::new().drain_timeout(Duration::from_secs(60)).run(async |flip: &flip::Setup| {
///         let address = async { Ok("127.0.0.1:8080".parse::<flip::Address>()?) };
///         let http: flip::TcpListener = flip.listen("http", address, flip::ListenOptions::new()).await?;
///         Ok(async move {
///             while let Some((_stream, _peer)) = http.accept().await? {}
///             Ok(())
///         })
///     })
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    config: Config,
    paths: Paths,
}

/// What a configuration cannot have as a constant.
#[derive(Clone, Debug, Default)]
struct Paths {
    executable: Option<PathBuf>,
    pid_file: Option<PathBuf>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder::new()
    }
}

impl Builder {
    /// The defaults of [`main`](macro@crate::main).
    pub fn new() -> Builder {
        Builder { config: Config::NEW, paths: Paths::default() }
    }

    /// The signal that asks for an upgrade; default `"SIGHUP"`.
    pub fn upgrade(mut self, signal: &'static str) -> Builder {
        self.config.upgrade = signal;
        self
    }

    /// The signals that ask for a stop; default `["SIGTERM", "SIGINT"]`.
    pub fn stop(mut self, signals: &'static [&'static str]) -> Builder {
        self.config.stop = signals;
        self
    }

    /// When a new process is ready; default [`Ready::Auto`].
    pub fn ready(mut self, ready: Ready) -> Builder {
        self.config.ready = ready;
        self
    }

    /// From the start of a new process to its being ready; default 60 s.
    pub fn ready_timeout(mut self, time: Duration) -> Builder {
        self.config.ready_timeout = time;
        self
    }

    /// From the freeze to the commit, longer only while content keeps arriving; default 3 s.
    pub fn freeze_timeout(mut self, time: Duration) -> Builder {
        self.config.freeze_timeout = time;
        self
    }

    /// How long the freeze waits for handlers that run; default 200 ms.
    pub fn quiesce_timeout(mut self, time: Duration) -> Builder {
        self.config.quiesce_timeout = time;
        self
    }

    /// How long what is open may go on after the handoff or the stop; default 30 s.
    ///
    /// That begins with *asking*: nothing more is accepted, [`Shutdown`](crate::Shutdown) resolves, and `flip::serve` announces
    /// the end of its connections and closes those that rest. It ends with *cutting* what is left: each is logged with its
    /// listener, its peer's address and its age, `main`'s future is dropped, and the process ends, at most a second later,
    /// or as soon as it has made its last [checkpoint](Store::State).
    pub fn drain_timeout(mut self, time: Duration) -> Builder {
        self.config.drain_timeout = time;
        self
    }

    /// How many bytes of each state a new process takes, as they are on the wire; more is refused, and the upgrade rolled
    /// back. Without it, what memory there is.
    pub fn state_limit(mut self, bytes: u64) -> Builder {
        self.config.state_limit = bytes;
        self
    }

    /// How many generations may live at once, those that drain included; default 4, at least 2.
    pub fn generations(mut self, generations: u8) -> Builder {
        self.config.generations = generations;
        self
    }

    /// What an upgrade starts, instead of the path that this process was started by.
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Builder {
        self.paths.executable = Some(path.into());
        self
    }

    /// A file with the number of the process that serves; none by default.
    ///
    /// That process has it locked (flock(2)), so a second service with the same file does not start. It is replaced in one step by the
    /// new process of an upgrade, which must therefore be allowed to write to its directory, and removed when the service stops. A
    /// relative path is one of the working directory.
    pub fn pid_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.paths.pid_file = Some(path.into());
        self
    }

    /// Whether the first process stays as a launcher; default [`Launcher::Auto`].
    pub fn launcher(mut self, launcher: Launcher) -> Builder {
        self.config.launcher = launcher;
        self
    }

    /// What is kept for a process that has no old one to ask; default [`Store::Listeners`].
    pub fn store(mut self, store: Store) -> Builder {
        self.config.store = store;
        self
    }

    /// How often a checkpoint is made with [`Store::State`], where something has changed; default 5 s. Writers wait as long as the states take
    /// to be encoded.
    pub fn checkpoint(mut self, time: Duration) -> Builder {
        self.config.checkpoint = time;
        self
    }

    /// How many workers the runtime has; as many as there are processors if it is not said.
    #[cfg(feature = "tokio")]
    pub fn worker_threads(mut self, count: usize) -> Builder {
        self.config.runtime.worker_threads = Some(count);
        self
    }

    /// The runtime has one thread, `main`'s, and no workers.
    #[cfg(feature = "tokio")]
    pub fn current_thread(mut self) -> Builder {
        self.config.runtime.flavor = crate::config::Flavor::CurrentThread;
        self
    }

    /// What the runtime's threads are called.
    #[cfg(feature = "tokio")]
    pub fn name(mut self, name: &'static str) -> Builder {
        self.config.runtime.name = Some(name);
        self
    }

    /// Runs an asynchronous program on tokio: `provide` asks for its parameters and gives its future.
    #[cfg(feature = "tokio")]
    pub fn run<R, M>(self, provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>) -> R
    where
        M: Future<Output = R>,
    {
        run_async(begin(&self.config, self.paths), self.config, provide, wordless)
    }

    /// Runs a program without an asynchronous runtime.
    pub fn run_blocking<R, M>(self, provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>) -> R
    where
        M: FnOnce() -> R,
    {
        run_blocking(begin(&self.config, self.paths), provide, wordless)
    }
}

#[doc(hidden)]
#[cfg(feature = "tokio")]
pub fn main_async<R, M>(
    config: Config,
    provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>,
    words: impl FnOnce(&R) -> Option<String>,
) -> R
where
    M: Future<Output = R>,
{
    run_async(begin(&config, Paths::default()), config, provide, words)
}

#[doc(hidden)]
pub fn main_blocking<R, M>(
    config: Config,
    provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>,
    words: impl FnOnce(&R) -> Option<String>,
) -> R
where
    M: FnOnce() -> R,
{
    run_blocking(begin(&config, Paths::default()), provide, words)
}

#[doc(hidden)]
#[cfg(feature = "tokio")]
pub fn service_async<R, M>(
    config: Config,
    provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>,
    words: impl FnOnce(&R) -> Option<String>,
) -> impl Service<Output = R>
where
    M: Future<Output = R>,
{
    Deferred(move || main_async(config, provide, words))
}

#[doc(hidden)]
pub fn service_blocking<R, M>(
    config: Config,
    provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>,
    words: impl FnOnce(&R) -> Option<String>,
) -> impl Service<Output = R>
where
    M: FnOnce() -> R,
{
    Deferred(move || main_blocking(config, provide, words))
}

struct Deferred<F>(F);

impl<F: FnOnce() -> R, R> Service for Deferred<F> {
    type Output = R;
    fn run(self) -> R {
        (self.0)()
    }
}

/// What there is once the control thread runs.
struct Begun {
    shared: Arc<Shared>,
    ready: Ready,
}

/// Everything that must happen before a thread of the user's exists. An error ends the process.
fn begin(config: &Config, paths: Paths) -> Begun {
    static RUNNING: AtomicBool = AtomicBool::new(false);
    if RUNNING.swap(true, Ordering::SeqCst) {
        refuse(&Error::program("flip runs in this process already: a process is one service"));
    }
    match launcher::launch(config.launcher) {
        Ok(None) => {}
        Ok(Some(status)) => end(status),
        Err(error) => refuse(&error),
    }
    // First of all, while no other thread can read the environment.
    let inherited = env::take_channel();
    let passed = env::take_passed();
    let (channel, held) = match inherited {
        Inherited::Cold => (None, SigSet::empty()),
        Inherited::Channel(channel, held) => (Some(channel), held),
        Inherited::Stray(why) => {
            log::say!(warn, "FLIP_CHANNEL is not for this process and is ignored: {why}; this is a cold start");
            (None, SigSet::empty())
        }
    };
    let launched = env::take_launched(channel.is_some());
    let words = channel.as_ref().and_then(|channel| channel.try_clone().ok());
    match try_begin(config, paths, channel, passed, launched, &held) {
        Ok(begun) => begun,
        Err(error) => {
            if let Some(words) = words {
                control::say_last_words(&words, chain(&error));
            }
            refuse(&error)
        }
    }
}

fn try_begin(
    config: &Config,
    paths: Paths,
    channel: Option<std::os::fd::OwnedFd>,
    passed: Vec<(String, std::os::fd::OwnedFd)>,
    launched: Vec<(OsString, OsString)>,
    held: &SigSet,
) -> Result<Begun, Error> {
    let origin = Origin::capture().map_err(|error| Error::system("find out how this process was started", error))?;
    // What the first one was told is not told again, not even by one that takes over from the dead; and looking takes its time.
    let filters = if channel.is_none() { env::filters() } else { None };
    let origin = Origin { launched, filters, ..origin };
    let mut settings = Settings::new(config, |name| origin.variable(name)?.into_string().ok())?;
    settings.executable = settings.executable.or(paths.executable);
    settings.pid_file = settings.pid_file.or(paths.pid_file).map(|path| origin.directory.join(path));
    let ready = settings.ready;
    let handled = settings.signals();
    let signals = Signals::install(&handled).map_err(|error| Error::system("handle signals", error))?;
    let successor = channel.is_some();
    let shared = Shared::new(!successor).map_err(|error| Error::system("make an eventfd", error))?;
    hear_panics(&shared, channel.as_ref());
    // Without /proc nobody can say who goes first, and that is no reason not to start.
    let goes_first = if successor { First::begin().ok() } else { None };
    if !successor {
        let (stored, passed) = Checkpoints::sort(passed);
        shared.checkpoints.find(stored, settings.checkpoint.is_some(), settings.aside)?;
        if let Some(path) = &settings.pid_file {
            shared.set_pid_file(Some(PidFile::take(path)?));
        }
        // Nobody else is there yet who could set it.
        let _ = shared.listeners.set(Listeners::cold(Arc::clone(&shared), passed));
        shared.start.announce(Start::Cold);
    }
    // From here on they are heard; what arrived before was held back by the old process's mask. All threads that are started
    // have the first generation's mask, and so have their children.
    let handled = handled.into_iter().chain(held).collect();
    signal::unblock(&handled).map_err(|error| Error::system("unblock signals", error))?;
    control::start(Control { shared: Arc::clone(&shared), settings, origin, signals, channel, goes_first })
        .map_err(|error| Error::system("start the control thread", error))?;
    Ok(Begun { shared, ready })
}

/// A panic's text may be the reason why this process ends, and the old one is to hear it, even where panics abort.
fn hear_panics(shared: &Arc<Shared>, channel: Option<&std::os::fd::OwnedFd>) {
    *shared.last_words_to.lock().unwrap_or_else(PoisonError::into_inner) =
        channel.and_then(|channel| channel.try_clone().ok());
    let shared = Arc::clone(shared);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        shared.set_last_words(info.to_string().replace('\n', " "));
    }));
}

/// One readable message and status 1, whatever `main` returns.
fn refuse(error: &Error) -> ! {
    print(error);
    end(1)
}

fn print(error: &Error) {
    log::print(format_args!("error: {}", chain(error)));
    if log::is_heard() {
        tracing::error!(target: "flip", "{}", chain(error));
    }
}

/// A parameter could not be provided: the control thread tells whoever has to know. All is said before anything is closed,
/// which may have to wait for whoever uses it.
fn refuse_parameter(shared: &Shared, error: &Error) -> ! {
    if shared.phase.get() == Phase::Starting {
        log::print(format_args!("error: {}", chain(error)));
        // The control thread sends these words to the old process, and ends this one.
        shared.notes.send(Note::MainEnded(Some(chain(error))));
        shared.exclusives.end_soon();
        shared.notes.send(Note::Drained);
        shared.phase.wait(|phase| phase == Phase::Over);
        end(1)
    }
    print(error);
    if let Some(listeners) = shared.listeners.get() {
        listeners.close();
        listeners.unlink_owned();
    }
    shared.remove_pid_file();
    shared.exclusives.end_soon();
    end(1)
}

#[cfg(feature = "tokio")]
fn run_async<R, M>(
    begun: Begun,
    config: Config,
    provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>,
    words: impl FnOnce(&R) -> Option<String>,
) -> R
where
    M: Future<Output = R>,
{
    let Begun { shared, ready } = begun;
    // While the runtime starts, the old process makes its offer.
    let runtime = match Runtime::new(&config.runtime) {
        Ok(runtime) => runtime,
        Err(error) => refuse_parameter(&shared, &Error::system("start the tokio runtime", error)),
    };
    // Set here alone, once a process.
    let _ = shared.runtime.set(runtime.handle().clone());
    let result = catch_unwind(AssertUnwindSafe(|| {
        runtime.block_on(async {
            let setup = Setup::new(&shared, shared.start.wait());
            let provided = async {
                let main = provide(&setup).await?;
                setup.done(ready)?;
                Ok(main)
            };
            // A stop ends even a parameter that never comes: nothing is served yet that would have to drain.
            let main = match until(&shared, provided, Phase::is_leaving).await {
                Some(Ok(main)) => main,
                Some(Err(error)) => refuse_parameter(&shared, &error),
                None => return None,
            };
            until(&shared, main, |phase| phase >= Phase::Cut).await
        })
    }));
    let ended = ended(&shared, result, words);
    runtime.block_on(drained(&shared));
    close_down(&shared);
    runtime.block_on(left(&shared));
    runtime.shutdown_background();
    shared.returned.store(true, Ordering::SeqCst);
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

fn run_blocking<R, M>(
    begun: Begun,
    provide: impl AsyncFnOnce(&Setup) -> Result<M, Error>,
    words: impl FnOnce(&R) -> Option<String>,
) -> R
where
    M: FnOnce() -> R,
{
    let Begun { shared, ready } = begun;
    shared.main_blocks.store(true, Ordering::Relaxed);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let setup = Setup::new(&shared, shared.start.wait());
        let provided = block_on(async {
            let main = provide(&setup).await?;
            setup.done(ready)?;
            Ok(main)
        });
        match provided {
            Ok(main) => {
                let _turn = MainTurn::begin();
                Some(main())
            }
            Err(error) => refuse_parameter(&shared, &error),
        }
    }));
    let ended = ended(&shared, result, words);
    block_on(drained(&shared));
    close_down(&shared);
    block_on(left(&shared));
    shared.returned.store(true, Ordering::SeqCst);
    ended.unwrap_or_else(|panic| resume_unwind(panic))
}

/// One of tokio's runtimes.
#[cfg(feature = "tokio")]
enum Runtime {
    Shared(tokio::runtime::Runtime),
    Local(tokio::runtime::LocalRuntime),
}

#[cfg(feature = "tokio")]
impl Runtime {
    fn new(config: &crate::config::Runtime) -> std::io::Result<Runtime> {
        use crate::config::{Flavor, UnhandledPanic};
        let mut builder = match config.flavor {
            Flavor::CurrentThread | Flavor::Local => tokio::runtime::Builder::new_current_thread(),
            Flavor::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        };
        if let Some(threads) = config.worker_threads {
            builder.worker_threads(threads);
        }
        if let Some(name) = config.name {
            builder.thread_name(name);
        }
        if config.start_paused {
            #[cfg(feature = "test-util")]
            builder.start_paused(true);
            #[cfg(not(feature = "test-util"))]
            return Err(std::io::Error::other("start_paused needs flip's feature `test-util`"));
        }
        if config.unhandled_panic == UnhandledPanic::ShutdownRuntime {
            #[cfg(tokio_unstable)]
            builder.unhandled_panic(tokio::runtime::UnhandledPanic::ShutdownRuntime);
            #[cfg(not(tokio_unstable))]
            return Err(std::io::Error::other("unhandled_panic needs `--cfg tokio_unstable`, as in tokio"));
        }
        builder.enable_all();
        match config.flavor {
            Flavor::Local => builder.build_local(tokio::runtime::LocalOptions::default()).map(Runtime::Local),
            _ => builder.build().map(Runtime::Shared),
        }
    }

    fn handle(&self) -> &tokio::runtime::Handle {
        match self {
            Runtime::Shared(runtime) => runtime.handle(),
            Runtime::Local(runtime) => runtime.handle(),
        }
    }

    fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Runtime::Shared(runtime) => runtime.block_on(future),
            Runtime::Local(runtime) => runtime.block_on(future),
        }
    }

    fn shutdown_background(self) {
        match self {
            Runtime::Shared(runtime) => runtime.shutdown_background(),
            Runtime::Local(runtime) => runtime.shutdown_background(),
        }
    }
}

/// What `main` returned or panicked with; told to the control thread. Without either it was cut, and the process ends.
fn ended<R>(
    shared: &Shared,
    result: Result<Option<R>, Box<dyn Any + Send>>,
    words: impl FnOnce(&R) -> Option<String>,
) -> Result<R, Box<dyn Any + Send>> {
    let (words, ended) = match result {
        Ok(Some(value)) => (words(&value).map(|error| format!("main returned an error: {error}")), Ok(value)),
        Ok(None) => {
            shared.notes.send(Note::MainEnded(None));
            close_down(shared);
            shared.phase.wait(|phase| phase == Phase::Over);
            end(0)
        }
        Err(panic) => (shared.last_words().or_else(|| Some("main panicked".to_owned())), Err(panic)),
    };
    shared.notes.send(Note::MainEnded(words));
    ended
}

/// Waits until the last connection is done, or cut.
async fn drained(shared: &Shared) {
    shared.phase.until(Phase::is_leaving).await;
    loop {
        let closed = shared.connections.listen();
        let changed = shared.phase.listen();
        if shared.is_drained() || shared.phase.get() >= Phase::Cut {
            break;
        }
        either(closed, changed).await;
    }
}

/// Nobody needs anything of this process any more.
fn close_down(shared: &Shared) {
    let _entered = shared.enter();
    shared.exclusives.end();
    shared.notes.send(Note::Drained);
}

/// Waits until the control thread has nothing left to do.
async fn left(shared: &Shared) {
    shared.phase.until(|phase| phase == Phase::Over).await;
}

async fn either(a: impl Future<Output = ()>, b: impl Future<Output = ()>) {
    let (mut a, mut b) = (std::pin::pin!(a), std::pin::pin!(b));
    std::future::poll_fn(|cx| {
        if a.as_mut().poll(cx).is_ready() || b.as_mut().poll(cx).is_ready() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// The future's value; nothing when the phase comes to its end before.
#[cfg(feature = "tokio")]
async fn until<F: Future>(shared: &Shared, future: F, end: impl Fn(Phase) -> bool) -> Option<F::Output> {
    let (mut future, mut end) = (std::pin::pin!(future), std::pin::pin!(shared.phase.until(end)));
    std::future::poll_fn(|cx| {
        let turn = MainTurn::begin();
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        drop(turn);
        shared.main_goes_on();
        end.as_mut().poll(cx).map(|_| None)
    })
    .await
}

/// Runs a future on this thread, without a runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Thread(std::thread::Thread);
    impl Wake for Thread {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Thread(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
            return value;
        }
        std::thread::park();
    }
}

/// Runs code of the user's (encoding, decoding, destructors) so that its panic is an error like any other.
pub(crate) fn shielded<R>(run: impl FnOnce() -> Result<R, String>) -> Result<R, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Err(format!("it panicked: {}", text.unwrap_or_else(|| "without a text".to_owned())))
    })
}
