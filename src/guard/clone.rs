//! Copies a whole server beside PGDATA, verifies the copy, then puts it in PGDATA's place. No step removes data before its replacement is
//! whole (invariant 11), and a guard that dies at any of them leaves either the old data or the new, whole.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::children::Exit;
use super::control::{Control, major_version};
use super::disk::{Unfinished, is_empty, lay_file, remove_if_there, remove_tree, sync_parent};
use super::housekeeping::{data_id_in, mark_with, new_data_id};
use super::live::{Guard, lock};
use super::progress::{Words, with_reserve};
use super::protocol::{DataState, Refusal, Upstream};
use super::server::{Outcome, Problem};
use super::settings::{conninfo, write_passfile};
use crate::core::types::{DataId, SystemId, Term, Timeline};

/// What to copy.
#[derive(Debug, Clone)]
pub struct Source {
    /// Whom.
    pub upstream: Upstream,
    /// What the copy must be.
    pub system_identifier: SystemId,
    /// Timeline that the source is on.
    pub timeline: Timeline,
    /// Size in bytes.
    pub bytes: Option<u64>,
    /// Old data may go first.
    pub replace: bool,
    /// Major version of the source, where known.
    pub major: Option<u32>,
    /// What a person should know about the copy.
    pub notes: Vec<String>,
    /// Term of the order.
    pub term: Term,
}

impl Guard {
    /// Begins a clone.
    ///
    /// # Errors
    /// When the source is of another major version, or the disk cannot hold the copy beside the old data and that may not go first.
    pub fn clone_from_source(self: &Arc<Self>, source: Source, sequence: u64) -> Outcome {
        self.check_source_version(source.upstream.host.as_str(), source.major)?;
        self.look_at_disk();
        let free = self.live().disk.0;
        // A size that is not known yet is judged when the source tells it, before the first byte comes.
        let needed = source.bytes.map_or(0, with_reserve);
        let too_big = needed > free;
        let empty = self.live().data == DataState::Empty;
        if too_big && (empty || !source.replace) {
            let way_out = if empty {
                "use a larger volume"
            } else {
                "use a larger volume, or allow the old data to be removed first (PGBATON_REPLACE_DATA=on in this member's sidecar)"
            };
            return Err(Problem::Refused(
                Refusal::NoSpace,
                format!("a clone needs {needed} bytes and {free} are free: {way_out}"),
            ));
        }
        if too_big {
            self.give_up_data()?;
        }
        let notes = (!source.notes.is_empty()).then(|| source.notes.join("; "));
        self.warn("source", notes);
        let was = self.live().data;
        self.operate("clone", sequence, source.bytes, move |guard| {
            guard.make_clone(&source, was)
        });
        Ok(())
    }

    /// Removes the old data because the disk cannot hold both.
    fn give_up_data(&self) -> Outcome {
        let pgdata = &self.settings.pgdata;
        tracing::warn!("removing {} first: the disk cannot hold both", pgdata.display());
        self.save(|state| {
            state.unfinished = Some(Unfinished::Replace);
            state.renew(None);
        })?;
        let old = self.settings.aside("old");
        remove_tree(&old)?;
        fs::rename(pgdata, &old)?;
        fs::create_dir(pgdata)?;
        super::prepare::restrict(pgdata)?;
        sync_parent(pgdata)?;
        remove_tree(&old)?;
        self.find_out()?;
        Ok(())
    }

    fn make_clone(self: &Arc<Self>, source: &Source, was: DataState) -> Result<(), String> {
        let copy = self.settings.clone_dir();
        let passfile = self.settings.run_dir.join("passfile.clone");
        let result = self.copy(source, &copy, &passfile);
        let _ = remove_if_there(&passfile);
        result.and_then(|()| {
            let order = lock(&self.orders);
            self.still_wanted(source, was)?;
            let put = self
                .put_in_place(&copy)
                .map_err(|e| format!("the copy is whole, but could not be put in PGDATA's place: {e}"));
            drop(order);
            put?;
            self.warn("source", None);
            Ok(())
        })
    }

    /// The copy took long: is it still what was ordered, and PGDATA what it was?
    fn still_wanted(&self, source: &Source, was: DataState) -> Result<(), String> {
        let (cancelled, lowest) = {
            let live = self.live();
            (live.cancelled, live.highest_term.max(live.barred_below))
        };
        if cancelled {
            return Err("the clone was given up".to_owned());
        }
        if lowest > source.term {
            return Err(format!(
                "term {lowest} has begun since the clone was ordered in term {}: {} may not be the primary any more. The copy is dropped, \
                 PGDATA is as it was",
                source.term, source.upstream.host
            ));
        }
        let pgdata = &self.settings.pgdata;
        let unchanged = match was {
            DataState::Empty => is_empty(pgdata).map_err(|e| format!("PGDATA cannot be read: {e}"))?,
            DataState::Complete => data_id_in(pgdata) == self.state().data_id,
            DataState::Incomplete => true,
        };
        if unchanged {
            Ok(())
        } else {
            Err(format!(
                "somebody else put data into {} during the clone: it is left as it is, and the copy is dropped",
                pgdata.display()
            ))
        }
    }

    fn copy(&self, source: &Source, copy: &Path, passfile: &Path) -> Result<(), String> {
        let text = |e: io::Error| format!("cannot prepare the clone: {e}");
        remove_tree(copy).map_err(text)?;
        self.secrets.remember(&source.upstream.password.0);
        write_passfile(passfile, &source.upstream).map_err(text)?;
        let mut command = self.tool("pg_basebackup");
        command
            .arg("--pgdata")
            .arg(copy)
            .arg("--dbname")
            .arg(conninfo(&source.upstream, passfile, None))
            .args([
                "--wal-method=stream",
                "--checkpoint=fast",
                "--no-password",
                "--progress",
                "--no-manifest",
            ]);
        self.look_at_disk();
        let free = self.live().disk.0;
        let (exit, words) = self.run_long(command, Some(free))?;
        if let Some(needed) = words.too_big {
            return Err(format!(
                "a clone of {} needs {needed} bytes and {free} are free: nothing was copied and PGDATA is as it was. Use a larger volume",
                source.upstream.host
            ));
        }
        if !exit.is_success() {
            return Err(format!(
                "pg_basebackup from {} failed ({exit}): {}",
                source.upstream.host,
                words.last()
            ));
        }
        verify(copy, source)?;
        let major = major_version(copy);
        if let Some((program, own)) = self.binaries().filter(|(_, own)| Some(*own) != major) {
            return Err(format!(
                "the copy is of PostgreSQL {}, {} is of PostgreSQL {own}: run the same major version in both StatefulSets",
                major.unwrap_or(0),
                program.display()
            ));
        }
        let finish = || {
            for file in ["recovery.signal", "promote"] {
                remove_if_there(&copy.join(file))?;
            }
            self.clean_auto_conf(copy)?;
            super::prepare::restrict(copy)?;
            lay_file(&copy.join("standby.signal"))
        };
        finish().map_err(text)
    }

    /// Puts the verified copy in PGDATA's place. `finish_swap` does the rest after a death in between.
    fn put_in_place(&self, copy: &Path) -> io::Result<()> {
        let data_id = new_data_id();
        mark_with(copy, &data_id)?;
        File::open(copy)?.sync_all()?;
        self.save(|state| state.swap = Some(data_id.clone()))?;
        self.finish_swap()
    }

    /// Finishes what `put_in_place` began, from whichever step it had reached.
    ///
    /// # Errors
    /// Of the file system.
    pub fn finish_swap(&self) -> io::Result<()> {
        let pgdata = &self.settings.pgdata;
        let old = self.settings.aside("old");
        if let Some(new) = self.state().swap {
            let has = |directory: &Path, id: &DataId| data_id_in(directory).as_ref() == Some(id);
            let copy = self.settings.clone_dir();
            if !has(pgdata, &new) && has(&copy, &new) {
                // An empty PGDATA was made by a guard that started in between: the old data lies beside it already.
                if !is_empty(pgdata)? {
                    remove_tree(&old)?;
                    fs::rename(pgdata, &old)?;
                }
                fs::rename(&copy, pgdata)?;
                sync_parent(pgdata)?;
                sync_parent(&copy)?;
            }
            let done = has(pgdata, &new);
            if !done && is_empty(pgdata)? && old.exists() {
                fs::rename(&old, pgdata)?;
                sync_parent(pgdata)?;
            }
            self.save(|state| {
                state.swap = None;
                if done {
                    state.renew(Some(new.clone()));
                    state.unfinished = None;
                }
            })?;
        }
        // A crash after the rename and before the state was written is met above; here PGDATA is what the state says.
        let given_up = self.state().unfinished == Some(Unfinished::Replace);
        if given_up || !is_empty(pgdata)? {
            remove_tree(&old)?;
        }
        Ok(())
    }

    /// Runs a long program as the operation's process; progress goes to the status and the log. Ends it when it says that it will write
    /// more than there is room for. Answers how it ended and its last words.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_long(&self, mut command: Command, room: Option<u64>) -> Result<(Exit, Words), String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let cannot = |e: io::Error| format!("cannot run {name}: {e}");
        let (output, writer) = io::pipe().map_err(cannot)?;
        command
            .stdout(writer.try_clone().map_err(cannot)?)
            .stderr(writer)
            .stdin(Stdio::null())
            .current_dir(&self.settings.state_dir)
            .process_group(0);
        let (pid, child) = self.children.spawn(&mut command).map_err(cannot)?;
        // The pipe's end in here must go, or its end is never seen.
        drop(command);
        drop(child);
        let cancelled = self.update(|live| {
            live.operation_pid = Some(pid);
            live.cancelled
        });
        if cancelled {
            self.end_operation();
        }
        let mut words = Words::new(room);
        self.follow_output(output, &mut words);
        // Its output has ended, so it has, or is about to.
        let exit = self.children.wait(pid, Duration::from_secs(60));
        self.update(|live| live.operation_pid = None);
        let exit = exit.ok_or_else(|| format!("{name} closed its output and did not end"))?;
        Ok((exit, words))
    }

    /// Ends the operation's processes, if there are any.
    pub fn end_operation(&self) {
        if let Some(pid) = self.live().operation_pid {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// The copy is a whole backup of this server on this timeline.
fn verify(copy: &Path, source: &Source) -> Result<(), String> {
    let control = Control::read(copy).map_err(|e| format!("the copy has no usable pg_control: {e}"))?;
    if control.system_identifier != source.system_identifier {
        return Err(format!(
            "the copy is of system {}, wanted {}",
            control.system_identifier, source.system_identifier
        ));
    }
    if major_version(copy).is_none() {
        return Err("the copy has no PG_VERSION".to_owned());
    }
    let label = fs::read_to_string(copy.join("backup_label"))
        .map_err(|e| format!("the copy has no backup_label: {e}"))?;
    let timeline = label.lines().find_map(|l| l.strip_prefix("START TIMELINE: "));
    if timeline.and_then(|t| t.trim().parse().ok()) != Some(source.timeline.0) {
        return Err(format!(
            "the copy was begun on timeline {}, wanted {}",
            timeline.unwrap_or("unknown"),
            source.timeline
        ));
    }
    Ok(())
}
