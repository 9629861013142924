//! Starting the successor.
//!
//! ```text
//! old ── clone(VM, VFORK, FILES) ──► middle ── clone(VM, VFORK, PIDFD) ──► new ── execve
//!  ▲ waits for middle, reaps it        │ waits for execve, exits              its parent is now the reaper
//! ```
//!
//! The parent of the new process must be whoever reaps in this place (a supervisor, or process 1), as it will outlive the
//! old one. So it is started twice removed. Neither step copies memory: with one gigabyte resident two forks take 90 ms
//! and these two clones 0.2. Because the first shares the table of descriptors, the handle that the second makes lands in
//! the old process, without a moment in which the process number could have come to mean another process. And because
//! memory is shared, the errno of a failed execve is known when the call returns.
//!
//! What runs between clone and execve shares the memory, but not the locks' owners, of a process with threads. So it
//! allocates nothing, locks nothing, cannot panic, and makes bare system calls: the C library's functions of the same
//! names take locks in places (sigaction on SIGABRT), and refuse the signals that it keeps for itself.

use std::cell::Cell;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::io::{self, IsTerminal};
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};

use libc::{c_char, c_int, c_long, c_void};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use nix::sys::resource::{RLIM_INFINITY, rlim_t};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::env::{CHANNEL, Kept, Origin, bit};
use super::fd::{self, Pidfd};

/// By these a service manager says for which process the variables beside them are, sd_listen_fds(3), sd_watchdog_enabled(3)
/// and systemd.exec(5). Where they name the old process, they name the new one in its environment.
const NAME_THE_PROCESS: [&str; 3] = [LISTEN_PID, "WATCHDOG_PID", "SYSTEMD_EXEC_PID"];
const LISTEN_PID: &str = "LISTEN_PID";
/// Beside `LISTEN_PID`, the inode of a handle of that process.
const LISTEN_PIDFDID: &str = "LISTEN_PIDFDID";

/// What to start, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spawn<'a> {
    pub(crate) executable: &'a Path,
    /// With `argv[0]`.
    pub(crate) args: &'a [OsString],
    /// On top of this process's environment, instead of what has the same name there.
    pub(crate) extra_env: &'a [(OsString, OsString)],
    pub(crate) origin: &'a Origin,
    /// Blocked in the new process, until its handlers exist.
    pub(crate) handled: SigSet,
    pub(crate) channel: BorrowedFd<'a>,
}

/// A process that has executed. It is nobody's child here: only the handle says when it has died.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) pidfd: Pidfd,
}

/// Why there is no new process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpawnError {
    #[error("{what} has a zero byte in it")]
    ZeroByte { what: String },
    #[error("no memory could be had, or the channel is broken")]
    Prepare(#[source] io::Error),
    #[error("no process could be made{}", clone_advice(.0))]
    Clone(#[source] io::Error),
    #[error("the directory {} cannot be entered", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("{} cannot be executed{}", path.display(), execute_advice(source))]
    Execute { path: PathBuf, source: io::Error },
}

fn execute_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::ENOSYS) => {
            " (a seccomp filter forbids execve(2): it has to allow it, or to be set for threads other than flip's)"
        }
        _ => "",
    }
}

fn clone_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EAGAIN) => " (a limit on processes is reached: `ulimit -u`, TasksMax= or pids.max)",
        Some(libc::EPERM | libc::ENOSYS) => {
            " (a seccomp filter forbids clone(2): it has to allow it, or to be set for threads other than flip's)"
        }
        _ => "",
    }
}

/// Replaces this process's program as [`spawn`] would start one: same pid, no other thread survives.
///
/// # Errors
/// Why it goes on as it was. It never returns otherwise.
pub(crate) fn replace(spawn: &Spawn<'_>) -> io::Result<std::convert::Infallible> {
    use std::os::unix::process::CommandExt;
    let held = kernel_set(&spawn.handled) & !kernel_set(&spawn.origin.mask);
    let channel = format!("{}:{}:{}:{held}", Pid::this(), spawn.channel.as_raw_fd(), fd::inode(spawn.channel)?);
    let mut command = std::process::Command::new(spawn.executable);
    if let [name, args @ ..] = spawn.args {
        command.arg0(name).args(args);
    }
    command.env(CHANNEL, channel).envs(spawn.extra_env.iter().cloned()).current_dir(&spawn.origin.directory);
    nix::sys::stat::umask(spawn.origin.umask);
    for limit in &spawn.origin.limits {
        // One that is refused stays as it is, as in `set_limit`.
        let _ = nix::sys::resource::setrlimit(limit.resource, limit.soft, limit.hard);
    }
    // What comes before the program has its handlers again waits for them.
    spawn.handled.thread_block()?;
    // The last thing before the exec: a program that another thread starts in between would get it too.
    fcntl(spawn.channel, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Err(command.exec())
}

/// Starts the service as a child of this process, which has one thread: with these variables more and those less, and with these
/// descriptors as sd_listen_fds(3) finds them.
///
/// # Errors
/// Why there is no process. One that cannot execute says so, and ends with status 127.
pub(crate) fn start_child(
    origin: &Origin,
    more: &[(&str, OsString)],
    less: &[&str],
    passed: &[(&str, BorrowedFd<'_>)],
) -> io::Result<Pid> {
    use std::os::unix::process::CommandExt;
    let mut command = std::process::Command::new(&origin.executable);
    if let [name, args @ ..] = &origin.args[..] {
        command.arg0(name).args(args);
    }
    for name in less {
        command.env_remove(name);
    }
    command.envs(more.iter().map(|(name, value)| (name, value))).current_dir(&origin.directory);
    if !io::stdin().is_terminal() {
        // What is sent to the launcher's group comes by way of the launcher, and not once more. The keys of a terminal reach all.
        command.process_group(0);
    }
    let first = libc::STDERR_FILENO + 1;
    let behind = first + passed.len() as RawFd;
    if !passed.is_empty() {
        let names: Vec<_> = passed.iter().map(|(name, _)| *name).collect();
        command.env("LISTEN_FDS", passed.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    }
    // Where none of them is in the way of another.
    let passed = passed.iter().map(|(_, fd)| {
        fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(behind)).map(|fd| {
            // SAFETY: just made, for this function alone.
            unsafe { OwnedFd::from_raw_fd(fd) }
        })
    });
    let passed = passed.collect::<Result<Vec<_>, _>>()?;
    // SAFETY: this process has one thread, so the child is a whole copy of it and may do anything.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(child),
        nix::unistd::ForkResult::Child => {
            for (number, fd) in (first..).zip(&passed) {
                // SAFETY: takes integers; what has this number is a descriptor of the launcher's, which the child does not use.
                unsafe { libc::dup2(fd.as_raw_fd(), number) };
            }
            let error = command.exec();
            crate::log::print(format_args!("error: {} cannot be executed: {error}", origin.executable.display()));
            exit(127)
        }
    }
}

/// Starts a process as the first generation was started, but for the channel.
pub(crate) fn spawn(spawn: &Spawn<'_>) -> Result<Child, SpawnError> {
    let report = start(spawn)?;
    let failed = io::Error::from_raw_os_error(report.errno);
    match report.step {
        Step::Clone if report.pid.as_raw() > 0 => {
            Err(SpawnError::Clone(io::Error::other("the new process was killed before it executed anything")))
        }
        Step::Clone => Err(SpawnError::Clone(failed)),
        Step::Directory => Err(SpawnError::Directory { path: spawn.origin.directory.clone(), source: failed }),
        Step::Execute => Err(SpawnError::Execute { path: spawn.executable.to_owned(), source: failed }),
        Step::Done => {
            let pidfd = report.pidfd.expect("a process that ran has a handle");
            Ok(Child { pid: report.pid, pidfd })
        }
    }
}

/// What the two processes said before they were gone.
struct Report {
    #[cfg_attr(not(test), allow(dead_code, reason = "tests look whether it has been reaped"))]
    middle: Pid,
    pid: Pid,
    pidfd: Option<Pidfd>,
    step: Step,
    errno: c_int,
}

/// What failed; on the way, what is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Clone,
    Directory,
    Execute,
    Done,
}

/// All that the processes in between need, made beforehand, and what they answer.
struct Plan {
    executable: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    /// Where in the environment the new process writes its number, with leading zeros.
    digits: *mut u8,
    /// Where it writes it without them, each with a byte of zero behind it.
    numbers: *const *mut u8,
    number_count: usize,
    channel: RawFd,
    kept: *const RawFd,
    kept_count: usize,
    directory: *const c_char,
    umask: libc::mode_t,
    limits: *const Limit,
    limit_count: usize,
    ignored: KernelSet,
    mask: KernelSet,
    stack: *mut c_void,

    // The answers: written by one process at a time, while the others are suspended.
    pid: Cell<libc::pid_t>,
    pidfd: Cell<RawFd>,
    step: Cell<Step>,
    errno: Cell<c_int>,
}

/// What [`Plan`] points into.
struct Prepared {
    plan: Plan,
    _strings: Vec<CString>,
    _argv: Vec<*const c_char>,
    _envp: Vec<*const c_char>,
    _marker: Vec<u8>,
    _own: Vec<Vec<u8>>,
    _numbers: Vec<*mut u8>,
    _limits: Vec<Limit>,
    _kept: Vec<RawFd>,
    middle_stack: Stack,
    _new_stack: Stack,
}

/// The kernel's own set of signals, one bit each, from 1.
type KernelSet = u64;

const SIGNALS: c_int = KernelSet::BITS as c_int;

#[repr(C)]
struct Limit {
    resource: c_int,
    value: libc::rlimit64,
}

/// What rt_sigaction takes: the handler first, then flags, restorer and mask, which are zero for both that need none.
#[repr(C)]
struct KernelAction {
    handler: libc::sighandler_t,
    rest: [usize; 4],
}

fn start(spawn: &Spawn<'_>) -> Result<Report, SpawnError> {
    // Not owned while other processes use it: where one of them goes astray it is never freed.
    let prepared = Box::into_raw(Box::new(prepare(spawn)?));
    // SAFETY: just leaked, so it is there; from here to its end it is only shared, and what changes is in cells.
    let Prepared { plan, middle_stack, .. } = unsafe { &*prepared };

    // A handler of this process must not run in one of the others, in this memory and with another process number.
    let blocked = Blocked::all();
    // No exit signal: a handler of SIGCHLD, which would be the user's, hears nothing, and a wait for any child does not
    // find it (see __WCLONE in wait(2)).
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES;
    // SAFETY: `middle` fits the signature, its stack and the plan live until it has been reaped or are leaked, and this
    // thread is suspended while it runs.
    let pid = unsafe { libc::clone(middle, middle_stack.top(), flags, ptr::from_ref(plan).cast_mut().cast()) };
    let cloned = Errno::result(pid);
    let mut status = 0;
    if cloned.is_ok() {
        // SAFETY: `status` has room. Nothing interrupts it, since every signal is blocked.
        unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    }
    drop(blocked);

    if !(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0) {
        // Somebody has killed it, and the new process, if there is one, may still be running on this memory. So that
        // stays for ever. Without the channel, which the caller closes, the new process gets nowhere.
        return Err(SpawnError::Clone(io::Error::other("the process in between was killed")));
    }
    // SAFETY: from `Box::into_raw` above, and both processes have left this memory: the first is dead, and it only exits
    // after the second has executed or died.
    let prepared = unsafe { Box::from_raw(prepared) };
    let plan = &prepared.plan;
    match cloned {
        Err(errno) => Err(SpawnError::Clone(errno.into())),
        Ok(middle) => Ok(Report {
            middle: Pid::from_raw(middle),
            pid: Pid::from_raw(plan.pid.get()),
            // The kernel writes a number also for a clone that then fails; only a process that ran has a handle.
            pidfd: (plan.pid.get() > 0).then(|| {
                // SAFETY: made by the second clone in the shared table, for us alone.
                Pidfd::from(unsafe { OwnedFd::from_raw_fd(plan.pidfd.get()) })
            }),
            step: plan.step.get(),
            errno: plan.errno.get(),
        }),
    }
}

/// The process in between: starts the new one, and leaves it an orphan.
extern "C" fn middle(plan: *mut c_void) -> c_int {
    // SAFETY: the old process gave its plan, and is suspended until this one is gone.
    let shared = unsafe { &*plan.cast::<Plan>() };
    // Without CLONE_FILES: the new process gets a table of its own, where it opens the channel to itself.
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as for the first clone. The kernel writes the handle to where the parent's thread id would go.
    let pid = unsafe { libc::clone(new, shared.stack, flags, plan, shared.pidfd.as_ptr()) };
    if pid < 0 {
        fail(shared, Step::Clone);
    } else if shared.step.get() != Step::Done {
        // It is a matter between these processes: the reaper need not hear of it.
        // SAFETY: no status is asked for.
        unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
    }
    exit(0)
}

/// The new process, up to execve.
extern "C" fn new(plan: *mut c_void) -> c_int {
    // SAFETY: as in `middle`, which is suspended in its turn until this process has executed or died.
    let plan = unsafe { &*plan.cast::<Plan>() };

    // SAFETY: takes nothing.
    let pid = unsafe { libc::syscall(libc::SYS_getpid) } as libc::pid_t;
    plan.pid.set(pid);
    write_digits(plan.digits, pid);
    for i in 0..plan.number_count {
        // SAFETY: `i` counts them.
        let number = unsafe { plan.numbers.add(i) };
        // SAFETY: in bounds by the line above.
        write_number(unsafe { *number }, pid);
    }

    // SAFETY: takes an integer.
    unsafe { libc::syscall(libc::SYS_umask, plan.umask as c_long) };
    for i in 0..plan.limit_count {
        // SAFETY: `i` counts the limits.
        let limit = unsafe { plan.limits.add(i) };
        // SAFETY: in bounds by the line above, and nobody writes them.
        set_limit(unsafe { &*limit });
    }
    // SAFETY: a terminated string.
    if unsafe { libc::syscall(libc::SYS_chdir, plan.directory) } < 0 {
        fail(plan, Step::Directory);
        exit(127);
    }
    // What some library has opened without CLOEXEC would be open once more in each generation. Before 5.11 the kernel does not
    // know the flag (close_range(2)), and it is.
    let (first, last, flag) = (libc::STDERR_FILENO + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: takes integers. This is this process's own table: nobody else's descriptors are touched.
    unsafe { libc::syscall(libc::SYS_close_range, first as c_long, last as c_long, flag as c_long) };
    for i in 0..plan.kept_count {
        // SAFETY: `i` counts them.
        let kept = unsafe { plan.kept.add(i) };
        // SAFETY: in bounds by the line above.
        let kept = unsafe { *kept };
        // SAFETY: takes integers.
        unsafe { libc::syscall(libc::SYS_fcntl, kept as c_long, libc::F_SETFD as c_long, 0 as c_long) };
    }
    // SAFETY: takes integers. This is this process's own table: no other child of the old one gets the channel.
    unsafe { libc::syscall(libc::SYS_fcntl, plan.channel as c_long, libc::F_SETFD as c_long, 0 as c_long) };

    // execve would do it for what is caught, but the mask is changed before; and it leaves what is ignored.
    for signal in 1..=SIGNALS {
        let ignored = plan.ignored & bit(signal) != 0;
        let handler = if ignored { libc::SIG_IGN } else { libc::SIG_DFL };
        let action = KernelAction { handler, rest: [0; 4] };
        let (nothing, size) = (ptr::null_mut::<c_void>(), size_of::<KernelSet>());
        // SAFETY: a valid action, and no room for the old one. SIGKILL and SIGSTOP are refused, which is right.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal as c_long, &raw const action, nothing, size) };
    }
    set_mask(plan.mask);

    plan.step.set(Step::Done);
    // SAFETY: terminated strings in terminated arrays, all of them alive until this returns or the memory is left.
    unsafe { libc::syscall(libc::SYS_execve, plan.executable, plan.argv, plan.envp) };
    fail(plan, Step::Execute);
    exit(127)
}

fn fail(plan: &Plan, step: Step) {
    // The variable is the suspended thread's, which does not need it.
    plan.errno.set(Errno::last_raw());
    plan.step.set(step);
}

/// Not exit(3): that would run the old process's handlers.
fn exit(code: c_int) -> ! {
    // SAFETY: ends the calling process, which is one of the two above.
    unsafe { libc::_exit(code) }
}

const DIGITS: usize = 10;

fn write_digits(at: *mut u8, pid: libc::pid_t) {
    let mut rest = pid.unsigned_abs();
    for i in (0..DIGITS).rev() {
        // SAFETY: `prepare` has left as many places.
        let place = unsafe { at.add(i) };
        // SAFETY: as above.
        unsafe { place.write(b'0' | (rest % 10) as u8) };
        rest /= 10;
    }
}

/// Without leading zeros, which mean octal to systemd. What is behind it stays zero, and ends the string.
fn write_number(at: *mut u8, pid: libc::pid_t) {
    let mut digits = 1;
    let mut rest = pid.unsigned_abs() / 10;
    while rest > 0 {
        digits += 1;
        rest /= 10;
    }
    let mut rest = pid.unsigned_abs();
    for i in (0..digits).rev() {
        // SAFETY: `prepare` has left [`DIGITS`] places, as many as any number has.
        let place = unsafe { at.add(i) };
        // SAFETY: as above.
        unsafe { place.write(b'0' | (rest % 10) as u8) };
        rest /= 10;
    }
}

/// An unprivileged process cannot take back a limit that it has lowered for good; then as much as it can.
fn set_limit(limit: &Limit) {
    let (nothing, resource) = (ptr::null_mut::<libc::rlimit64>(), limit.resource as c_long);
    // SAFETY: a valid limit for this process, and no room for the old one.
    if unsafe { libc::syscall(libc::SYS_prlimit64, 0 as c_long, resource, &raw const limit.value, nothing) } == 0 {
        return;
    }
    let mut now = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: no new limit, and room for the current one.
    if unsafe { libc::syscall(libc::SYS_prlimit64, 0 as c_long, resource, nothing, &raw mut now) } == 0 {
        now.rlim_cur = limit.value.rlim_cur.min(now.rlim_max);
        // SAFETY: as the first. One that is refused again stays as it is: no limit is worth a failed upgrade.
        unsafe { libc::syscall(libc::SYS_prlimit64, 0 as c_long, resource, &raw const now, nothing) };
    }
}

fn set_mask(mask: KernelSet) -> KernelSet {
    let mut old: KernelSet = 0;
    let (how, size) = (libc::SIG_SETMASK as c_long, size_of::<KernelSet>());
    // SAFETY: both sets have the size that the kernel is told.
    unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const mask, &raw mut old, size) };
    old
}

/// Every signal held back for this thread, also those of the C library, until dropped.
struct Blocked(KernelSet);

impl Blocked {
    fn all() -> Self {
        Self(set_mask(KernelSet::MAX))
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_mask(self.0);
    }
}

fn prepare(spawn: &Spawn<'_>) -> Result<Prepared, SpawnError> {
    let origin = spawn.origin;
    let executable = c_string(spawn.executable.as_os_str().as_bytes(), || "the executable's path".into())?;
    let directory = c_string(origin.directory.as_os_str().as_bytes(), || "the working directory's path".into())?;
    let (executable_at, directory_at) = (executable.as_ptr(), directory.as_ptr());
    let mut strings = vec![executable, directory];

    let mut argv = Vec::with_capacity(spawn.args.len() + 1);
    for (i, arg) in spawn.args.iter().enumerate() {
        let arg = c_string(arg.as_bytes(), || format!("argument {i}"))?;
        argv.push(arg.as_ptr());
        strings.push(arg);
    }
    argv.push(ptr::null());

    // In one place, so that the same name is never there twice: which one counts would be up to its reader.
    let replaced = |name: &OsStr| name == CHANNEL || spawn.extra_env.iter().any(|(extra, _)| extra == name);
    let kept = env::vars_os().filter(|(name, _)| !replaced(name));
    let extra = spawn.extra_env.iter().filter(|(name, _)| name != CHANNEL).cloned();
    let mut envp = Vec::new();
    let variables: Vec<_> = kept.chain(extra).collect();
    let this = Pid::this().to_string();
    let listens = variables.iter().any(|(name, value)| name == LISTEN_PID && *value == *this);
    let (mut own, mut numbers) = (vec![], vec![]);
    for (name, value) in variables {
        if name == LISTEN_PIDFDID && listens {
            // It names this process once more, by what nobody knows of the new one yet; without it the number counts.
            continue;
        }
        if NAME_THE_PROCESS.iter().any(|known| name == *known) && *value == *this {
            let mut variable = [name.as_bytes(), b"=", [0; DIGITS + 1].as_slice()].concat();
            let at = variable.as_mut_ptr();
            numbers.push(at.wrapping_add(name.len() + 1));
            envp.push(at.cast_const().cast());
            own.push(variable);
            continue;
        }
        let pair = [name.as_bytes(), b"=", value.as_bytes()].concat();
        let pair = c_string(&pair, || format!("the variable {}", name.display()))?;
        envp.push(pair.as_ptr());
        strings.push(pair);
    }
    let inode = fd::inode(spawn.channel).map_err(SpawnError::Prepare)?;
    let channel = spawn.channel.as_raw_fd();
    let mask = kernel_set(&origin.mask);
    let held = kernel_set(&spawn.handled) & !mask;
    let mut marker = format!("{CHANNEL}={:0DIGITS$}:{channel}:{inode}:{held}\0", 0).into_bytes();
    let marker_at = marker.as_mut_ptr();
    envp.push(marker_at.cast_const().cast());
    envp.push(ptr::null());

    let limits: Vec<Limit> = origin
        .limits
        .iter()
        .map(|limit| Limit {
            resource: limit.resource as c_int,
            value: libc::rlimit64 { rlim_cur: widen(limit.soft), rlim_max: widen(limit.hard) },
        })
        .collect();
    let kept: Vec<RawFd> = origin.descriptors.iter().filter_map(Kept::still).collect();
    let middle_stack = Stack::new().map_err(SpawnError::Prepare)?;
    let new_stack = Stack::new().map_err(SpawnError::Prepare)?;

    Ok(Prepared {
        plan: Plan {
            executable: executable_at,
            argv: argv.as_ptr(),
            envp: envp.as_ptr(),
            digits: marker_at.wrapping_add(CHANNEL.len() + 1),
            numbers: numbers.as_ptr(),
            number_count: numbers.len(),
            channel,
            kept: kept.as_ptr(),
            kept_count: kept.len(),
            directory: directory_at,
            umask: origin.umask.bits(),
            limits: limits.as_ptr(),
            limit_count: limits.len(),
            ignored: kernel_set(&origin.ignored),
            mask: mask | held,
            stack: new_stack.top(),
            pid: Cell::new(0),
            pidfd: Cell::new(-1),
            step: Cell::new(Step::Clone),
            errno: Cell::new(0),
        },
        _strings: strings,
        _argv: argv,
        _envp: envp,
        _marker: marker,
        _own: own,
        _numbers: numbers,
        _limits: limits,
        _kept: kept,
        middle_stack,
        _new_stack: new_stack,
    })
}

fn c_string(bytes: &[u8], what: impl Fn() -> String) -> Result<CString, SpawnError> {
    CString::new(bytes).map_err(|_| SpawnError::ZeroByte { what: what() })
}

fn widen(limit: rlim_t) -> u64 {
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "narrower on some targets")]
    if limit == RLIM_INFINITY { u64::MAX } else { u64::from(limit) }
}

fn kernel_set(set: &SigSet) -> KernelSet {
    let is_in = |signal: &c_int| {
        // SAFETY: an initialised set; a signal that the C library does not know is not in it.
        unsafe { libc::sigismember(set.as_ref(), *signal) == 1 }
    };
    (1..=SIGNALS).filter(is_in).fold(0, |bits, signal| bits | bit(signal))
}

/// A stack for one of the processes, with a guard below it.
struct Stack(NonNull<c_void>);

/// Each of the two parts; a multiple of every page size.
const STACK: NonZeroUsize = NonZeroUsize::new(64 << 10).expect("not zero");
const GUARDED: NonZeroUsize = STACK.saturating_mul(NonZeroUsize::new(2).expect("not zero"));

impl Stack {
    fn new() -> io::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_STACK;
        // SAFETY: a new mapping wherever the kernel likes; nothing existing is replaced.
        let stack = Self(unsafe { mmap_anonymous(None, GUARDED, ProtFlags::PROT_NONE, flags) }?);
        let usable = NonNull::new(stack.0.as_ptr().wrapping_byte_add(STACK.get())).expect("inside the mapping");
        // SAFETY: the upper part of the mapping above, which nobody uses yet.
        unsafe { mprotect(usable, STACK.get(), ProtFlags::PROT_READ | ProtFlags::PROT_WRITE) }?;
        Ok(stack)
    }

    /// Stacks grow downwards on all that Rust's standard library supports under Linux.
    fn top(&self) -> *mut c_void {
        self.0.as_ptr().wrapping_byte_add(GUARDED.get())
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no process runs on it any longer.
        let unmapped = unsafe { munmap(self.0, GUARDED.get()) };
        debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::os::fd::AsFd;

    use nix::sys::resource::{Resource, getrlimit};
    use nix::sys::signal::{SigHandler, Signal, signal};
    use nix::sys::stat::Mode;

    use super::*;
    use crate::sys::env::{Inherited, Limit, take_channel};
    use crate::sys::fd::{PollEntry, poll, recv, send, seqpacket_pair};
    use crate::sys::signal::Signals;

    fn origin() -> Origin {
        let directory = PathBuf::from("/");
        Origin { directory, mask: SigSet::empty(), ignored: SigSet::empty(), ..Origin::capture().unwrap() }
    }

    /// Starts a shell with what `change` makes of an origin and of the signals to be handled, waits for its end, and
    /// gives what the script wrote.
    fn shell(script: &str, change: impl FnOnce(&mut Origin, &mut SigSet)) -> String {
        let (_old, new) = seqpacket_pair().unwrap();
        let out = tempfile::NamedTempFile::new().unwrap();
        let (mut origin, mut handled) = (origin(), SigSet::empty());
        change(&mut origin, &mut handled);
        let child = spawn(&Spawn {
            executable: Path::new("/bin/sh"),
            args: &["sh", "-c", &format!("{{ {script}\n}} > \"$OUT\"")].map(OsString::from),
            extra_env: &[("OUT".into(), out.path().into())],
            origin: &origin,
            handled,
            channel: new.as_fd(),
        })
        .unwrap();
        poll(&mut [PollEntry::readable(child.pidfd.as_fd())], None).unwrap();
        std::fs::read_to_string(out.path()).unwrap()
    }

    fn fields(status: &str) -> HashMap<&str, &str> {
        status.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
    }

    fn bits(signals: &[Signal]) -> KernelSet {
        signals.iter().fold(0, |bits, signal| bits | bit(*signal as c_int))
    }

    const STATUS: &str = "exec cat /proc/self/status";

    #[test]
    fn new_process_is_told_its_own_number_and_is_nobody_s_child_here() {
        let said = shell("echo $$ $FLIP_CHANNEL $PPID", |origin, handled| {
            origin.mask = SigSet::from(Signal::SIGUSR2);
            *handled = SigSet::from_iter([Signal::SIGHUP, Signal::SIGUSR2]);
        });
        let mut words = said.split_whitespace();
        let (pid, channel, parent) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let mut parts = channel.split(':');
        let named = parts.next().unwrap();
        assert_eq!(named.len(), DIGITS);
        assert_eq!(named.trim_start_matches('0'), pid);
        assert_eq!(parts.clone().count(), 3);
        assert_eq!(parts.next_back(), Some("1"), "SIGUSR2 is blocked anyway");
        assert_ne!(parent, Pid::this().to_string());
    }

    #[test]
    fn variables_that_name_the_old_process_name_the_new_one() {
        let (_old, new) = seqpacket_pair().unwrap();
        let said = |named: &str| {
            let out = tempfile::NamedTempFile::new().unwrap();
            let variables = ["LISTEN_PID", "LISTEN_PIDFDID", "WATCHDOG_PID", "SYSTEMD_EXEC_PID"];
            let mut extra_env: Vec<_> = variables.iter().map(|name| (name.into(), named.into())).collect();
            extra_env.push(("OUT".into(), out.path().into()));
            let script = "echo $$ ${LISTEN_PIDFDID-gone} $LISTEN_PID $WATCHDOG_PID $SYSTEMD_EXEC_PID > $OUT";
            let child = spawn(&Spawn {
                executable: Path::new("/bin/sh"),
                args: &["sh", "-c", script].map(OsString::from),
                extra_env: &extra_env,
                origin: &origin(),
                handled: SigSet::empty(),
                channel: new.as_fd(),
            })
            .unwrap();
            poll(&mut [PollEntry::readable(child.pidfd.as_fd())], None).unwrap();
            let said = std::fs::read_to_string(out.path()).unwrap();
            said.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        let words = said(&Pid::this().to_string());
        assert_eq!(words[1], "gone");
        assert_eq!(words[2..], [&*words[0]; 3]);
        // What was meant for another process still is.
        assert_eq!(said("1")[1..], ["1"; 4]);
    }

    #[test]
    fn numbers_have_no_zeros_before_them() {
        for pid in [0, 1, 9, 10, 4_194_304, libc::pid_t::MAX] {
            let mut at = [0; DIGITS + 1];
            write_number(at.as_mut_ptr(), pid);
            assert_eq!(std::ffi::CStr::from_bytes_until_nul(&at).unwrap().to_str().unwrap(), pid.to_string());
        }
    }

    #[test]
    fn process_in_between_leaves_no_zombie() {
        let (_old, new) = seqpacket_pair().unwrap();
        let origin = origin();
        for (executable, step) in [("/bin/true", Step::Done), ("/nowhere/svc", Step::Execute)] {
            let report = start(&Spawn {
                executable: Path::new(executable),
                args: &["true".into()],
                extra_env: &[],
                origin: &origin,
                handled: SigSet::empty(),
                channel: new.as_fd(),
            })
            .unwrap();
            assert_eq!(report.step, step);
            // A process with that number would have to be an unrelated one, and then not of this parent.
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", report.middle)).unwrap_or_default();
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).map(str::to_owned);
            assert_ne!(parent, Some(Pid::this().to_string()));
            if step == Step::Execute {
                // The one that failed was reaped too, before the call returned, and not left to the reaper.
                assert!(report.pidfd.unwrap().signal(Signal::SIGCONT).is_err());
            }
        }
    }

    #[test]
    fn failed_execution_is_known_at_once_with_its_path() {
        let (_old, new) = seqpacket_pair().unwrap();
        let mut origin = origin();
        let mut failure = |executable: &str, directory: Option<&str>| {
            if let Some(directory) = directory {
                origin.directory = directory.into();
            }
            let args = ["svc".into()];
            let (extra_env, handled) = (&[], SigSet::empty());
            let executable = Path::new(executable);
            spawn(&Spawn { executable, args: &args, extra_env, origin: &origin, handled, channel: new.as_fd() })
                .unwrap_err()
        };
        match failure("/nowhere/svc", None) {
            SpawnError::Execute { path, source } => {
                assert_eq!((path.as_path(), source.kind()), (Path::new("/nowhere/svc"), io::ErrorKind::NotFound));
            }
            other => panic!("{other:?}"),
        }
        match failure("/dev/null", None) {
            SpawnError::Execute { source, .. } => assert_eq!(source.kind(), io::ErrorKind::PermissionDenied),
            other => panic!("{other:?}"),
        }
        assert!(matches!(failure("/bin/\0", None), SpawnError::ZeroByte { .. }));
        match failure("/bin/true", Some("/nowhere")) {
            SpawnError::Directory { path, source } => {
                assert_eq!((path.as_path(), source.kind()), (Path::new("/nowhere"), io::ErrorKind::NotFound));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn signals_are_as_recorded_and_not_as_they_are_here() {
        // Handled, ignored and blocked here, and none of that there.
        let _handlers = Signals::install(&[Signal::SIGTTIN, Signal::SIGPROF]).unwrap();
        // SAFETY: no handler.
        unsafe { signal(Signal::SIGVTALRM, SigHandler::SigIgn) }.unwrap();
        SigSet::from(Signal::SIGXFSZ).thread_block().unwrap();
        let said = shell(STATUS, |origin, handled| {
            origin.mask.add(Signal::SIGUSR2);
            origin.ignored.add(Signal::SIGPROF);
            origin.ignored.add(Signal::SIGQUIT);
            *handled = SigSet::from_iter([Signal::SIGHUP, Signal::SIGTERM]);
        });
        SigSet::from(Signal::SIGXFSZ).thread_unblock().unwrap();
        let status = fields(&said);
        let set = |name: &str| KernelSet::from_str_radix(status[name], 16).unwrap();
        assert_eq!(set("SigBlk"), bits(&[Signal::SIGUSR2, Signal::SIGHUP, Signal::SIGTERM]));
        assert_eq!(set("SigIgn"), bits(&[Signal::SIGPROF, Signal::SIGQUIT]));
        assert_eq!(set("SigCgt"), 0);
    }

    #[test]
    fn signals_of_this_thread_are_back_afterwards() {
        SigSet::from(Signal::SIGXCPU).thread_block().unwrap();
        shell("true", |_, _| {});
        assert_eq!(SigSet::thread_get_mask().unwrap(), SigSet::from(Signal::SIGXCPU));
    }

    #[test]
    fn limits_umask_and_directory_are_as_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let said = shell("umask; pwd -P; ulimit -Sn; ulimit -Hn; ulimit -Sc", |origin, _| {
            origin.umask = Mode::from_bits_truncate(0o137);
            origin.directory = dir.path().to_owned();
            origin.limits = vec![
                Limit { resource: Resource::RLIMIT_NOFILE, soft: 77, hard },
                Limit { resource: Resource::RLIMIT_CORE, soft: 0, hard: 0 },
            ];
        });
        let lines: Vec<_> = said.lines().collect();
        let here = dir.path().canonicalize().unwrap();
        assert_eq!(lines, ["0137", here.to_str().unwrap(), "77", &hard.to_string(), "0"]);
        // And nothing of it has changed here.
        assert_ne!(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0, 77);
        assert_ne!(env::current_dir().unwrap(), here);
    }

    /// What a shell sees open, without the channel. From 10 on it keeps its own standard output while that of the group is
    /// redirected, and the directory that it reads for the pattern is closed again when asked for.
    fn open_in_a_shell(before: impl FnOnce()) -> Vec<String> {
        let said = shell(
            "echo $FLIP_CHANNEL; for fd in /proc/$$/fd/*; do readlink $fd > /dev/null && echo $fd; done",
            |_, _| before(),
        );
        let mut lines = said.lines();
        let channel = lines.next().unwrap().split(':').nth(1).unwrap().to_owned();
        let mut open: Vec<_> = lines.map(|line| line.rsplit('/').next().unwrap().to_owned()).collect();
        assert!(open.contains(&channel));
        open.retain(|fd| *fd != channel && (fd.parse::<u32>().unwrap() < 10 || fd.parse::<i32>().unwrap() >= 700));
        open.sort_unstable();
        open
    }

    /// As a library does that knows nothing of CLOEXEC.
    fn open_plainly(number: RawFd) -> OwnedFd {
        // SAFETY: a number that no test has open.
        let number = Errno::result(unsafe { libc::dup2(2, number) }).unwrap();
        // SAFETY: just opened.
        unsafe { OwnedFd::from_raw_fd(number) }
    }

    #[test]
    fn only_standard_streams_and_what_was_there_at_the_start_are_inherited() {
        let _another = std::fs::File::open("/dev/null").unwrap();
        let mut later = None;
        assert_eq!(open_in_a_shell(|| later = Some(open_plainly(700))), ["0", "1", "2"]);
        drop(later);
        let _from_the_start = open_plainly(701);
        assert_eq!(open_in_a_shell(|| ()), ["0", "1", "2", "701"]);
    }

    #[test]
    fn environment_is_this_one_with_what_was_given() {
        let said = shell("env", |_, _| {});
        let here = env::var("PATH").unwrap();
        assert!(said.lines().any(|line| line == format!("PATH={here}")));
        assert_eq!(said.lines().filter(|line| line.starts_with("OUT=")).count(), 1);
        assert_eq!(said.lines().filter(|line| line.starts_with("FLIP_CHANNEL=")).count(), 1);
    }

    #[test]
    fn many_threads_start_many_processes() {
        std::thread::scope(|scope| {
            for i in 0..4 {
                scope.spawn(move || {
                    for j in 0..8 {
                        let said = shell(&format!("echo {i} {j} $$ $FLIP_CHANNEL"), |_, _| {});
                        let words: Vec<_> = said.split_whitespace().collect();
                        assert_eq!(words[..2], [i.to_string(), j.to_string()]);
                        assert_eq!(words[3].split(':').next().unwrap().trim_start_matches('0'), words[2]);
                    }
                });
            }
        });
    }

    const PROBE: &str = "FLIP_TEST_SUCCESSOR";

    #[test]
    fn new_process_takes_the_channel_and_is_known_by_it() {
        if env::var_os(PROBE).is_some() {
            // Here is the new process.
            let Inherited::Channel(channel, _) = take_channel() else { panic!("no channel") };
            assert!(env::var_os(CHANNEL).is_none());
            assert!(matches!(take_channel(), Inherited::Cold));
            send(channel.as_fd(), b"hello", &[]).unwrap();
            // Until the old process has looked.
            assert!(recv(channel.as_fd(), &mut [0; 1]).unwrap().is_eof());
            return;
        }
        let (old, new) = seqpacket_pair().unwrap();
        let origin = origin();
        let name = "sys::spawn::tests::new_process_takes_the_channel_and_is_known_by_it";
        let args = ["successor", name, "--exact", "--test-threads=1"].map(OsString::from);
        let child = spawn(&Spawn {
            executable: &origin.executable,
            args: &args,
            extra_env: &[(PROBE.into(), "1".into())],
            origin: &origin,
            handled: SigSet::empty(),
            channel: new.as_fd(),
        })
        .unwrap();
        drop(new);
        let mut buf = [0; 16];
        let hello = recv(old.as_fd(), &mut buf).unwrap();
        assert_eq!(&buf[..hello.len], b"hello");
        assert_eq!(hello.pid, Some(child.pid));
        assert!(!child.pidfd.is_dead());
        drop(old);
        poll(&mut [PollEntry::readable(child.pidfd.as_fd())], None).unwrap();
        assert!(child.pidfd.is_dead());
    }
}
