//! Starts, reloads and stops the server.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::children::Exit;
use super::clock::boot_ms;
use super::control::{Control, ControlState, PidFile, major_version};
use super::disk::{lay_file, remove_if_there};
use super::last_words::Output;
use super::live::{Guard, Role};
use super::processes::{Table, read_one};
use super::protocol::{DataState, DownReason, Refusal, RestPosition, Server};
use super::wal::end_of_wal;
use crate::core::types::{Lsn, Position, Term};

/// How long an immediate shutdown may take.
const IMMEDIATE: Duration = Duration::from_millis(200);
/// Why an order was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Nothing was changed.
    Refused(Refusal, String),
    /// Begun, not finished well.
    Failed(String),
}

impl From<std::io::Error> for Problem {
    fn from(e: std::io::Error) -> Self {
        Self::Failed(e.to_string())
    }
}

/// Result of an order.
pub type Outcome<T = ()> = Result<T, Problem>;

/// A refusal because of the server's or PGDATA's state.
pub fn wrong_state<T>(why: impl Into<String>) -> Outcome<T> {
    Err(Problem::Refused(Refusal::WrongState, why.into()))
}

impl Guard {
    /// Starts the server in this role. `term`: the permit that it needs; none for a standby. The caller has written the settings.
    ///
    /// # Errors
    /// When it could not be started; it is down then.
    pub fn start(self: &Arc<Self>, role: Role, term: Option<Term>, last: &[&str]) -> Outcome {
        if role != Role::Initialising {
            if self.live().data != DataState::Complete {
                return wrong_state("PGDATA holds no complete database: initialise or clone first");
            }
            self.check_data_version(major_version(&self.settings.pgdata))?;
            self.clear_the_way()?;
        }
        self.clear_socket_locks();
        let output = Arc::new(Output::default());
        {
            let live = self.live();
            if live.stopping || live.stopping_server {
                return wrong_state("the server or its container is being stopped");
            }
        }
        let claimed = self.update(|live| {
            let permitted = |t: Term| {
                live.permit
                    .is_some_and(|p| p.term == t && p.deadline_boot_ms > boot_ms())
            };
            if term.is_some_and(|t| !permitted(t)) || live.stopping_server {
                return None;
            }
            live.role = role;
            live.server = Server::Starting;
            live.rest = None;
            live.seen_recovery = false;
            live.restartable = false;
            live.output = Arc::clone(&output);
            Some(live.fences)
        });
        let Some(fences) = claimed else {
            return Err(Problem::Refused(
                Refusal::NotPermitted,
                "the server may run read-write only under a live permit of the order's term".to_owned(),
            ));
        };
        let spawned = self
            .lay_signals(role)
            .and_then(|()| self.spawn_server(last, &output));
        let result = self.update(|live| match spawned {
            Ok(pid) if live.fences == fences => {
                live.server_pid = Some(pid);
                Ok(())
            }
            Ok(_) => Err(None),
            Err(e) => {
                if live.fences == fences {
                    live.role = Role::None;
                    live.server = Server::Down {
                        reason: DownReason::Crashed,
                        detail: e.to_string(),
                    };
                }
                Err(Some(e))
            }
        });
        match result {
            Ok(()) => {
                tracing::info!(?role, "started the server");
                Ok(())
            }
            Err(None) => {
                // Fenced while it was being started: the fence may have looked before there was anything to see.
                self.belongs.kill_all(&self.spared());
                self.lay_standby_signal();
                Err(Problem::Failed(
                    "the permit ended while the server was started".to_owned(),
                ))
            }
            Err(Some(e)) => {
                self.lay_standby_signal();
                Err(Problem::Failed(format!(
                    "cannot start '{}': {e}. Is it in the image, and executable?",
                    self.command.program
                )))
            }
        }
    }

    /// Removes what would keep the server from starting or make it something else.
    fn clear_the_way(&self) -> Outcome {
        let pgdata = &self.settings.pgdata;
        let strays = self.belongs.strays(&[]);
        if let Some(stray) = strays.first() {
            return wrong_state(format!("process {stray} of PostgreSQL still runs in PGDATA"));
        }
        // With nobody in PGDATA its number is that of something else, or of nothing; PostgreSQL itself would only ask kill(0).
        if remove_if_there(&pgdata.join("postmaster.pid"))? {
            tracing::info!("removed a stale postmaster.pid");
        }
        super::prepare::restrict(pgdata)?;
        for file in ["promote", "recovery.signal"] {
            remove_if_there(&pgdata.join(file))?;
        }
        self.unbar_numbers()?;
        let removed = self.clean_auto_conf(pgdata)?;
        self.report_auto_conf(&removed);
        Ok(())
    }

    fn lay_signals(&self, role: Role) -> std::io::Result<()> {
        match role {
            Role::Standby => lay_file(&self.standby_signal()),
            Role::Primary => remove_if_there(&self.standby_signal()).map(drop),
            Role::None | Role::Promoting | Role::Initialising => Ok(()),
        }
    }

    fn spawn_server(self: &Arc<Self>, last: &[&str], output: &Arc<Output>) -> std::io::Result<i32> {
        let mut command = Command::new(&self.command.program);
        command
            .args(self.command.arguments(&self.settings.config_file(), last))
            .env("PGDATA", &self.settings.pgdata)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .process_group(0);
        if let Some(home) = &self.settings.home {
            command.env("HOME", home);
        }
        let (pid, mut child) = self.children.spawn(&mut command)?;
        if let Some(stderr) = child.stderr.take() {
            let (guard, output) = (Arc::clone(self), Arc::clone(output));
            std::thread::spawn(move || guard.pass_on(stderr, &output));
        }
        Ok(pid)
    }

    /// The postmaster: the process started, or one below it when the entrypoint stays in between.
    #[must_use]
    pub fn postmaster(&self) -> Option<i32> {
        let server = self.live().server_pid?;
        if read_one(server).is_some_and(|p| p.is_postgres()) {
            return Some(server);
        }
        let file = PidFile::read(&self.settings.pgdata)?;
        Table::read().descends(file.pid, server).then_some(file.pid)
    }

    /// Makes the server read its configuration again.
    pub fn reload(&self) {
        if let Some(pid) = self.postmaster() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGHUP);
        }
    }

    /// Gives up the permit and ends the server: fast, after `fast` immediate, then SIGKILL; a writing one never later than its permit's
    /// end. Lays `standby.signal`.
    pub fn stop_server(self: &Arc<Self>, fast: Duration, reason: DownReason) {
        let postmaster = self.postmaster();
        let (pid, kill_at, fences) = self.update(|live| {
            let kill_at = live
                .permit
                .filter(|_| live.role.writes())
                .map(|p| p.deadline_boot_ms);
            live.permit = None;
            live.role = Role::None;
            live.fences += 1;
            live.restartable = false;
            live.stopping_server = true;
            live.cancelled = live.operation.is_some();
            if !matches!(live.server, Server::Down { .. }) {
                live.server = Server::Stopping;
            }
            (live.server_pid, kill_at, live.fences)
        });
        self.end_operation();
        if let Some(pid) = pid {
            let target = Pid::from_raw(postmaster.unwrap_or(pid));
            let until_kill = |at_most: Duration| {
                kill_at.map_or(at_most, |at| {
                    at_most.min(Duration::from_millis(at.saturating_sub(boot_ms())))
                })
            };
            let mut exit = None;
            if !fast.is_zero() {
                let _ = kill(target, Signal::SIGINT);
                exit = self.wait_for_end(pid, until_kill(fast));
            }
            if exit.is_none() {
                let _ = kill(target, Signal::SIGQUIT);
                exit = self.wait_for_end(pid, until_kill(IMMEDIATE));
            }
            tracing::info!(exit = %exit.map_or_else(|| "none: killed".to_owned(), |e| e.to_string()), "stopped the server");
        }
        self.belongs.kill_all(&self.spared());
        self.update(|live| {
            // A fence that came after this finishes by itself.
            if live.fences != fences {
                return;
            }
            live.stopping_server = false;
            live.server_pid = None;
            if pid.is_some() || !matches!(live.server, Server::Down { .. }) {
                live.server = Server::Down {
                    reason,
                    detail: String::new(),
                };
            }
        });
        self.lay_standby_signal();
    }

    fn wait_for_end(&self, pid: i32, at_most: Duration) -> Option<Exit> {
        if !self.children.is_foreign(pid) {
            return self.children.wait(pid, at_most);
        }
        let end = Instant::now() + at_most;
        loop {
            if read_one(pid).is_none_or(|p| !p.is_alive()) {
                return Some(Exit::Status(0));
            }
            if Instant::now() >= end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Reads where the stopped server's WAL ends and keeps it for the status.
    pub fn read_rest(&self, hint: Option<Lsn>) -> Option<Position> {
        // A copy that was not recovered yet: the WAL beside it may be of another history.
        let fresh_copy = self.settings.pgdata.join("backup_label").exists();
        if self.live().data != DataState::Complete || fresh_copy {
            self.update(|live| {
                live.rest = None;
                live.fresh_copy = fresh_copy;
            });
            return None;
        }
        let rest = rest_position(&self.settings.pgdata, hint);
        let problem = rest
            .as_ref()
            .err()
            .map(|e| format!("the end of WAL could not be read: {e}"));
        self.warn("end of WAL", problem);
        let rest = rest.ok();
        self.update(|live| {
            live.rest.clone_from(&rest);
            live.fresh_copy = false;
        });
        rest.map(|r| r.position)
    }
}

/// The end of a stopped server's WAL, and whether it was shut down cleanly.
///
/// # Errors
/// When it cannot be read.
pub fn rest_position(pgdata: &Path, hint: Option<Lsn>) -> std::io::Result<RestPosition> {
    let control = Control::read(pgdata)?;
    if control.state == ControlState::ShutDown {
        let position = Position {
            timeline: control.timeline,
            last_record: control.checkpoint,
        };
        return Ok(RestPosition {
            position,
            clean: true,
        });
    }
    Ok(RestPosition {
        position: end_of_wal(pgdata, hint)?,
        clean: control.state == ControlState::ShutDownInRecovery,
    })
}
