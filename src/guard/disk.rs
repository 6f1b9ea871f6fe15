//! Files that must survive a crash, and the one that holds what this member promised: `<parent of PGDATA>/pgbaton/state.json`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::core::types::{DataId, SystemId, Term};

/// Version of the state file.
const STATE_VERSION: u32 = 1;
/// Name of the state file.
pub const STATE_FILE: &str = "state.json";
/// Name of the data id's copy in PGDATA.
pub const DATA_ID_FILE: &str = "pgbaton.data_id";

/// Something begun with PGDATA and not finished: PGDATA is then not a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unfinished {
    /// initdb and the image's first scripts.
    Initialise,
    /// pg_rewind.
    Rewind,
    /// A clone for which the old PGDATA was given up first.
    Replace,
}

/// What lies on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `STATE_VERSION`.
    pub version: u32,
    /// The life of the data in PGDATA.
    pub data_id: Option<DataId>,
    /// Highest term ever seen.
    pub highest_term: Term,
    /// Whether this data was ever told a term (invariant 8).
    pub knows_term: bool,
    /// The term pledged to.
    pub pledge: Option<Term>,
    /// What was begun.
    pub unfinished: Option<Unfinished>,
    /// A verified copy with this data id is being put in PGDATA's place.
    pub swap: Option<DataId>,
    /// A primary's data of this system was adopted and has not been started since.
    #[serde(default)]
    pub adopting: Option<SystemId>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            version: STATE_VERSION,
            data_id: None,
            highest_term: Term(0),
            knows_term: false,
            pledge: None,
            unfinished: None,
            swap: None,
            adopting: None,
        }
    }
}

impl State {
    /// Makes this the state of new data: what the old data promised is no longer its own (DESIGN.md section 2). The highest term stays:
    /// orders of older terms are refused all the same.
    pub fn renew(&mut self, data_id: Option<DataId>) {
        self.data_id = data_id;
        self.knows_term = false;
        self.pledge = None;
        self.adopting = None;
    }
}

/// The state file.
#[derive(Debug, Clone)]
pub struct StateFile(pub PathBuf);

impl StateFile {
    /// Reads it; the default when there is none.
    ///
    /// # Errors
    /// When it is there and cannot be understood: nothing may be assumed about what was promised then.
    pub fn load(&self) -> io::Result<State> {
        let text = match fs::read_to_string(&self.0) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(State::default()),
            Err(e) => return Err(e),
        };
        let bad = |why: String| {
            io::Error::other(format!(
                "{} is not readable: {why}. It holds the term that this member pledged to; restore it, or remove it \
                 together with PGDATA so that this member is cloned anew",
                self.0.display()
            ))
        };
        let state: State = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if state.version == STATE_VERSION {
            Ok(state)
        } else {
            Err(bad(format!("version {} is unknown", state.version)))
        }
    }

    /// Writes it; on return it survives a power failure.
    ///
    /// # Errors
    /// Of the file system.
    pub fn save(&self, state: &State) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(state).map_err(io::Error::other)?;
        write_durably(&self.0, &text, 0o600)
    }
}

/// Writes beside, syncs, renames, syncs the directory.
///
/// # Errors
/// Of the file system.
pub fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_replacing(path, content, mode, true)
}

/// As `write_durably`, but without waiting for the disk: whole or not at all as long as the kernel lives.
///
/// # Errors
/// Of the file system.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    write_replacing(path, content, mode, false)
}

fn write_replacing(path: &Path, content: &[u8], mode: u32, durably: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    let _ = fs::remove_file(&beside);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(content)?;
    if durably {
        file.sync_all()?;
    }
    drop(file);
    fs::rename(&beside, path)?;
    if durably { sync_parent(path) } else { Ok(()) }
}

/// Makes the names in the directory that holds `path` survive a power failure.
///
/// # Errors
/// Of the file system.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Makes an empty file that survives a power failure; nothing when it is there.
///
/// # Errors
/// Of the file system.
pub fn lay_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(file) => file.sync_all()?,
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(e) => return Err(e),
    }
    sync_parent(path)
}

/// Removes a file; nothing when it is not there. Answers whether it was.
///
/// # Errors
/// Of the file system.
pub fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// Removes a directory with all in it; nothing when it is not there.
///
/// # Errors
/// Of the file system.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// True when nothing is there, or an empty directory.
///
/// # Errors
/// Of the file system: an unreadable directory is not an empty one.
pub fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().transpose().map(|first| first.is_none()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_survives_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = StateFile(dir.path().join(STATE_FILE));
        assert_eq!(file.load().unwrap(), State::default());
        let mut state = State {
            highest_term: Term(7),
            knows_term: true,
            pledge: Some(Term(7)),
            data_id: Some(DataId::from_random([1; 8])),
            ..State::default()
        };
        file.save(&state).unwrap();
        assert_eq!(file.load().unwrap(), state);
        state.renew(None);
        assert_eq!(
            (state.highest_term, state.knows_term, state.pledge),
            (Term(7), false, None)
        );
        for nonsense in [
            "",
            "{}",
            "nonsense",
            r#"{"version":2,"highest_term":1,"knows_term":true}"#,
        ] {
            fs::write(&file.0, nonsense).unwrap();
            assert!(file.load().is_err(), "{nonsense}");
        }
    }

    #[test]
    fn an_empty_directory_is_told_from_an_unreadable_one() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_empty(&dir.path().join("missing")).unwrap());
        assert!(is_empty(dir.path()).unwrap());
        let file = dir.path().join("file");
        lay_file(&file).unwrap();
        lay_file(&file).unwrap();
        assert!(!is_empty(dir.path()).unwrap());
        assert!(is_empty(&file).is_err());
        assert!(remove_if_there(&file).unwrap() && !remove_if_there(&file).unwrap());
    }
}
