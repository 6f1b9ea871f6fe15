//! PostgreSQL's programs, waiting, and the guard's socket.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use pgbaton::guard::protocol::{Answer, Order, PROTOCOL_VERSION, Request, Stamp};

/// Generous: the machine may be busy. What is waited for is a condition, never time itself.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const SUPERUSER: &str = "boss";
pub const PASSWORD: &str = "sEcret:'\\of boss";
pub const REPLICA: &str = "repl";
pub const REPLICA_PASSWORD: &str = "pa:ss\\wo'rd of repl";

pub fn is_root() -> bool {
    nix::unistd::getuid().is_root()
}

/// Directory of PostgreSQL's programs.
pub fn bin_dir() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| e.path().join("bin"))
        .filter(|p| p.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| {
        let out = Command::new("pg_config")
            .arg("--bindir")
            .output()
            .expect("PostgreSQL is installed");
        PathBuf::from(String::from_utf8(out.stdout).unwrap().trim())
    })
}

pub fn path_env() -> String {
    format!(
        "{}:{}",
        bin_dir().display(),
        std::env::var("PATH").unwrap_or_default()
    )
}

/// A program as PostgreSQL's user.
pub fn as_postgres(program: &str) -> Command {
    let mut command = if is_root() {
        let mut command = Command::new("runuser");
        command.args(["-u", "postgres", "--", program]);
        command
    } else {
        Command::new(program)
    };
    command
        .env("PATH", path_env())
        .env("LC_ALL", "C")
        .current_dir("/");
    command
}

pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Connection(pub BufReader<UnixStream>);

impl Connection {
    pub fn ask(&mut self, request: &Request) -> Answer {
        self.send(&serde_json::to_vec(request).unwrap());
        self.read().expect("an answer")
    }

    pub fn send(&mut self, line: &[u8]) {
        let mut text = line.to_vec();
        text.push(b'\n');
        // The guard may have closed already; the answer tells.
        let _ = self.0.get_mut().write_all(&text);
    }

    pub fn read(&mut self) -> Option<Answer> {
        let mut line = String::new();
        match self.0.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap()),
        }
    }
}

pub fn request(order: Order, stamp: Option<Stamp>) -> Request {
    Request {
        version: PROTOCOL_VERSION,
        order,
        stamp,
    }
}

/// The start of the last record according to pg_waldump, read from this location on.
pub fn waldump(pgdata: &Path, timeline: u32, redo: &str) -> String {
    let out = as_postgres(bin_dir().join("pg_waldump").to_str().unwrap())
        .args([
            "-p",
            pgdata.join("pg_wal").to_str().unwrap(),
            "-s",
            redo,
            "-t",
            &timeline.to_string(),
        ])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let last = text.lines().last().unwrap();
    let at = last.split("lsn: ").nth(1).unwrap().split(',').next().unwrap();
    at.parse::<pgbaton::core::types::Lsn>().unwrap().to_string()
}

/// What pg_controldata says under this title.
pub fn control(pgdata: &Path, title: &str) -> String {
    let out = as_postgres(bin_dir().join("pg_controldata").to_str().unwrap())
        .arg(pgdata)
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(title));
    let value = line.unwrap_or_else(|| panic!("{title} in {text}"));
    value.trim_start_matches(':').trim().to_owned()
}
