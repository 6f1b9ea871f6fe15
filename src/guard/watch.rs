//! Watches what PostgreSQL does, not what it was told: leaves recovery, ends, is started or promoted by somebody else.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::children::Exit;
use super::control::{Control, ControlState, PidFile};
use super::live::{Guard, Live, Role};
use super::processes::{read_one, title};
use super::protocol::{DownReason, Server};
use super::resident::shed_code;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_millis(20);
/// How often all processes are looked at.
const LOOK_AT_PROCESSES: Duration = Duration::from_millis(250);
/// How often housekeeping is done.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Rounds of housekeeping without a change of the server after which a change is over.
const QUIET_ROUNDS: u32 = 3;
/// And after which everything that follows it is over.
const LONG_QUIET_ROUNDS: u32 = 20;

impl Guard {
    /// The thread that notices the server's end and PostgreSQL processes that nobody ordered. Reads /proc only.
    pub fn watch_processes(self: &Arc<Self>) {
        let mut looked = Instant::now();
        loop {
            let live = self.wait(self.live(), LOOK);
            let pid = live.server_pid;
            drop(live);
            if let Some(exit) = pid.and_then(|pid| self.exit_of(pid)) {
                self.server_ended(pid, exit);
            }
            if looked.elapsed() >= LOOK_AT_PROCESSES {
                looked = Instant::now();
                self.end_strays();
            }
        }
    }

    /// How the server's process ended. An adopted one is nobody's child in the table: it has ended when it is gone.
    fn exit_of(&self, pid: i32) -> Option<Exit> {
        if self.live().stopping_server {
            return None;
        }
        self.children.take_exit(pid).or_else(|| {
            let gone = read_one(pid).is_none_or(|p| !p.is_alive());
            (gone && self.children.is_foreign(pid)).then_some(Exit::Signal(0))
        })
    }

    fn server_ended(self: &Arc<Self>, pid: Option<i32>, exit: Exit) {
        {
            let live = self.live();
            if live.server_pid != pid || live.stopping_server {
                return;
            }
        }
        if !exit.is_success() {
            // Backends outlive their postmaster for a while and may acknowledge in that time.
            self.belongs.kill_all(&self.spared());
        }
        tracing::warn!(%exit, "the server ended by itself");
        self.update(|live| {
            if live.server_pid != pid || live.stopping_server {
                return;
            }
            live.restartable = live.role == Role::Primary && live.permit.is_some();
            live.role = Role::None;
            live.server_pid = None;
            live.server = Server::Down {
                reason: DownReason::Crashed,
                detail: format!("{exit}\n{}", live.output.words()),
            };
        });
    }

    /// A PostgreSQL process in PGDATA outside the server's own tree: taken over if a primary was restarted by hand under a live
    /// permit, else ended.
    fn end_strays(self: &Arc<Self>) {
        let before = self.live().watch_mark();
        if before.is_busy {
            return;
        }
        let known = [before.server_pid, self.live().operation_pid];
        if let Some(&stray) = self.belongs.strays(&known).first() {
            self.meet_stray(stray, &before);
        }
    }

    fn meet_stray(self: &Arc<Self>, pid: i32, before: &WatchMark) {
        // One with another configuration would not know whom to wait for with a commit.
        let own = format!("config_file={}", self.settings.config_file().display());
        let as_ordered = title(pid).contains(&own);
        let adopted = self.update(|live| {
            if live.watch_mark() != *before {
                return true;
            }
            if !as_ordered || !live.restartable || live.permit.is_none() {
                return false;
            }
            live.restartable = false;
            live.role = Role::Primary;
            live.server_pid = Some(pid);
            live.server = Server::Starting;
            true
        });
        if adopted {
            return;
        }
        let detail = format!("process {pid} of PostgreSQL runs in PGDATA and was not started by pgbaton");
        self.fence(DownReason::Unpermitted, &detail, |live| {
            live.watch_mark() == *before
        });
    }

    /// The thread that reads PGDATA.
    pub fn watch_files(self: &Arc<Self>) {
        let mut kept = Instant::now();
        let mut quiet = (self.live().watch_mark(), 0);
        loop {
            std::thread::sleep(LOOK);
            self.look_at_files();
            if kept.elapsed() >= HOUSEKEEPING {
                kept = Instant::now();
                self.keep_house();
                quiet = self.shed_when_quiet(quiet);
            }
        }
    }

    /// After each change of the server, when it is over and again when what follows it (permits, names, a checkpoint) is over too: what
    /// was needed for it stays away from then on.
    fn shed_when_quiet(&self, (before, rounds): (WatchMark, u32)) -> (WatchMark, u32) {
        let mark = self.live().watch_mark();
        if mark != before || mark.is_busy {
            return (mark, 0);
        }
        if rounds == QUIET_ROUNDS || rounds == LONG_QUIET_ROUNDS {
            shed_code();
        }
        (mark, rounds.saturating_add(1))
    }

    fn look_at_files(self: &Arc<Self>) {
        let before = self.live().watch_mark();
        if before.is_busy {
            return;
        }
        let pgdata = &self.settings.pgdata;
        if before.role != Role::Promoting {
            self.remove_stray_promote();
        }
        let pid_file = PidFile::read(pgdata);
        if let Some(file) = &pid_file
            && self.is_stray(file, before.server_pid)
        {
            self.meet_stray(file.pid, &before);
            return;
        }
        if before.server_pid.is_none() {
            return;
        }
        let Ok(control) = Control::read(pgdata) else {
            return;
        };
        let up = pid_file.is_some_and(|f| f.is_up());
        match before.role {
            Role::Standby => {
                let signal_gone = matches!(self.standby_signal().try_exists(), Ok(false));
                self.check_standby(&before, control.state, up, signal_gone);
            }
            Role::Primary if up && control.state == ControlState::InProduction => {
                self.settle(&before, &Server::Primary);
            }
            _ => {}
        }
    }

    fn check_standby(self: &Arc<Self>, before: &WatchMark, state: ControlState, up: bool, signal_gone: bool) {
        if state == ControlState::InArchiveRecovery {
            if !self.live().seen_recovery {
                self.update(|live| {
                    live.seen_recovery |= live.watch_mark() == *before;
                });
            }
            if up && !signal_gone {
                self.settle(before, &Server::Standby);
            }
        }
        // A crashed primary's pg_control says "in production" until its recovery as a standby has begun.
        let produces = state == ControlState::InProduction && (up || self.live().seen_recovery);
        if !signal_gone && !produces {
            return;
        }
        self.fence(
            DownReason::Unpermitted,
            "the standby left recovery, or its standby.signal was removed, and pgbaton did not promote it",
            |live| live.watch_mark() == *before,
        );
    }

    fn settle(&self, before: &WatchMark, server: &Server) {
        if self.live().server != Server::Starting {
            return;
        }
        self.update(|live| {
            if live.watch_mark() == *before && live.server == Server::Starting {
                live.server = server.clone();
                // A server that is up has recovered whatever copy it was started on.
                live.fresh_copy = false;
            }
        });
    }

    /// A postmaster that wrote its number into PGDATA and is not ours.
    fn is_stray(&self, file: &PidFile, server: Option<i32>) -> bool {
        // Single-user servers write a negative number: pg_rewind runs one.
        let pid = file.pid.abs();
        let known = [server, self.live().operation_pid];
        self.belongs.is_stray(pid, &known)
    }

    /// `promote` is a time bomb: it promotes at some later signal (nobody may lay it but an order of the guard).
    fn remove_stray_promote(&self) {
        let path = self.settings.pgdata.join("promote");
        if std::fs::remove_file(&path).is_ok() {
            tracing::warn!("removed the file {}, which nobody ordered", path.display());
        }
    }
}

/// What a watcher looked at before it read files; it acts only if this still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchMark {
    role: Role,
    server_pid: Option<i32>,
    fences: u64,
    is_busy: bool,
}

impl Live {
    fn watch_mark(&self) -> WatchMark {
        let between = self.role != Role::None && self.server_pid.is_none();
        let operates = self
            .operation
            .as_ref()
            .is_some_and(|(o, _)| o.kind == "initialise");
        WatchMark {
            role: self.role,
            server_pid: self.server_pid,
            fences: self.fences,
            is_busy: between || operates || self.stopping_server,
        }
    }
}
