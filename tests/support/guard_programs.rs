//! PostgreSQL's programs as an image has them, some of them replaced by scripts.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::rig::{Rig, bin_dir, path_env, wait_for};

/// A directory with all of PostgreSQL's programs, first in the guard's PATH.
pub struct Programs {
    pub dir: PathBuf,
    base: PathBuf,
}

impl Programs {
    /// For a guard that is not started yet.
    pub fn first_in_path(rig: &mut Rig) -> Self {
        let base = rig.base().to_owned();
        let dir = base.join("bin");
        fs::create_dir(&dir).unwrap();
        for entry in fs::read_dir(bin_dir()).unwrap().flatten() {
            symlink(entry.path(), dir.join(entry.file_name())).unwrap();
        }
        let path = format!("{}:{}", dir.display(), path_env());
        rig.extra_env.push(("PATH".to_owned(), path));
        Self { dir, base }
    }

    /// Replaces a program by a script; `$REAL` is the program itself.
    pub fn replace(&self, name: &str, script: &str) {
        let path = self.dir.join(name);
        fs::remove_file(&path).unwrap();
        let real = bin_dir().join(name);
        let text = format!("#!/bin/bash\nREAL={}\n{script}\n", real.display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Puts the program itself back.
    pub fn restore(&self, name: &str) {
        fs::remove_file(self.dir.join(name)).unwrap();
        symlink(bin_dir().join(name), self.dir.join(name)).unwrap();
    }

    /// A program that does `before`, says that it got there, and then stands still.
    pub fn stall(&self, name: &str, before: &str) {
        let mark = self.mark();
        let _ = fs::remove_file(&mark);
        self.replace(
            name,
            &format!("{before}\ntouch {}\nexec sleep 600", mark.display()),
        );
    }

    /// As `stall`, but goes on with `after` when it is let go.
    pub fn hold(&self, name: &str, before: &str, after: &str) {
        let mark = self.mark();
        let _ = fs::remove_file(&mark);
        let _ = fs::remove_file(mark.with_file_name("go"));
        let mark = mark.display();
        self.replace(
            name,
            &format!(
                "{before}\ntouch {mark}\nwhile [ ! -e $(dirname {mark})/go ]; do sleep 0.05; done\n{after}"
            ),
        );
    }

    /// Lets a held program go on.
    pub fn let_go(&self) {
        fs::write(self.mark().with_file_name("go"), "").unwrap();
    }

    /// Waits until a stalled program got there.
    pub fn await_stall(&self, rig: &Rig) {
        wait_for(&format!("the program to stand still\n{}", rig.log()), || {
            self.mark().exists().then_some(())
        });
    }

    /// A place that every user may write to.
    fn mark(&self) -> PathBuf {
        let place = self.base.join("marks");
        if !place.exists() {
            fs::create_dir(&place).unwrap();
            fs::set_permissions(&place, fs::Permissions::from_mode(0o777)).unwrap();
        }
        place.join("reached")
    }
}

/// Every file below, with size, content's checksum and time of the last change.
pub fn snapshot(directory: &Path) -> Vec<String> {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return vec![format!("{} is not there", directory.display())];
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let mut hash = DefaultHasher::new();
        if meta.is_file() {
            fs::read(&path).unwrap().hash(&mut hash);
        }
        let (mode, changed) = (meta.permissions().mode(), meta.modified().unwrap());
        found.push(format!(
            "{} {mode:o} {changed:?} {} {}",
            path.display(),
            meta.len(),
            hash.finish()
        ));
        if meta.is_dir() {
            found.extend(snapshot(&path));
        }
    }
    found.sort();
    found
}
