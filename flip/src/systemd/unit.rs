//! What a unit has that will bite later: its own files, as far as this process may read them, systemd.unit(5).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the system's units lie, the first that has one counts; the files of `.d` directories are added, from everywhere.
const SYSTEM: [&str; 9] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/run/systemd/transient",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/run/systemd/generator",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// The same of a user's manager, below these variables, or below the user's home where there is a second.
const USER: [(&str, &str, &str); 10] = [
    ("XDG_CONFIG_HOME", ".config", "systemd/user.control"),
    ("XDG_RUNTIME_DIR", "", "systemd/user.control"),
    ("XDG_RUNTIME_DIR", "", "systemd/transient"),
    ("XDG_CONFIG_HOME", ".config", "systemd/user"),
    ("", "", "/etc/systemd/user"),
    ("XDG_RUNTIME_DIR", "", "systemd/user"),
    ("XDG_RUNTIME_DIR", "", "systemd/generator"),
    ("XDG_DATA_HOME", ".local/share", "systemd/user"),
    ("", "", "/usr/local/lib/systemd/user"),
    ("", "", "/usr/lib/systemd/user"),
];

/// What the program wants of its unit.
#[derive(Clone, Copy)]
pub(crate) struct Wants {
    /// Its state is to be stored.
    pub(crate) stores: bool,
    pub(crate) ready_timeout: Duration,
    pub(crate) drain_timeout: Duration,
}

/// One sentence each, with the line to write.
pub(super) fn advice(variable: impl Fn(&str) -> Option<OsString>, wants: Wants) -> Vec<String> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some(name) = name(&cgroup) else { return vec![] };
    let settings = read(name, &paths(variable));
    if settings.is_empty() { vec![] } else { lint(name, &settings, wants) }
}

/// Which of the two managers it was says systemd.exec(5).
fn paths(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if variable("MANAGERPID").is_none() {
        return SYSTEM.map(PathBuf::from).to_vec();
    }
    let below = |(base, at_home, path): (&str, &str, &str)| match base {
        "" => Some(PathBuf::from(path)),
        _ => match variable(base) {
            Some(base) => Some(Path::new(&base).join(path)),
            None if at_home.is_empty() => None,
            None => Some(Path::new(&variable("HOME")?).join(at_home).join(path)),
        },
    };
    USER.into_iter().filter_map(below).collect()
}

/// The unit that this process was started by: the last service in the path of its control group.
fn name(cgroup: &str) -> Option<&str> {
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(|path| path.rsplit('/').find(|part| part.ends_with(".service"))).next_back()
}

/// What is set under `[Service]`, by the last that sets it; nothing where the unit itself cannot be read.
fn read(name: &str, paths: &[PathBuf]) -> BTreeMap<String, String> {
    let mut names = vec![name.to_owned()];
    // foo@bar.service is made from foo@.service.
    if let Some((template, _)) = name.split_once('@') {
        names.push(format!("{template}@.service"));
    }
    let mut settings = BTreeMap::new();
    let unit = names.iter().flat_map(|name| paths.iter().map(move |path| path.join(name)));
    // Where it is not to be seen (ProtectHome=, PrivateTmp=), what its drop-ins say is not all there is.
    let Some(text) = unit.into_iter().find_map(|path| std::fs::read_to_string(path).ok()) else { return settings };
    parse(&text, &mut settings);
    // Those for all whose names begin so, and for every service, systemd.unit(5).
    let stem = name.trim_end_matches(".service");
    names.extend(stem.rmatch_indices('-').map(|(at, _)| format!("{}.service", &stem[..=at])));
    names.push("service".to_owned());
    // By the name of the file, wherever it lies; where two have one name the first directory counts.
    let mut dropins: BTreeMap<_, PathBuf> = BTreeMap::new();
    for path in paths.iter().flat_map(|path| names.iter().map(move |name| path.join(format!("{name}.d")))) {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == "conf") {
                dropins.entry(entry.file_name()).or_insert(entry.path());
            }
        }
    }
    for text in dropins.into_values().filter_map(|path| std::fs::read_to_string(path).ok()) {
        parse(&text, &mut settings);
    }
    settings
}

fn parse(text: &str, settings: &mut BTreeMap<String, String>) {
    let (text, mut section) = (text.replace("\\\n", " "), "");
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])) {
        if line.starts_with('[') {
            section = line;
        } else if section == "[Service]"
            && let Some((key, value)) = line.split_once('=')
        {
            settings.insert(key.trim_end().to_owned(), value.trim_start().to_owned());
        }
    }
}

fn lint(name: &str, settings: &BTreeMap<String, String>, wants: Wants) -> Vec<String> {
    let value = |key: &str| settings.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let mut advice = vec![];
    let mut say = |text: String| advice.push(format!("{name}: {text}"));
    if value("Type") == Some("notify") && value("ExecReload").is_none() {
        say("`systemctl reload` has nothing to run; write Type=notify-reload, or before systemd 253 ExecReload=/bin/kill -HUP $MAINPID"
            .to_owned());
    }
    if matches!(value("Restart"), None | Some("no")) {
        say("a service that dies while nobody can take over from it is not started again; write Restart=on-failure"
            .to_owned());
    }
    match value("KillMode") {
        Some("mixed") => {}
        Some(mode @ ("process" | "none")) => say(format!(
            "with KillMode={mode} processes that drain outlive the service and keep its listeners; write KillMode=mixed"
        )),
        _ => say("with KillMode=control-group a service that dies is started again only when all that drain have ended; write \
                  KillMode=mixed"
            .to_owned()),
    }
    if value("OOMPolicy") != Some("continue") {
        say("where the new process of an upgrade runs out of memory systemd ends the old one with it; write OOMPolicy=continue"
            .to_owned());
    }
    if value("NotifyAccess") == Some("all") {
        say("with NotifyAccess=all any child of the service can end or rename it; write NotifyAccess=main, only that process speaks"
            .to_owned());
    }
    if wants.stores && value("FileDescriptorStoreMax").is_none_or(|most| most == "0") {
        say("the state is to be stored, and nothing is kept of a service that dies; write FileDescriptorStoreMax=16"
            .to_owned());
    }
    // TimeoutSec= is both.
    for (key, name, time) in [
        ("TimeoutStartSec", "ready_timeout", wants.ready_timeout),
        ("TimeoutStopSec", "drain_timeout", wants.drain_timeout),
    ] {
        let limit = [key, "TimeoutSec"].into_iter().find_map(|key| Some((key, value(key)?)));
        if let Some((said, text)) = limit
            && time_span(text).is_some_and(|limit| limit < time)
        {
            let time = time.as_secs_f64();
            say(format!(
                "{said}={text} is shorter than {name} ({time}s): systemd is told to wait, and forgets it in a daemon-reload; write \
                 {key}={}s",
                time + 5.0
            ));
        }
    }
    if let (Some(file), Some(kind @ ("notify" | "notify-reload"))) = (value("PIDFile"), value("Type")) {
        say(format!(
            "PIDFile={file} with Type={kind} is a second opinion on who serves; remove the line, systemd is told the process"
        ));
    }
    advice
}

/// A time as in systemd.time(7), `90` or `1min 30s`; none where it has no end, or is written in units that no start is measured in.
fn time_span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let seconds = match unit {
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "ms" | "msec" => 1e-3,
            "us" | "usec" => 1e-6,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            _ => return None,
        };
        let time = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        all = all.checked_add(time)?;
        rest = after.trim_start();
    }
    // Zero is no limit, as `infinity` is.
    (!all.is_zero()).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_the_service_that_is_nearest() {
        assert_eq!(name("0::/system.slice/counter.service\n"), Some("counter.service"));
        assert_eq!(name("0::/user.slice/user@1000.service/app.slice/a@b.service/payload\n"), Some("a@b.service"));
        assert_eq!(name("12:cpu:/\n1:name=systemd:/system.slice/x.service\n0::/\n"), Some("x.service"));
        assert_eq!(name("0::/user.slice/session-1.scope\n"), None);
    }

    #[test]
    fn units_of_a_user_lie_elsewhere() {
        let variables =
            [("MANAGERPID", "7"), ("HOME", "/home/a"), ("XDG_RUNTIME_DIR", "/run/user/1"), ("XDG_DATA_HOME", "/data")];
        let of =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value));
        let paths = paths(of);
        for path in
            ["/home/a/.config/systemd/user", "/run/user/1/systemd/transient", "/data/systemd/user", "/etc/systemd/user"]
        {
            assert!(paths.contains(&PathBuf::from(path)), "{path}: {paths:?}");
        }
        assert!(paths.iter().all(|path| path.is_absolute() && !path.ends_with("system")), "{paths:?}");
        assert!(super::paths(|_| None).contains(&PathBuf::from("/etc/systemd/system")));
    }

    #[test]
    fn settings_are_those_of_the_last_file_that_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("etc"), dir.path().join("lib"));
        let write = |path: PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            second.join("a@.service"),
            "[Unit]\nType=no\n[Service]\n# KillMode=no\nType = notify\nKillMode=process\n",
        );
        write(second.join("a@.service.d/10.conf"), "[Service]\nKillMode=\n");
        write(first.join("a@b.service.d/20.conf"), "[Service]\nKillMode=mixed\n");
        write(first.join("a@b.service.d/readme"), "[Service]\nKillMode=no\n");
        write(second.join("service.d/00.conf"), "[Service]\nOOMPolicy=\\\ncontinue\nType=of-all\n");
        let settings = read("a@b.service", &[first.clone(), second.clone()]);
        let expected = [("KillMode", "mixed"), ("OOMPolicy", "continue"), ("Type", "of-all")]
            .map(|(key, value)| (key.into(), value.into()));
        assert_eq!(settings, BTreeMap::from(expected));
        write(first.join("c-d-.service.d/10.conf"), "[Service]\nType=notify\n");
        assert!(read("c-d-e.service", &[first.clone(), second.clone()]).is_empty());
        ["c-d-e.service", "c-e.service"].iter().for_each(|name| write(second.join(name), "[Service]\n"));
        assert_eq!(read("c-d-e.service", &[first.clone(), second.clone()])["Type"], "notify");
        assert_eq!(read("c-e.service", &[first, second])["Type"], "of-all");
    }

    #[test]
    fn each_is_told_with_the_line_to_write() {
        let lint = |text: &str, stores| {
            let (ready_timeout, drain_timeout) = (Duration::from_secs(60), Duration::from_secs(30));
            let wants = Wants { stores, ready_timeout, drain_timeout };
            let mut settings = BTreeMap::new();
            parse(&format!("[Service]\n{text}"), &mut settings);
            lint("a.service", &settings, wants)
        };
        let good = "Type=notify-reload\nRestart=always\nKillMode=mixed\nOOMPolicy=continue\n";
        assert_eq!(lint(good, false), Vec::<String>::new());
        assert_eq!(
            lint(&format!("{good}TimeoutStartSec=1min\nTimeoutStopSec=30\nTimeoutSec=5\n"), false),
            Vec::<String>::new()
        );
        assert_eq!(lint(&format!("{good}FileDescriptorStoreMax=3\n"), true), Vec::<String>::new());
        for (line, wanted) in [
            ("Type=notify", "write Type=notify-reload, or before systemd 253 ExecReload="),
            ("Restart=no", "write Restart=on-failure"),
            ("KillMode=", "write KillMode=mixed"),
            ("KillMode=process", "write KillMode=mixed"),
            ("OOMPolicy=stop", "write OOMPolicy=continue"),
            ("NotifyAccess=all", "write NotifyAccess=main"),
            ("PIDFile=/run/a.pid", "remove the line"),
            ("TimeoutStartSec=59s 999ms", "write TimeoutStartSec=65s"),
            (
                "TimeoutStopSec=29",
                "drain_timeout (30s): systemd is told to wait, and forgets it in a daemon-reload; write TimeoutStopSec=35s",
            ),
            ("TimeoutSec=40", "TimeoutSec=40 is shorter than ready_timeout"),
            ("FileDescriptorStoreMax=0", "write FileDescriptorStoreMax=16"),
        ] {
            let said = lint(&format!("{good}{line}\n"), line.starts_with("File"));
            assert!(
                said.len() == 1 && said[0].starts_with("a.service: ") && said[0].contains(wanted),
                "{line}: {said:?}"
            );
        }
    }

    #[test]
    fn time_spans_are_read_as_systemd_reads_them() {
        let seconds = |text| time_span(text).map(|time| time.as_secs_f64());
        for (text, wanted) in [("90", 90.0), ("1min 30s", 90.0), ("1min30", 90.0), ("0.5 h", 1800.0), ("1500ms", 1.5)] {
            assert_eq!(seconds(text), Some(wanted), "{text}");
        }
        for text in ["", "0", "infinity", "2 weeks", "-5s", "s", "1.2.3", "99999999999999999999h"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
