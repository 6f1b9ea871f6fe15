//! Pledges (invariant 5): from one on, nothing of an older term is written or received here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::live::{Guard, Role, lock};
use super::processes::{Process, Table, title};
use super::protocol::{DownReason, Pledge};
use super::server::{Outcome, Problem};
use super::settings::Desired;
use crate::core::types::{Lsn, Position, Term};

/// How long a standby may take to let go of its upstream before it is ended.
const LET_GO: Duration = Duration::from_secs(1);
/// How long the startup process gets to end its receiver by itself, which it does when it has read the new configuration.
const BY_ITSELF: Duration = Duration::from_millis(40);
/// How long nothing may stir before that is believed.
const STILL: Duration = Duration::from_millis(8);

impl Guard {
    /// Pledges to `term`; the status then holds it and the position. Again to the same term: as it was.
    ///
    /// # Errors
    /// When the disk did not take the pledge. The server has given up what it followed all the same.
    pub fn pledge(self: &Arc<Self>, term: Term, hint: Option<Lsn>) -> Outcome {
        let known = self.live().pledge.clone();
        if known.is_some_and(|p| p.term == term && p.position.is_some()) {
            return Ok(());
        }
        let role = self.update(|live| {
            live.barred_below = live.barred_below.max(term);
            live.role
        });
        if role == Role::Standby {
            self.let_go()?;
        } else {
            self.stop_server(Duration::ZERO, DownReason::Stopped);
            let names = lock(&self.desired).names.clone();
            self.write_settings(&Desired {
                names,
                upstream: None,
            })?;
        }
        self.save(|state| {
            state.pledge = Some(term);
            state.highest_term = state.highest_term.max(term);
            state.knows_term = true;
        })
        .map_err(|e| Problem::Failed(format!("the pledge to term {term} could not be written: {e}")))?;
        let position = self.read_held(hint);
        self.update(|live| live.pledge = Some(Pledge { term, position }));
        tracing::info!(%term, position = %position.map_or_else(|| "unknown".to_owned(), |p| p.to_string()), "pledged");
        Ok(())
    }

    /// The WAL held, with nobody left who adds to it.
    fn read_held(&self, hint: Option<Lsn>) -> Option<Position> {
        if self.live().role != Role::Standby {
            return self.read_rest(hint);
        }
        let end = super::wal::end_of_wal(&self.settings.pgdata, hint);
        let problem = end
            .as_ref()
            .err()
            .map(|e| format!("the end of WAL could not be read: {e}"));
        self.warn("end of WAL", problem);
        end.ok()
    }

    /// Makes the running standby follow nobody, and sees that it does not. One that cannot be seen to is ended.
    fn let_go(self: &Arc<Self>) -> Outcome {
        let names = lock(&self.desired).names.clone();
        self.write_settings(&Desired {
            names,
            upstream: None,
        })?;
        self.reload();
        if self.has_let_go() {
            return Ok(());
        }
        tracing::warn!("the standby did not let go of its upstream in time: ending it");
        self.stop_server(Duration::ZERO, DownReason::Stopped);
        Ok(())
    }

    fn has_let_go(&self) -> bool {
        let Some(postmaster) = self.postmaster() else {
            return false;
        };
        let began = Instant::now();
        let mut still_since: Option<Instant> = None;
        while began.elapsed() < LET_GO {
            let table = Table::read();
            match Receiver::look(&table, postmaster) {
                Receiver::Gone => {
                    let since = *still_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= STILL {
                        return true;
                    }
                }
                Receiver::Unclear => still_since = None,
                Receiver::Runs(receiver) => {
                    still_since = None;
                    if began.elapsed() >= BY_ITSELF {
                        let _ = kill(Pid::from_raw(receiver.pid), Signal::SIGTERM);
                    }
                }
            }
            std::thread::sleep(Duration::from_millis(4));
        }
        false
    }

    /// Ends the receiver if the startup process did not do so by itself after a change of upstream (a paused replay does not).
    pub fn renew_receiver(&self) {
        let Some(postmaster) = self.postmaster() else {
            return;
        };
        let Receiver::Runs(old) = Receiver::look(&Table::read(), postmaster) else {
            return;
        };
        self.reload();
        let began = Instant::now();
        while began.elapsed() < LET_GO / 4 {
            std::thread::sleep(Duration::from_millis(10));
            match Receiver::look(&Table::read(), postmaster) {
                Receiver::Runs(now) if now.pid == old.pid => {}
                _ => return,
            }
        }
        let _ = kill(Pid::from_raw(old.pid), Signal::SIGTERM);
    }
}

/// The WAL receiver, judged by processes: pg_stat_wal_receiver is empty while one connects.
enum Receiver {
    /// There is none, and the startup process sleeps with nothing begun, so it has read its configuration.
    Gone,
    /// One may be about to start.
    Unclear,
    /// This one.
    Runs(Process),
}

impl Receiver {
    fn look(table: &Table, postmaster: i32) -> Self {
        let mut startup = None;
        for child in table.children(postmaster) {
            let title = title(child.pid);
            if title.contains("walreceiver") {
                return Self::Runs(child.clone());
            }
            if title.contains(": startup") {
                startup = Some(child);
            } else if !title.contains(": ") {
                // Just forked, and not yet called what it is.
                return Self::Unclear;
            }
        }
        // The startup process asks for a receiver with the configuration that it read last. Asleep, with no restore_command below
        // it, it has woken for the reload and read the new one: the reload's signal does not let it sleep on.
        match startup {
            Some(s) if s.state == 'S' && table.children(s.pid).next().is_none() => Self::Gone,
            _ => Self::Unclear,
        }
    }
}
