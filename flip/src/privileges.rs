//! What this process may not do any more, and an upgrade needs.

use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use crate::sys::env;

/// What an upgrade will fail for, as far as that can be seen now: said at the start, and not on the day of the deployment.
///
/// It is looked at when the service serves for the first time, by the thread that starts new processes: by then `main` has dropped what it
/// drops, setuid(2). `filters`: how many that thread began with.
pub(crate) fn advice(
    executable: &Path,
    directory: &Path,
    pid_file: Option<&Path>,
    filters: Option<u32>,
) -> Vec<String> {
    // As the user that this process acts as; root may do both, except for a file that nobody may execute.
    let may = |path| faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS);
    let user = geteuid();
    let mut advice = vec![];
    if let Err(errno) = may(executable) {
        advice.push(match errno {
            Errno::ENOENT => format!(
                "an upgrade will fail: there is no {}; install the next release under this name, or name another one with \
                 `executable`",
                executable.display()
            ),
            _ => format!(
                "an upgrade will fail: user {user} cannot execute {} ({}); make it, and the directories above it, accessible to \
                 that user",
                executable.display(),
                errno.desc()
            ),
        });
    }
    if let Err(errno) = may(directory) {
        advice.push(format!(
            "an upgrade will fail: user {user} cannot enter {}, where this process was started ({}); start it in a directory that \
             this user may enter (WorkingDirectory=)",
            directory.display(),
            errno.desc()
        ));
    }
    if let Some(file) = pid_file
        && let Some(dir) = file.parent()
        && let Err(errno) = faccessat(AT_FDCWD, dir, AccessFlags::W_OK | AccessFlags::X_OK, AtFlags::AT_EACCESS)
    {
        advice.push(format!(
            "an upgrade will leave the number of the process before in the pid file {}: user {user} cannot write to {} ({}); give it a \
             directory of that user's (RuntimeDirectory=)",
            file.display(),
            dir.display(),
            errno.desc()
        ));
    }
    if let (Some(before), Some(now)) = (filters, env::filters())
        && before < now
    {
        // What it forbids is not to be found out: a call that is forbidden may end the process.
        advice.push(
            "a filter of system calls (seccomp) was set for flip's threads as well: an upgrade will fail unless it allows what starts \
             a process (clone, execve, close_range, prlimit64); set it for each thread of your own instead"
                .to_owned(),
        );
    }
    advice
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_cannot_be_executed_or_entered_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("svc");
        assert!(advice(&program, dir.path(), None, None)[0].contains("there is no"));
        std::fs::write(&program, "").unwrap();
        let [said] = &advice(&program, dir.path(), None, None)[..] else { panic!("one line") };
        assert!(said.contains("cannot execute") && said.contains("svc"), "{said}");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(advice(&program, dir.path(), None, None), Vec::<String>::new());
        let file = dir.path().join("gone/a.pid");
        let [said] = &advice(&program, dir.path(), Some(&file), None)[..] else { panic!("one line") };
        assert!(said.contains("in the pid file") && said.contains("gone/a.pid"), "{said}");
        let said = advice(&program, &dir.path().join("gone"), None, None);
        assert!(said[0].contains("cannot enter") && said[0].contains("WorkingDirectory="), "{said:?}");
    }
}
