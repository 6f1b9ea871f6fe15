//! Processes as `/proc` shows them: which belong together, and signals to them by pid.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// All pids visible here.
#[must_use]
pub fn all() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .collect()
}

/// The inode that names the PID namespace of this process; none when it is gone or not ours to look at.
#[must_use]
pub fn pid_namespace(pid: i32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/pid"))
        .ok()
        .map(|meta| meta.ino())
}

/// Fields of `/proc/<pid>/stat` after the command's name: state first, then parent.
fn stat_fields(pid: i32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

/// The parent's pid.
#[must_use]
pub fn parent(pid: i32) -> Option<i32> {
    stat_fields(pid)?.get(1)?.parse().ok()
}

/// When the process began, in clock ticks since boot: with the pid it names one process for good.
#[must_use]
pub fn start_time(pid: i32) -> Option<u64> {
    stat_fields(pid)?.get(19)?.parse().ok()
}

/// Processor time that it used, user's and system's, in clock ticks (proc(5), `stat` fields 14 and 15).
#[must_use]
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    let fields = stat_fields(pid)?;
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(ticks(11)? + ticks(12)?)
}

/// True while the process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat_fields(pid).is_some_and(|fields| fields.first().is_some_and(|state| state != "Z" && state != "X"))
}

/// Children of the process, oldest first.
#[must_use]
pub fn children(pid: i32) -> Vec<i32> {
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")) {
        return text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
    }
    all()
        .into_iter()
        .filter(|&other| parent(other) == Some(pid))
        .collect()
}

/// The process and everything below it.
#[must_use]
pub fn descendants(root: i32) -> BTreeSet<i32> {
    let mut by_parent: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all() {
        if let Some(up) = parent(pid) {
            by_parent.entry(up).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![root];
    while let Some(pid) = open.pop() {
        if is_alive(pid) && found.insert(pid) {
            open.extend(by_parent.get(&pid).into_iter().flatten().copied());
        }
    }
    found
}

/// The working directory of the process.
#[must_use]
pub fn working_directory(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// Every server process works in its PGDATA, also one whose parents are gone.
#[must_use]
pub fn working_below(directory: &Path) -> BTreeSet<i32> {
    all()
        .into_iter()
        .filter(|&pid| is_alive(pid) && working_directory(pid).is_some_and(|cwd| cwd.starts_with(directory)))
        .collect()
}

/// The name of the program that the process runs (`comm`).
#[must_use]
pub fn command_name(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The command line, words separated by blanks.
#[must_use]
pub fn command_line(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim()
        .to_owned()
}

/// Resident memory in KiB.
#[must_use]
pub fn resident_kib(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Sends a signal. A process that is gone already is no error.
///
/// # Errors
/// When the kernel refuses (not our process).
pub fn signal(pid: i32, signal: Signal) -> Result<(), Errno> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}
