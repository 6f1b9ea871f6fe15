//! The only place that starts and reaps processes. As PID 1 the guard inherits every orphan, so one thread waits for all of them and
//! keeps what became of those that were started here.

use std::collections::HashMap;
use std::process::{Child, Command};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Status(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// True for status 0.
    #[must_use]
    pub fn is_success(self) -> bool {
        self == Self::Status(0)
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// Processes started here: none while they run.
#[derive(Debug, Default)]
pub struct Children {
    table: Mutex<HashMap<i32, Option<Exit>>>,
    changed: Condvar,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Option<Exit>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a process. The caller takes its pipes and never waits for it by itself.
    ///
    /// # Errors
    /// As `Command::spawn`.
    pub fn spawn(&self, command: &mut Command) -> std::io::Result<(i32, Child)> {
        // Held over the start, so that the reaper cannot meet a child that is not in the table yet.
        let mut table = self.lock();
        let child = command.spawn()?;
        let pid = i32::try_from(child.id()).unwrap_or(i32::MAX);
        table.insert(pid, None);
        drop(table);
        self.changed.notify_all();
        Ok((pid, child))
    }

    /// How a process that was started here ended; none while it runs. Told once for each process: it is then forgotten.
    pub fn take_exit(&self, pid: i32) -> Option<Exit> {
        let mut table = self.lock();
        let exit = (*table.get(&pid)?)?;
        table.remove(&pid);
        Some(exit)
    }

    /// True for a process that was not started here (or whose end was told already).
    pub fn is_foreign(&self, pid: i32) -> bool {
        !self.lock().contains_key(&pid)
    }

    /// Waits until it ended, at most so long.
    pub fn wait(&self, pid: i32, at_most: Duration) -> Option<Exit> {
        let end = Instant::now() + at_most;
        let mut table = self.lock();
        loop {
            if let Some(exit) = *table.get(&pid)? {
                table.remove(&pid);
                return Some(exit);
            }
            let left = end.checked_duration_since(Instant::now())?;
            table = self
                .changed
                .wait_timeout(table, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Reaps for ever; `notify` is called after each process that was started here. The thread's body.
    pub fn reap(&self, notify: impl Fn()) {
        loop {
            // Looked at first and reaped under the lock: its number cannot be given to another process meanwhile.
            match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                Ok(status) => {
                    if let Some(pid) = status.pid()
                        && self.reap_one(pid)
                    {
                        notify();
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::ECHILD) => {
                    // As PID 1 a foreign child may come at any time, unannounced.
                    let table = self.lock();
                    drop(self.changed.wait_timeout(table, Duration::from_millis(25)));
                }
                // A real-time signal, which nix cannot name: reap whichever ended.
                Err(_) => {
                    let _ = waitpid(None, Some(WaitPidFlag::WNOHANG));
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
    }

    fn reap_one(&self, pid: Pid) -> bool {
        let mut table = self.lock();
        let exit = match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => Exit::Status(status),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
            Ok(_) => return false,
            Err(_) => Exit::Signal(0),
        };
        let Some(entry) = table.get_mut(&pid.as_raw()) else {
            return false;
        };
        *entry = Some(exit);
        drop(table);
        self.changed.notify_all();
        true
    }
}
