//! When the rig itself is killed, nobody else would end its containers: a helper process waits for the rig's end on a pipe, and
//! then kills what the rig noted and removes its directory.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::process;

const NOTES: &str = "processes";
/// Exists while the directory shall stay.
const KEEP: &str = "keep";

/// Notes a process that must not outlive the rig, with its start time: a pid alone may mean another process later.
pub fn note(directory: &Path, pid: i32) {
    let Some(start) = process::start_time(pid) else {
        return;
    };
    let noted = OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join(NOTES))
        .and_then(|mut file| writeln!(file, "{pid} {start}"));
    if let Err(error) = noted {
        tracing::warn!("cannot note a process for the watchdog: {error}");
    }
}

/// Leaves the directory when the rig ends.
///
/// # Errors
/// When that cannot be noted.
pub fn keep_directory(directory: &Path) -> Result<()> {
    std::fs::write(directory.join(KEEP), "").context("cannot note that the directory stays")
}

/// SIGKILL to every noted process that still is the one noted; how many there were.
pub fn kill_noted(directory: &Path) -> usize {
    let notes = std::fs::read_to_string(directory.join(NOTES)).unwrap_or_default();
    let mut killed = 0;
    for line in notes.lines() {
        let mut words = line.split_whitespace();
        let pid: Option<i32> = words.next().and_then(|word| word.parse().ok());
        let start: Option<u64> = words.next().and_then(|word| word.parse().ok());
        if let Some(pid) = pid
            && process::start_time(pid) == start
            && process::is_alive(pid)
            && process::signal(pid, Signal::SIGKILL).is_ok()
        {
            killed += 1;
        }
    }
    // Without namespaces a server's processes may have outlived their guard.
    for pid in process::working_below(directory) {
        if process::command_name(pid).is_some_and(|name| name == "postgres") {
            let _ = process::signal(pid, Signal::SIGKILL);
        }
    }
    killed
}

/// The rig's end of the pipe. Dropped with the rig, however that ends.
#[derive(Debug)]
pub struct Watchdog {
    child: Child,
}

impl Watchdog {
    /// Starts the helper: `chaos`, or this executable.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(directory: &Path, chaos: Option<&Path>) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let program = match chaos {
            Some(path) => path.to_path_buf(),
            None => std::env::current_exe().context("cannot find this executable")?,
        };
        let child = Command::new(&program)
            .arg("watchdog")
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start the watchdog {}", program.display()))?;
        Ok(Self { child })
    }

    /// The rig has ended its containers itself.
    pub fn finish(mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The helper's whole life.
pub fn watch(directory: &Path) {
    let mut nothing = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut nothing);
    kill_noted(directory);
    if directory.join(KEEP).exists() {
        return;
    }
    // What was killed may hold the directory for a moment longer.
    for _ in 0..50 {
        if !directory.exists() || std::fs::remove_dir_all(directory).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
