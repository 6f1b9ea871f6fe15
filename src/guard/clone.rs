//! Copies a whole server beside PGDATA, verifies the copy, then puts it in PGDATA's place. No step removes data before its replacement is
//! whole (invariant 11), and a guard that dies at any of them leaves either the old data or the new, whole.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::children::Exit;
use super::control::{Control, major_version};
use super::disk::{Unfinished, lay_file, remove_if_there, remove_tree, sync_parent};
use super::housekeeping::{data_id_in, mark_with, new_data_id};
use super::live::{Guard, lock};
use super::protocol::{DataState, Refusal, Upstream};
use super::server::{Outcome, Problem};
use super::settings::{conninfo, write_passfile};
use crate::core::types::{DataId, SystemId, Timeline};

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
}

impl Guard {
    /// Begins a clone.
    ///
    /// # Errors
    /// When the disk cannot hold it beside the old data, and that may not go first.
    pub fn clone_from_source(self: &Arc<Self>, source: Source, sequence: u64) -> Outcome {
        let free = self.live().disk.0;
        let needed = source.bytes.map_or(0, |b| b.saturating_add(b / 10));
        let too_big = needed > free;
        let empty = self.live().data == DataState::Empty;
        if too_big && (empty || !source.replace) {
            let way_out = if empty {
                "use a larger volume"
            } else {
                "use a larger volume, or allow the old data to be removed first"
            };
            return Err(Problem::Refused(
                Refusal::NoSpace,
                format!("a clone needs {needed} bytes and {free} are free: {way_out}"),
            ));
        }
        if too_big {
            self.give_up_data()?;
        }
        self.operate("clone", sequence, source.bytes, move |guard| {
            guard.make_clone(&source)
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

    fn make_clone(self: &Arc<Self>, source: &Source) -> Result<(), String> {
        let copy = self.settings.clone_dir();
        let passfile = self.settings.run_dir.join("passfile.clone");
        let result = self.copy(source, &copy, &passfile);
        let _ = remove_if_there(&passfile);
        result.and_then(|()| {
            let order = lock(&self.orders);
            if self.live().cancelled {
                return Err("the clone was given up".to_owned());
            }
            let put = self
                .put_in_place(&copy)
                .map_err(|e| format!("the copy is whole, but could not be put in PGDATA's place: {e}"));
            drop(order);
            put
        })
    }

    fn copy(&self, source: &Source, copy: &Path, passfile: &Path) -> Result<(), String> {
        let text = |e: io::Error| format!("cannot prepare the clone: {e}");
        remove_tree(copy).map_err(text)?;
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
        let (exit, output) = self.run_long(command)?;
        if !exit.is_success() {
            return Err(format!(
                "pg_basebackup from {} failed ({exit}): {output}",
                source.upstream.host
            ));
        }
        verify(copy, source)?;
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
                if pgdata.exists() {
                    remove_tree(&old)?;
                    fs::rename(pgdata, &old)?;
                }
                fs::rename(&copy, pgdata)?;
                sync_parent(pgdata)?;
                sync_parent(&copy)?;
            }
            let done = has(pgdata, &new);
            if !done && !pgdata.exists() && old.exists() {
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
        if pgdata.exists() {
            remove_tree(&old)?;
        }
        Ok(())
    }

    /// Runs a long program as the operation's process; progress goes to the status. Answers how it ended and its last words.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run_long(&self, mut command: Command) -> Result<(Exit, String), String> {
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
        let words = self.follow_output(output);
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

    fn follow_output(&self, mut output: impl Read) -> String {
        let mut kept: Vec<String> = Vec::new();
        let mut line = Vec::new();
        let mut chunk = [0u8; 1024];
        loop {
            let read = match output.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for &byte in &chunk[..read] {
                if byte == b'\n' || byte == b'\r' {
                    self.take_line(&String::from_utf8_lossy(&line), &mut kept);
                    line.clear();
                } else if line.len() < 1000 {
                    line.push(byte);
                }
            }
        }
        self.take_line(&String::from_utf8_lossy(&line), &mut kept);
        kept.join("\n")
    }

    fn take_line(&self, line: &str, kept: &mut Vec<String>) {
        let line = line.trim();
        if let Some((done, total)) = progress(line) {
            self.update(|live| {
                if let Some((operation, _)) = &mut live.operation {
                    operation.bytes_done = done;
                    operation.bytes_total = Some(total.max(operation.bytes_total.unwrap_or(0)));
                }
            });
        } else if !line.is_empty() {
            kept.push(line.to_owned());
            if kept.len() > 20 {
                kept.remove(0);
            }
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

/// Bytes done and in all, from a line such as `  2048/30720 kB (6%), 0/1 tablespace`.
fn progress(line: &str) -> Option<(u64, u64)> {
    let (done, rest) = line.split_once('/')?;
    let (total, _) = rest.split_once(" kB (")?;
    let kilobytes = |text: &str| text.trim().parse::<u64>().ok().map(|n| n.saturating_mul(1024));
    Some((kilobytes(done)?, kilobytes(total)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        assert_eq!(
            progress("2048/30720 kB (6%), 0/1 tablespace"),
            Some((2_097_152, 31_457_280))
        );
        assert_eq!(
            progress("  36145/36145 kB (100%) copied"),
            Some((37_012_480, 37_012_480))
        );
        assert_eq!(progress("pg_basebackup: error: a/b kB ("), None);
    }
}
