//! A service under test: its first process, and every generation after it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::{Exit, Gate, Log, Mark, PATIENCE, Process, number_after};

/// The number under which a service gets a channel of the test's.
const CHANNEL: RawFd = 200;

/// How a service is started.
pub struct Start {
    dir: TempDir,
    program: PathBuf,
    args: Vec<String>,
    env: Vec<(String, String)>,
    /// What starts the program: a shell, or env(1).
    through: Vec<String>,
    terminal: Option<OwnedFd>,
    channel: Option<OwnedFd>,
    passed: Vec<OwnedFd>,
}

impl Start {
    /// This executable, in an empty directory.
    pub fn new(executable: &str) -> Start {
        let dir = tempfile::Builder::new().prefix("flip-").tempdir().expect("a directory for the test");
        Start {
            dir,
            program: executable.into(),
            args: vec![],
            env: vec![],
            through: vec![],
            terminal: None,
            channel: None,
            passed: vec![],
        }
    }

    pub fn arg(mut self, arg: &str) -> Start {
        self.args.push(arg.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Start {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn envs(mut self, variables: &[(&str, &str)]) -> Start {
        self.env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self
    }

    /// By a program that is given another to execute, as env(1) is.
    pub fn through(mut self, words: &[&str]) -> Start {
        self.through = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Under this name in the directory: a symbolic link, which a test can replace.
    pub fn linked_as(mut self, name: &str) -> Start {
        let link = self.dir.path().join(name);
        if let Some(parent) = link.parent() {
            std::fs::create_dir_all(parent).expect("a directory for the link");
        }
        symlink(&self.program, &link).expect("the directory is empty");
        self.program = link;
        self
    }

    /// As this path, which may be relative to the directory, or a name to be found through `PATH`.
    pub fn called(mut self, program: &str) -> Start {
        self.program = program.into();
        self
    }

    /// With this as its controlling terminal, and without a launcher unless the environment says so afterwards.
    pub fn terminal(mut self, terminal: OwnedFd) -> Start {
        self.env.push(("FLIP_LAUNCHER".to_owned(), "off".to_owned()));
        self.terminal = Some(terminal);
        self
    }

    /// With this as the channel to an old process; and whatever the variable is to say of it, in the words of a shell
    /// that knows `$$`, `$FD` and `$INODE`.
    pub fn channel(mut self, channel: OwnedFd, variable: &str) -> Start {
        let inode = nix::sys::stat::fstat(&channel).expect("it is open").st_ino;
        let script = format!("FD={CHANNEL} INODE={inode}; FLIP_CHANNEL=\"{variable}\" exec \"$0\" \"$@\"");
        self.through = vec!["sh".into(), "-c".into(), script];
        self.channel = Some(channel);
        self
    }

    /// With these as what a service manager passes, sd_listen_fds(3), and whatever the variables are to say of it, in the words of a
    /// shell that knows `$$`.
    pub fn passing(mut self, passed: Vec<OwnedFd>, variables: &str) -> Start {
        self.through = vec!["sh".into(), "-c".into(), format!("{variables} exec \"$0\" \"$@\"")];
        self.passed = passed;
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A gate that is shut from the start.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::shut(&self.dir.path().join(format!("{name}.gate")))
    }

    /// The service, once its first process says that it is ready.
    pub fn start(self) -> Chain {
        let chain = self.spawn();
        chain.line(&format!("pid {} is ready", chain.owner.pid));
        chain
    }

    /// The service, whatever becomes of it.
    pub fn spawn(self) -> Chain {
        static REAPER: Once = Once::new();
        REAPER.call_once(|| nix::sys::prctl::set_child_subreaper(true).expect("any process may become one"));

        let (read, write) = std::io::pipe().expect("a pipe for the lines");
        let mut words = self.through.iter().map(PathBuf::from).chain([self.program]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words).args(&self.args).current_dir(self.dir.path());
        // What a supervisor of the test says is not meant for the service.
        for (name, _) in std::env::vars_os() {
            let name = name.as_bytes();
            if name.starts_with(b"FLIP_")
                || [&b"NOTIFY_SOCKET"[..], b"INVOCATION_ID", b"LISTEN_FDS", b"SYSTEMD_EXEC_PID"].contains(&name)
            {
                command.env_remove(std::ffi::OsStr::from_bytes(name));
            }
        }
        command.env("PWD", self.dir.path()).env("RUST_BACKTRACE", "0").envs(self.env);
        let terminal = self.terminal.as_ref().map(|terminal| terminal.try_clone().expect("a descriptor"));
        let has_terminal = terminal.is_some();
        if !has_terminal {
            command.process_group(0);
        }
        let channel = self.channel;
        // From 3 on, once they lie where none of them is overwritten.
        let kept: Vec<OwnedFd> = (self.passed.iter())
            .map(|fd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(CHANNEL + 1)))
            // SAFETY: just made, for nobody else.
            .map(|fd| unsafe { OwnedFd::from_raw_fd(fd.expect("a descriptor")) })
            .collect();
        let passed: Vec<_> = kept.iter().map(AsRawFd::as_raw_fd).collect();
        let prepare = move || {
            // The first of a session, which makes it the first of a process group as well.
            if has_terminal {
                nix::unistd::setsid()?;
                // SAFETY: takes integers; standard input is the terminal.
                nix::errno::Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
            }
            if let Some(channel) = &channel {
                // SAFETY: takes integers; the number is far above what is open.
                nix::errno::Errno::result(unsafe { libc::dup2(channel.as_raw_fd(), CHANNEL) })?;
            }
            // What the test itself was given by whoever runs it is not meant for the service.
            // SAFETY: takes integers, and closes nothing before the program is executed.
            let marked = unsafe { libc::close_range(3, CHANNEL as u32 - 1, libc::CLOSE_RANGE_CLOEXEC as i32) };
            nix::errno::Errno::result(marked)?;
            for (number, fd) in (3..).zip(&passed) {
                // SAFETY: takes integers; those that are passed lie above.
                nix::errno::Errno::result(unsafe { libc::dup2(*fd, number) })?;
            }
            // SAFETY: as above.
            let marked = unsafe { libc::close_range(CHANNEL as u32 + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
            nix::errno::Errno::result(marked).map(drop).map_err(Into::into)
        };
        // SAFETY: three system calls, no memory and no locks.
        unsafe { command.pre_exec(prepare) };
        command
            .stdin(terminal.map_or_else(Stdio::null, Stdio::from))
            .stdout(write.try_clone().expect("a descriptor"))
            .stderr(write);
        let pid = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")).id();
        // It has the writing ends of the pipe.
        drop((command, kept));
        let pid = i32::try_from(pid).expect("process numbers are small");
        let (log, reader) = Log::read(read);
        Chain { dir: self.dir, group: Pid::from_raw(pid), owner: Process::open(pid), log, reader: Some(reader) }
    }
}

/// A service and all its generations. When it is dropped, all that is left of it is killed and reaped.
pub struct Chain {
    dir: TempDir,
    group: Pid,
    /// Who serves, as far as the test has followed it.
    owner: Process,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
}

/// Asks the processes of a service.
#[derive(Clone)]
pub struct Asker(PathBuf);

impl Asker {
    /// What a process answers, if it does.
    ///
    /// # Errors
    /// It is not there, or ends before it answers.
    pub fn try_ask(&self, pid: i32, question: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.0.join(format!("{pid}.ask")))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        stream.shutdown(Shutdown::Write)?;
        // To its end: then the process has closed its side, and no test counts that descriptor.
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let answer = answer.strip_suffix('\n').ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok(answer.to_owned())
    }
}

/// One process of the group, as /proc lists it.
#[derive(Debug)]
struct Member {
    pid: i32,
    parent: i32,
    state: char,
}

impl Chain {
    pub fn owner(&self) -> &Process {
        &self.owner
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A descriptor of no use.
    pub fn dir_fd(&self) -> OwnedFd {
        std::fs::File::open(self.dir()).expect("the test's own directory").into()
    }

    /// A gate that is shut from now on.
    pub fn gate(&self, name: &str) -> Gate {
        Gate::shut(&self.dir.path().join(format!("{name}.gate")))
    }

    /// What a process does at its start, from now on; nothing in particular where this is empty.
    pub fn at_start(&self, what: &str) {
        std::fs::write(self.dir.path().join("start"), what).expect("the test's own directory");
    }

    /// Replaces a file of the directory by a program, as an installer does.
    pub fn install(&self, name: &str, put: impl FnOnce(&Path)) {
        let beside = self.dir.path().join(format!("{name}.installing"));
        put(&beside);
        std::fs::rename(&beside, self.dir.path().join(name)).expect("both are in the test's own directory");
    }

    // ---- what is said

    /// Waits for a line with this in it.
    pub fn line(&self, text: &str) -> String {
        self.line_after(Mark::START, text)
    }

    /// Waits for a line with this in it, said later than the mark.
    pub fn line_after(&self, mark: Mark, text: &str) -> String {
        self.find_after(mark, text, |line| line.contains(text).then(|| line.to_owned()))
    }

    fn find_after<T>(&self, mark: Mark, what: &str, find: impl FnMut(&str) -> Option<T>) -> T {
        self.log.find(mark, find).unwrap_or_else(|why| self.fail(&format!("waited for {what:?}: {why}")))
    }

    /// The new process of the upgrade that began after the mark.
    pub fn started_after(&self, mark: Mark) -> Process {
        Process::open(self.find_after(mark, "starts as pid", |line| number_after(line, " starts as pid ")))
    }

    /// Ends the test, with all that was said and what is left of the service.
    pub fn fail(&self, why: &str) -> ! {
        panic!("{why}\n--- processes: {:?}\n--- said:\n{}\n---", self.members(), self.log.text())
    }

    // ---- what is asked

    /// What a process answers.
    pub fn ask(&self, process: &Process, question: &str) -> String {
        self.asker()
            .try_ask(process.pid, question)
            .unwrap_or_else(|error| self.fail(&format!("pid {}: {question}: {error}", process.pid)))
    }

    /// Asks from other threads, whichever process.
    pub fn asker(&self) -> Asker {
        Asker(self.dir.path().to_owned())
    }

    /// What the owner answers.
    pub fn tell(&self, question: &str) -> String {
        self.ask(&self.owner, question)
    }

    /// Lets a process go that was told to `hold` something. It may be gone before it can answer.
    pub fn release(&self, process: &Process) {
        let _ = self.asker().try_ask(process.pid, "release");
    }

    // ---- what happens

    /// Asks for an upgrade by signal and waits for its end. Gives the process that has handed over.
    ///
    /// # Errors
    /// The report of the roll-back.
    pub fn upgrade(&mut self) -> Result<Process, String> {
        let mark = self.log.mark();
        self.owner.signal(Signal::SIGHUP);
        self.upgraded(mark)
    }

    /// [`upgrade`](Self::upgrade) where it was asked for in another way, after the mark.
    ///
    /// # Errors
    /// The report of the roll-back.
    pub fn upgraded(&mut self, mark: Mark) -> Result<Process, String> {
        let pid = self.find_after(mark, "the end of the upgrade", |line| {
            if line.contains("upgrade rolled back: ") {
                return Some(Err(line.to_owned()));
            }
            line.contains("; freeze to commit ").then(|| Ok(number_after(line, "(pid ").expect("it names the process")))
        })?;
        Ok(self.owned_by(Process::open(pid)))
    }

    /// Follows the service to its new owner. Gives the one before.
    pub fn owned_by(&mut self, owner: Process) -> Process {
        std::mem::replace(&mut self.owner, owner)
    }

    /// An upgrade after which the old process has nothing left to do.
    pub fn replace(&mut self) {
        let old = self.upgrade().unwrap_or_else(|report| self.fail(&report));
        assert_eq!(self.exit(&old), Exit::Status(0));
    }

    /// Where its first process says that it listens.
    pub fn address(&self) -> SocketAddr {
        let line = self.line("listens at ");
        line.rsplit_once(' ').and_then(|(_, address)| address.parse().ok()).expect("it ends with an address")
    }

    /// Waits for the end of a process, once.
    pub fn exit(&self, process: &Process) -> Exit {
        if !process.ends_within(PATIENCE) {
            self.fail(&format!("pid {} does not end", process.pid));
        }
        process.reap()
    }

    /// Stops the owner and sees to it that everybody leaves in good order: others first, the owner last, nobody killed.
    pub fn stop(mut self) -> Arc<Log> {
        self.owner.signal(Signal::SIGTERM);
        self.stopped()
    }

    /// [`stop`](Self::stop) where it was asked for already.
    pub fn stopped(&mut self) -> Arc<Log> {
        let exit = self.exit(&self.owner);
        if exit != Exit::Status(0) {
            self.fail(&format!("the owner ended with {exit:?}"));
        }
        self.gone();
        Arc::clone(&self.log)
    }

    /// A signal to every process of the service.
    pub fn signal_all(&self, signal: Signal) {
        killpg(self.group, signal).unwrap_or_else(|errno| self.fail(&format!("{signal} to all: {errno}")));
    }

    /// Waits until one process is left that has the content, and follows the service to it. Gives the count.
    pub fn settle(&mut self) -> String {
        let mut settled = None;
        self.until("one process is left and serves", || {
            let mut living = self.members();
            living.retain(|member| member.state != 'Z');
            let [one] = &living[..] else { return false };
            let count = self.asker().try_ask(one.pid, "get").unwrap_or_default();
            settled = count.parse::<u64>().is_ok().then(|| (Process::open(one.pid), count));
            settled.is_some()
        });
        let (owner, count) = settled.expect("it was waited for");
        self.owned_by(owner);
        count
    }

    /// Stops the service whoever owns it, by one signal to every process.
    pub fn stop_all(mut self) -> Arc<Log> {
        self.signal_all(Signal::SIGTERM);
        self.only(&[]);
        self.gone();
        Arc::clone(&self.log)
    }

    /// Sees that nobody is left but zombies that this test has to reap.
    pub fn gone(&mut self) {
        let here = std::process::id().cast_signed();
        let members = self.members();
        if members.iter().any(|member| member.state != 'Z' || member.parent != here) {
            self.fail("somebody is left");
        }
        if !self.log.wait_over() {
            self.fail("somebody outside of the group is left");
        }
    }

    /// Waits for what nothing tells of: the kernel's view of a process. Looks again and again.
    #[track_caller]
    pub fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !is_so() {
            if Instant::now() > deadline {
                self.fail(&format!("waited until {what}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until these are the only ones of the service that live; the others are reaped.
    pub fn only(&self, processes: &[&Process]) {
        let here = std::process::id().cast_signed();
        for member in self.members() {
            if processes.iter().any(|process| process.pid == member.pid) {
                continue;
            }
            // It may end, and another's child be reaped, at any time.
            let Some(process) = self.still_there(&member) else { continue };
            if !process.ends_within(PATIENCE) {
                self.fail(&format!("pid {} is left", member.pid));
            }
            if self.members().iter().any(|left| left.pid == member.pid && left.parent != here) {
                self.fail(&format!("pid {} is nobody's to reap but its living parent's, who does not", member.pid));
            }
            let _ = waitid(Id::Pid(Pid::from_raw(member.pid)), WaitPidFlag::WEXITED);
        }
    }

    fn still_there(&self, member: &Member) -> Option<Process> {
        Path::new(&format!("/proc/{}", member.pid)).exists().then(|| Process::open(member.pid))
    }

    fn members(&self) -> Vec<Member> {
        let mut members = vec![];
        for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
            // After the name, which may contain anything: state, parent, process group; see proc_pid_stat(5).
            let Some((_, fields)) = stat.rsplit_once(") ") else { continue };
            let mut fields = fields.split(' ');
            let state = fields.next().and_then(|state| state.chars().next());
            let mut number = || fields.next()?.parse::<i32>().ok();
            if let (Some(state), Some(parent), Some(group)) = (state, number(), number())
                && group == self.group.as_raw()
            {
                members.push(Member { pid, parent, state });
            }
        }
        members
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // A process that was being started when its parent was killed may have missed the first round.
        while self.members().iter().any(|member| member.state != 'Z') {
            let _ = killpg(self.group, Signal::SIGKILL);
            std::thread::yield_now();
        }
        while waitid(Id::PGid(self.group), WaitPidFlag::WEXITED).is_ok() {}
        if let Some(reader) = self.reader.take() {
            // It ends with the last writer, and all of them are dead.
            let _ = reader.join();
        }
    }
}
