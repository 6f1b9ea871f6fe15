//! What PGDATA is, whose it is, and what must be put right in it from time to time.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;

use super::adopt::{is_unknown, same_files};
use super::control::{Control, major_version};
use super::disk::{DATA_ID_FILE, State, is_empty, remove_if_there, remove_tree, sync_parent, write_durably};
use super::live::{Guard, Role};
use super::prepare::random_bytes;
use super::protocol::DataState;
use crate::core::types::DataId;

/// A server writes its number into the file that it has made within this time.
const WRITES_WITHIN: Duration = Duration::from_millis(100);

/// What PGDATA is by itself and by what was begun with it.
///
/// # Errors
/// When it cannot be read: it is then not known to be empty.
pub fn judge(pgdata: &Path, state: &State) -> io::Result<DataState> {
    if is_empty(pgdata)? {
        return Ok(DataState::Empty);
    }
    let usable = Control::read(pgdata).is_ok() && major_version(pgdata).is_some();
    Ok(if usable && state.unfinished.is_none() {
        DataState::Complete
    } else {
        DataState::Incomplete
    })
}

/// The data id that lies in this directory.
#[must_use]
pub fn data_id_in(directory: &Path) -> Option<DataId> {
    fs::read_to_string(directory.join(DATA_ID_FILE))
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Writes the data id into this directory.
///
/// # Errors
/// Of the file system.
pub fn mark_with(directory: &Path, data_id: &DataId) -> io::Result<()> {
    write_durably(
        &directory.join(DATA_ID_FILE),
        format!("{data_id}\n").as_bytes(),
        0o600,
    )
}

/// A data id that no data had before.
#[must_use]
pub fn new_data_id() -> DataId {
    DataId::from_random(random_bytes())
}

impl Guard {
    /// Finishes what a guard before this one left half done, then finds out what PGDATA is. Called before anything can be ordered.
    ///
    /// # Errors
    /// Of the file system.
    pub fn take_stock(&self) -> io::Result<()> {
        // A pg_basebackup of a dead guard cannot be running still: it died with the PID namespace, or the keeper ended it.
        self.finish_swap()?;
        remove_tree(&self.settings.clone_dir())?;
        let pgdata = &self.settings.pgdata;
        remove_if_there(&pgdata.join("promote"))?;
        if !pgdata.exists() {
            fs::create_dir(pgdata)?;
            super::prepare::restrict(pgdata)?;
        }
        self.find_out()?;
        self.look_at_disk();
        Ok(())
    }

    /// Finds out what PGDATA is. Data that is not known by its id is a new member's (DESIGN.md section 2); data that never had one waits
    /// to be adopted.
    ///
    /// # Errors
    /// Of the file system.
    pub fn find_out(&self) -> io::Result<()> {
        let pgdata = &self.settings.pgdata;
        let state = self.state();
        let data = judge(pgdata, &state)?;
        let control = Control::read(pgdata).ok().filter(|_| data == DataState::Complete);
        self.finish_adoption(&state, control.as_ref())?;
        // Data that has none of pgbaton's files is nobody's yet: it is told, and waits until it is adopted.
        let foreign = is_unknown(&state, pgdata);
        if data == DataState::Complete
            && !foreign
            && (state.data_id.is_none() || state.data_id != data_id_in(pgdata))
        {
            let data_id = new_data_id();
            tracing::warn!(%data_id, "this data is not what was known here: it is a new member's");
            self.save(|state| state.renew(Some(data_id.clone())))?;
            mark_with(pgdata, &data_id)?;
        }
        let state = self.state();
        let found = self.found_data(&state, control.as_ref());
        let data_id = state.data_id.filter(|_| data == DataState::Complete);
        let system_identifier = control.map(|c| c.system_identifier);
        let major = major_version(pgdata).filter(|_| data == DataState::Complete);
        let fresh_copy = data == DataState::Complete && pgdata.join("backup_label").exists();
        let live = self.live();
        let same = live.data == data
            && live.fresh_copy == fresh_copy
            && live.data_id == data_id
            && same_files(live.found.as_ref(), found.as_ref())
            && live.system_identifier == system_identifier
            && live.major_version == major;
        let known_major = live.major_version;
        drop(live);
        if major != known_major {
            self.warn("version", self.version_problem(major));
        }
        if !same {
            self.update(|live| {
                live.data = data;
                live.fresh_copy = fresh_copy;
                live.data_id = data_id;
                // What was read of its WAL stays: adopting it changes none of it.
                let read = live.found.take().zip(found.as_ref());
                live.found.clone_from(&found);
                if let (Some((old, _)), Some(new)) = (read, &mut live.found) {
                    (new.end, new.history) = (old.end, old.history);
                }
                live.system_identifier = system_identifier;
                live.major_version = major;
            });
        }
        Ok(())
    }

    /// Twice a second, on the thread that reads PGDATA.
    pub fn keep_house(self: &Arc<Self>) {
        self.look_at_disk();
        let (role, operates) = {
            let live = self.live();
            (live.role, live.operation.is_some())
        };
        if operates {
            return;
        }
        if role == Role::None {
            // PGDATA may be emptied or replaced by hand while nothing runs; not while an order works on it.
            if let Ok(_order) = self.orders.try_lock()
                && self.live().role == Role::None
            {
                let problem = self
                    .find_out()
                    .err()
                    .map(|e| format!("PGDATA cannot be read: {e}"));
                self.warn("PGDATA", problem);
                self.look_at_found();
            }
            return;
        }
        if role == Role::Initialising {
            return;
        }
        match self.clean_auto_conf(&self.settings.pgdata) {
            Ok(removed) if !removed.is_empty() => {
                self.report_auto_conf(&removed);
                self.reload();
            }
            Ok(_) => {}
            Err(e) => tracing::warn!("postgresql.auto.conf cannot be read or written: {e}"),
        }
    }

    /// Removes the lock files of sockets that a dead server of this PGDATA left. Their numbers are those of other processes by now, and
    /// PostgreSQL, asking kill(0) only, would not start; nor does it with an empty file. Called while no server runs.
    pub fn clear_socket_locks(&self) {
        for directory in self.socket_directories() {
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name.starts_with(".s.PGSQL.")
                    && name.ends_with(".lock")
                    && self.is_stale(&entry.path())
                    && fs::remove_file(entry.path()).is_ok()
                {
                    tracing::info!("removed the stale {}", entry.path().display());
                }
            }
        }
    }

    /// Names this PGDATA, or nothing: a server that was killed between making the file and writing into it. One that starts now, of
    /// somebody else, has written into it at the second look.
    fn is_stale(&self, lock: &Path) -> bool {
        let read = || fs::read_to_string(lock).ok();
        let names = |text: String| {
            let pgdata = text.lines().nth(1);
            pgdata.is_some_and(|d| Path::new(d.trim()) == self.settings.pgdata)
        };
        if read().is_some_and(|text| text.is_empty()) {
            std::thread::sleep(WRITES_WITHIN);
            return read().is_some_and(|text| text.is_empty() || names(text));
        }
        read().is_some_and(names)
    }

    /// Says which settings were taken out of postgresql.auto.conf.
    pub fn report_auto_conf(&self, removed: &[String]) {
        if !removed.is_empty() {
            let text = format!(
                "removed {} from postgresql.auto.conf: pgbaton writes these itself, do not set them with ALTER SYSTEM",
                removed.join(", ")
            );
            self.warn("postgresql.auto.conf", Some(text));
        }
    }

    /// How large the file system is, and how much of it is free.
    pub fn look_at_disk(&self) {
        if let Ok(stat) = statvfs(&self.settings.state_dir) {
            let size = stat.fragment_size();
            let disk = (stat.blocks_available() * size, stat.blocks() * size);
            // No revision: it changes all the time.
            self.live().disk = disk;
        }
    }

    /// Moves PGDATA aside as `<pgdata>.broken-N`, in place of the last one so moved.
    ///
    /// # Errors
    /// Of the file system.
    pub fn move_aside(&self) -> io::Result<()> {
        let pgdata = &self.settings.pgdata;
        let parent = pgdata.parent().unwrap_or(Path::new("/"));
        let prefix = format!(
            "{}.broken-",
            pgdata.file_name().unwrap_or_default().to_string_lossy()
        );
        let mut last = 0u64;
        let mut old = Vec::new();
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(number) = name.strip_prefix(&prefix).and_then(|n| n.parse::<u64>().ok()) {
                last = last.max(number);
                old.push(entry.path());
            }
        }
        let aside = self.settings.aside(&format!("broken-{}", last + 1));
        tracing::warn!(
            "moving the unfinished {} to {}",
            pgdata.display(),
            aside.display()
        );
        fs::rename(pgdata, &aside)?;
        for path in old {
            remove_tree(&path)?;
        }
        fs::create_dir(pgdata)?;
        super::prepare::restrict(pgdata)?;
        sync_parent(pgdata)
    }
}
