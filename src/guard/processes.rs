//! What runs in this PID namespace, read from /proc, and how all of it that belongs to the server is ended.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// Its parent's id.
    pub parent: i32,
    /// State letter of /proc (`Z`: a zombie, `T`: stopped).
    pub state: char,
    /// Name of what it executes, at most 15 bytes.
    pub name: String,
}

impl Process {
    /// True for what can still do something.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// True for PostgreSQL's server program.
    #[must_use]
    pub fn is_postgres(&self) -> bool {
        self.name == "postgres" || self.name == "postmaster"
    }
}

/// All processes at one moment (as far as /proc has such a thing).
#[derive(Debug, Default, Clone)]
pub struct Table(HashMap<i32, Process>);

impl Table {
    /// Reads /proc.
    #[must_use]
    pub fn read() -> Self {
        let mut all = HashMap::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            if let Some(process) = read_one(pid) {
                all.insert(pid, process);
            }
        }
        Self(all)
    }

    /// The process of this id.
    #[must_use]
    pub fn get(&self, pid: i32) -> Option<&Process> {
        self.0.get(&pid)
    }

    /// Every living process.
    pub fn living(&self) -> impl Iterator<Item = &Process> {
        self.0.values().filter(|p| p.is_alive())
    }

    /// The living children of this process.
    pub fn children(&self, parent: i32) -> impl Iterator<Item = &Process> {
        self.living().filter(move |p| p.parent == parent)
    }

    /// True when `pid` is `ancestor` or descends from it.
    #[must_use]
    pub fn descends(&self, pid: i32, ancestor: i32) -> bool {
        let mut at = pid;
        // The chain is as long as the process tree is deep; a ring cannot be, but /proc is not read at one moment.
        for _ in 0..1000 {
            if at == ancestor {
                return true;
            }
            match self.0.get(&at) {
                Some(process) if process.parent > 0 => at = process.parent,
                _ => return false,
            }
        }
        false
    }
}

/// Reads one process; none when it is gone.
#[must_use]
pub fn read_one(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let open = stat.find('(')?;
    let close = stat.rfind(')')?;
    let mut rest = stat.get(close + 2..)?.split(' ');
    Some(Process {
        pid,
        state: rest.next()?.chars().next()?,
        parent: rest.next()?.parse().ok()?,
        name: stat.get(open + 1..close)?.to_owned(),
    })
}

/// Follows the parents of a process up to one that is known, or to the top; none: some ancestor went away meanwhile.
fn leads_to(pid: i32, known: &[Option<i32>]) -> Option<bool> {
    let mut at = pid;
    // As deep as the process tree.
    for _ in 0..1000 {
        if known.contains(&Some(at)) {
            return Some(true);
        }
        let parent = read_one(at)?.parent;
        if parent <= 0 {
            break;
        }
        at = parent;
    }
    Some(false)
}

/// The command line, arguments separated by blanks: PostgreSQL writes there what a process of it does.
#[must_use]
pub fn title(pid: i32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes)
        .replace('\0', " ")
        .trim_end()
        .to_owned()
}

/// The working directory as the kernel names it. Read from the directory cache: a hung disk does not delay it.
#[must_use]
pub fn working_directory(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// What belongs to the server: how its processes are told from others.
#[derive(Debug, Clone)]
pub struct Belongs {
    /// PGDATA, absolute and without links.
    pub pgdata: PathBuf,
    /// The guard is PID 1 of its namespace: whatever is called `postgres` is the server's.
    pub alone: bool,
}

impl Belongs {
    /// True for PGDATA, what is in it, PGDATA moved aside or removed while a process sits in it, and pgbaton's directory beside it, where
    /// clones are made.
    #[must_use]
    pub fn is_in_pgdata(&self, directory: &Path) -> bool {
        if directory.starts_with(self.pgdata.with_file_name("pgbaton")) {
            return true;
        }
        let (Some(directory), Some(pgdata)) = (directory.to_str(), self.pgdata.to_str()) else {
            return directory.starts_with(&self.pgdata);
        };
        directory
            .strip_prefix(pgdata)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.', ' ']))
    }

    /// Living processes of the server: every descendant of the guard outside the trees of `spared`, and whatever sits in PGDATA.
    #[must_use]
    pub fn of_server(&self, table: &Table, spared: &HashSet<i32>) -> Vec<Process> {
        let me = i32::try_from(std::process::id()).unwrap_or(1);
        let belongs = |p: &Process| {
            if p.pid == me || spared.iter().any(|&s| table.descends(p.pid, s)) {
                return false;
            }
            table.descends(p.pid, me)
                || (self.alone && p.is_postgres())
                || working_directory(p.pid).is_some_and(|d| self.is_in_pgdata(&d))
        };
        let mut found: Vec<Process> = table.living().filter(|p| belongs(p)).cloned().collect();
        // Parents first: a postmaster must not start anything for those that have died.
        let all: HashSet<i32> = found.iter().map(|p| p.pid).collect();
        found.sort_by_key(|p| (all.contains(&p.parent), p.pid));
        found
    }

    /// Living PostgreSQL processes that sit in PGDATA and do not descend from any of `known`.
    #[must_use]
    pub fn strays(&self, known: &[Option<i32>]) -> Vec<i32> {
        let table = Table::read();
        let candidates = table.living().map(|p| p.pid);
        candidates.filter(|&pid| self.is_stray(pid, known)).collect()
    }

    /// Whether this process is a stray, by what it and its ancestors are now. A table of all processes is not of one moment: a program
    /// that ended or was made while it was read has no ancestors in it.
    #[must_use]
    pub fn is_stray(&self, pid: i32, known: &[Option<i32>]) -> bool {
        let is_ours = || {
            read_one(pid).is_some_and(|p| p.is_alive() && p.is_postgres())
                && working_directory(pid).is_some_and(|d| self.is_in_pgdata(&d))
        };
        // Each round that finds a gap has met a change; a tree does not change for ever, and in doubt it is a stray.
        let leads = (0..10).find_map(|_| leads_to(pid, known).or_else(|| (!is_ours()).then_some(true)));
        leads != Some(true) && is_ours()
    }

    /// SIGKILLs everything of the server until nothing is left. Has no end on purpose: while a process of the server lives, it may
    /// acknowledge. Touches no disk. Answers how many were signalled.
    pub fn kill_all(&self, spared: &HashSet<i32>) -> usize {
        let mut signalled = HashSet::new();
        let mut rounds = 0u32;
        loop {
            let found = self.of_server(&Table::read(), spared);
            if found.is_empty() {
                return signalled.len();
            }
            for process in &found {
                // ESRCH: gone meanwhile. EPERM cannot be helped and shows as a process that stays.
                let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
                signalled.insert(process.pid);
            }
            rounds = rounds.saturating_add(1);
            if rounds.is_power_of_two() && rounds >= 256 {
                tracing::error!(
                    left = found.len(),
                    example = %format!("{} ({})", found[0].pid, found[0].name),
                    state = %found[0].state,
                    "processes of the server outlive SIGKILL; going on (state D: they wait for a disk)"
                );
            }
            std::thread::sleep(Duration::from_millis(if rounds < 100 { 1 } else { 10 }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As pg_rewind does: `sh -c "postgres --single ..."`. A guard that looked at that server while it ended took it for a stray, killed its
    /// own pg_rewind, and had to clone.
    #[test]
    fn what_a_known_program_runs_is_no_stray_and_neither_is_what_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let pgdata = directory.path().canonicalize().unwrap().join("pgdata");
        fs::create_dir(&pgdata).unwrap();
        fs::copy("/bin/sleep", directory.path().join("postgres")).unwrap();
        let mut shell = std::process::Command::new("sh")
            .args(["-c", "../postgres 60; true"])
            .current_dir(&pgdata)
            .spawn()
            .unwrap();
        let shell_pid = i32::try_from(shell.id()).unwrap();
        let belongs = Belongs { pgdata, alone: false };
        let server = (0..1000)
            .find_map(|_| {
                std::thread::sleep(Duration::from_millis(10));
                belongs.strays(&[]).first().copied()
            })
            .expect("the server is in PGDATA");
        let me = i32::try_from(std::process::id()).unwrap();
        for known in [server, shell_pid, me] {
            assert!(!belongs.is_stray(server, &[None, Some(known)]), "{known}");
        }
        assert!(belongs.is_stray(server, &[None, Some(-1)]), "nobody's");
        kill(Pid::from_raw(server), Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
        assert!(!belongs.is_stray(server, &[None]), "gone");
        assert!(belongs.strays(&[]).is_empty());
    }

    #[test]
    fn a_directory_is_pgdata_also_when_moved_aside_or_removed() {
        let belongs = Belongs {
            pgdata: PathBuf::from("/data/pgdata"),
            alone: false,
        };
        for yes in [
            "/data/pgdata",
            "/data/pgdata/base",
            "/data/pgdata.old",
            "/data/pgdata.broken-1",
            "/data/pgdata (deleted)",
        ] {
            assert!(belongs.is_in_pgdata(Path::new(yes)), "{yes}");
        }
        for no in ["/data", "/data/pgdata2", "/", "/other/data/pgdata"] {
            assert!(!belongs.is_in_pgdata(Path::new(no)), "{no}");
        }
    }

    #[test]
    fn the_tree_of_this_process_is_read() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let me = i32::try_from(std::process::id()).unwrap();
        let table = Table::read();
        assert!(table.descends(pid, me) && !table.descends(me, pid));
        assert!(table.children(me).any(|p| p.pid == pid));
        child.kill().unwrap();
        while read_one(pid).unwrap().is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert_eq!(read_one(pid), None);
    }
}
