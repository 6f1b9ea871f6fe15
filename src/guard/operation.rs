//! Long operations run on a thread of their own; and the first of them: making the database.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use super::clock::boot_ms;
use super::control::{Control, ControlState, PidFile, major_version};
use super::disk::{Unfinished, is_empty};
use super::housekeeping::{mark_with, new_data_id};
use super::live::{Guard, Role, lock};
use super::processes::read_one;
use super::protocol::{DataState, DownReason, Operation, OperationEnd, Refusal};
use super::server::{Outcome, Problem, wrong_state};
use super::settings::Desired;
use crate::core::types::Term;

/// How long the new server may take for its first clean stop.
const FIRST_STOP: Duration = Duration::from_secs(60);
/// How long lines of an entrypoint that has ended may still be on their way.
const LAST_WORDS: Duration = Duration::from_millis(500);

impl Guard {
    /// Runs `work` on its own thread as the one operation.
    pub fn operate(
        self: &Arc<Self>,
        kind: &'static str,
        sequence: u64,
        bytes_total: Option<u64>,
        work: impl FnOnce(&Arc<Self>) -> Result<(), String> + Send + 'static,
    ) {
        self.update(|live| {
            let operation = Operation {
                kind: kind.to_owned(),
                sequence,
                bytes_done: 0,
                bytes_total,
                running_ms: 0,
            };
            live.operation = Some((operation, boot_ms()));
            live.operation_pid = None;
            live.cancelled = false;
        });
        let guard = Arc::clone(self);
        std::thread::spawn(move || {
            tracing::info!(kind, "operation began");
            let error = work(&guard).err().map(|e| guard.secrets.hide(&e));
            match &error {
                None => tracing::info!(kind, "operation ended well"),
                Some(e) => tracing::error!(kind, "operation failed: {e}"),
            }
            let found = guard.find_out();
            let problem = found.err().map(|e| format!("PGDATA cannot be read: {e}"));
            guard.warn("PGDATA", problem);
            guard.update(|live| {
                live.operation = None;
                live.operation_pid = None;
                live.rest = None;
                live.last_operation = Some(OperationEnd {
                    kind: kind.to_owned(),
                    sequence,
                    error,
                });
            });
        });
    }

    /// Makes the database with the image's entrypoint, under a permit: its temporary server is read-write.
    ///
    /// # Errors
    /// When PGDATA holds a database, or without a permit.
    pub fn initialise(self: &Arc<Self>, term: Term, sequence: u64) -> Outcome {
        if self.live().data == DataState::Complete {
            return wrong_state("PGDATA holds a database already");
        }
        if !self.is_permitted(term) {
            return Err(Problem::Refused(
                Refusal::NotPermitted,
                format!("making a database needs a live permit of term {term}"),
            ));
        }
        if !is_empty(&self.settings.pgdata)? {
            // What an initialisation left half done is made anew whatever its version; other data is somebody's.
            if self.state().unfinished != Some(Unfinished::Initialise) {
                self.check_data_version(major_version(&self.settings.pgdata))?;
            }
            self.move_aside()?;
        }
        self.save(|state| {
            state.unfinished = Some(Unfinished::Initialise);
            state.data_id = None;
        })?;
        self.write_settings(&Desired::default())?;
        self.operate("initialise", sequence, None, move |guard| {
            guard.make_database(term)
        });
        Ok(())
    }

    fn make_database(self: &Arc<Self>, term: Term) -> Result<(), String> {
        // The entrypoint ends by running the server for good; nobody shall reach that one from outside before it is stopped.
        let last = ["-c", "listen_addresses=", "-c", "archive_mode=off"];
        self.start(Role::Initialising, Some(term), &last)
            .map_err(|p| match p {
                Problem::Refused(_, why) | Problem::Failed(why) => why,
            })?;
        self.await_final_server()?;
        self.stop_server(FIRST_STOP, DownReason::Stopped);
        let _ = fs::remove_file(self.standby_signal());
        let control =
            Control::read(&self.settings.pgdata).map_err(|e| format!("no usable pg_control: {e}"))?;
        if control.state != ControlState::ShutDown {
            return Err("the new server did not stop cleanly; it will be made anew".to_owned());
        }
        let data_id = new_data_id();
        let finish = || {
            mark_with(&self.settings.pgdata, &data_id)?;
            self.save(|state| {
                state.renew(Some(data_id.clone()));
                // This data was made under the term's own permit.
                state.knows_term = true;
                state.unfinished = None;
            })
        };
        let order = lock(&self.orders);
        let done = finish().map_err(|e| format!("the new database could not be marked as complete: {e}"));
        drop(order);
        done
    }

    /// Waits until the entrypoint has become the server and this one is up. As long as the permit lives: the image's own scripts may
    /// load whole dumps.
    fn await_final_server(&self) -> Result<(), String> {
        loop {
            let live = self.live();
            let (pid, role, cancelled) = (live.server_pid, live.role, live.cancelled);
            let output = Arc::clone(&live.output);
            drop(live);
            let (Some(pid), Role::Initialising, false) = (pid, role, cancelled) else {
                return Err(format!(
                    "the entrypoint ended, was stopped or lost its permit before the database was made:\n{}",
                    output.all_words(LAST_WORDS)
                ));
            };
            let is_server = read_one(pid).is_some_and(|p| p.is_postgres());
            let up = PidFile::read(&self.settings.pgdata).is_some_and(|f| f.pid == pid && f.is_up());
            if is_server && up {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
