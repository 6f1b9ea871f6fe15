//! PostgreSQL's programs: where they are, of which version they are, and short runs of them.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::children::Exit;
use super::live::{Guard, lock};
use super::server::{Outcome, Problem, wrong_state};

/// How long a program may take to tell its version.
const TELL_VERSION: Duration = Duration::from_secs(5);
/// How much of what a short-lived program wrote is kept.
const KEPT_BYTES: u64 = 4096;

/// Major versions that programs told, by path: asked once for each.
#[derive(Debug, Default)]
pub struct Versions(Mutex<HashMap<PathBuf, Option<u32>>>);

impl Guard {
    /// The program that the entrypoint will run as the server.
    fn server_program(&self) -> Option<PathBuf> {
        find_program(
            self.command.server_word(),
            &std::env::var_os("PATH").unwrap_or_default(),
        )
    }

    /// The server's program and its major version; none when it is not found or does not tell: PostgreSQL itself judges then.
    #[must_use]
    pub fn binaries(&self) -> Option<(PathBuf, u32)> {
        let path = self.server_program()?;
        if let Some(&major) = lock(&self.versions.0).get(&path) {
            return major.map(|major| (path, major));
        }
        let mut command = Command::new(&path);
        command.arg("--version").env("LC_ALL", "C").stdin(Stdio::null());
        let told = self.run_tool(&mut command, TELL_VERSION);
        let major = match &told {
            Ok((Exit::Status(0), text)) => major_in(text),
            // Ended by a fence: asked again.
            Ok((Exit::Signal(_), _)) => return None,
            _ => None,
        };
        if major.is_none() {
            tracing::warn!(
                ?told,
                "{} --version tells no version: whether it fits the data is left to PostgreSQL",
                path.display()
            );
        }
        lock(&self.versions.0).insert(path.clone(), major);
        major.map(|major| (path, major))
    }

    /// Refuses data of another major version than the programs here.
    ///
    /// # Errors
    /// What is of which version, and what to do.
    pub fn check_data_version(&self, data: Option<u32>) -> Outcome {
        match self.version_problem(data) {
            Some(why) => wrong_state(why),
            None => Ok(()),
        }
    }

    /// What is wrong with data of this major version here; none: nothing.
    #[must_use]
    pub fn version_problem(&self, data: Option<u32>) -> Option<String> {
        let data = data?;
        let (program, major) = self.binaries().filter(|(_, major)| *major != data)?;
        Some(format!(
            "PGDATA {} is of PostgreSQL {data} (its PG_VERSION), {} is of PostgreSQL {major}: pgbaton starts nothing and changes nothing. \
             Run an image of PostgreSQL {data}, or upgrade the data with pg_upgrade",
            self.settings.pgdata.display(),
            program.display()
        ))
    }

    /// Refuses a source of another major version than the programs here.
    ///
    /// # Errors
    /// What is of which version, and what to do.
    pub fn check_source_version(&self, host: &str, source: Option<u32>) -> Outcome {
        let Some(source) = source else { return Ok(()) };
        match self.binaries().filter(|(_, major)| *major != source) {
            Some((program, major)) => wrong_state(format!(
                "{host} runs PostgreSQL {source}, {} is of PostgreSQL {major}: a copy of that server could not be started here, and nothing \
                 was changed. Run the same major version in both StatefulSets",
                program.display()
            )),
            None => Ok(()),
        }
    }

    /// A program of PostgreSQL: the one beside the server's, else of the data's version where several are installed. Speaks English.
    #[must_use]
    pub fn tool(&self, name: &str) -> Command {
        let major = self.live().major_version.unwrap_or(0);
        let beside = self.server_program().map(|server| server.with_file_name(name));
        let versioned = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin/{name}"));
        let path = beside
            .into_iter()
            .chain([versioned])
            .find(|path| path.exists())
            .unwrap_or_else(|| PathBuf::from(name));
        let mut command = Command::new(path);
        command
            .env("LC_ALL", "C")
            .env("PGDATA", &self.settings.pgdata)
            .stdin(Stdio::null());
        command
    }

    /// Runs a short-lived program; answers how it ended and what it wrote.
    ///
    /// # Errors
    /// When it cannot be started, or has not ended in time (it is killed then, with what it started).
    pub fn run_tool(&self, command: &mut Command, at_most: Duration) -> Outcome<(Exit, String)> {
        let name = command.get_program().to_string_lossy().into_owned();
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .current_dir("/")
            .process_group(0);
        let (pid, mut child) = self
            .children
            .spawn(command)
            .map_err(|e| Problem::Failed(format!("cannot run {name}: {e}")))?;
        let Some(exit) = self.children.wait(pid, at_most) else {
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            return Err(Problem::Failed(format!(
                "{name} did not end within {} s",
                at_most.as_secs()
            )));
        };
        let mut text = child.stdout.take().map(what_is_there).unwrap_or_default();
        text.push_str(&child.stderr.take().map(what_is_there).unwrap_or_default());
        Ok((exit, text.trim().to_owned()))
    }
}

/// What was written until now: something that the program left behind may hold the other end open for ever.
fn what_is_there(from: impl Read + AsFd) -> String {
    let mut bytes = Vec::new();
    if fcntl(&from, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
        // Ends with "would block" where the other end is open still; what came before that is kept.
        let _: io::Result<usize> = from.take(KEPT_BYTES).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The program of this name, as a shell would find it.
fn find_program(word: &str, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let runs = |p: &Path| {
        p.metadata()
            .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
    };
    if word.contains('/') {
        return Some(PathBuf::from(word)).filter(|p| runs(p));
    }
    std::env::split_paths(path)
        .map(|directory| directory.join(word))
        .find(|p| runs(p))
}

/// The major version in a line such as `postgres (PostgreSQL) 15.20 (Debian 15.20-1)` or `postgres (PostgreSQL) 18beta1`.
fn major_in(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("(PostgreSQL) ")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 19", Some(19)),
            ("postgres 15.2", None),
            ("", None),
        ] {
            assert_eq!(major_in(text), major, "{text}");
        }
    }

    #[test]
    fn a_program_is_found_as_a_shell_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("1"), dir.path().join("2"));
        for (folder, mode) in [(&first, 0o644), (&second, 0o755)] {
            std::fs::create_dir(folder).unwrap();
            std::fs::write(folder.join("postgres"), "").unwrap();
            std::fs::set_permissions(folder.join("postgres"), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = std::env::join_paths([&first, &second]).unwrap();
        assert_eq!(find_program("postgres", &path), Some(second.join("postgres")));
        assert_eq!(find_program("initdb", &path), None);
        let word = second.join("postgres").display().to_string();
        assert_eq!(find_program(&word, &path), Some(second.join("postgres")));
    }
}
