//! Throwaway PostgreSQL servers on 127.0.0.1, run as user `postgres` when the tests run as root.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use pgbaton::core::probe::{PrimaryView, Probe, StandbyView};
use pgbaton::guard::protocol::Secret;
use pgbaton::postgres::{Credentials, Health, Prober, ServerAt, Session};
use tempfile::TempDir;

pub const BUDGET: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);

fn bin(program: &str) -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin").join(program))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(program))
}

/// The command, to be run as user postgres when we are root.
fn as_postgres(program: &str) -> Command {
    let mut command = Command::new(bin(program));
    if geteuid().is_root() {
        let user = User::from_name("postgres")
            .expect("reads passwd")
            .expect("install PostgreSQL: user postgres");
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .current_dir("/")
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .expect("binds")
        .local_addr()
        .expect("bound")
        .port()
}

/// A server; its directory and processes go with it.
pub struct Server {
    dir: TempDir,
    pub port: u16,
    postmaster: Option<Child>,
}

impl Server {
    fn directory() -> TempDir {
        let dir = tempfile::Builder::new()
            .prefix("pgbaton-test-")
            .tempdir_in("/tmp")
            .expect("a directory");
        if geteuid().is_root() {
            let user = User::from_name("postgres")
                .expect("reads passwd")
                .expect("user postgres");
            chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("chown");
        }
        dir
    }

    /// A new primary whose superuser is `postgres`; over TCP only `postgres` is trusted, everybody else needs a password.
    pub fn new(settings: &str) -> Self {
        let dir = Self::directory();
        run(as_postgres("initdb")
            .args([
                "-A",
                "trust",
                "-U",
                "postgres",
                "-N",
                "-E",
                "UTF8",
                "--locale=C",
                "-D",
            ])
            .arg(dir.path().join("data")));
        let mut server = Self {
            dir,
            port: free_port(),
            postmaster: None,
        };
        let hba = "local all all trust\nhost all postgres 127.0.0.1/32 trust\nhost replication postgres 127.0.0.1/32 trust\n\
                   host all all 127.0.0.1/32 scram-sha-256\nhost replication all 127.0.0.1/32 scram-sha-256\n";
        std::fs::write(server.data().join("pg_hba.conf"), hba).expect("writes");
        server.configure(settings);
        server.start();
        server
    }

    /// A standby of `primary` under this name, copied while it runs.
    pub fn standby_of(primary: &Self, name: &str, settings: &str) -> Self {
        let dir = Self::directory();
        let port = primary.port.to_string();
        run(as_postgres("pg_basebackup")
            .args([
                "-h",
                "127.0.0.1",
                "-U",
                "postgres",
                "-X",
                "stream",
                "-c",
                "fast",
                "-N",
                "-p",
                &port,
                "-D",
            ])
            .arg(dir.path().join("data")));
        let mut server = Self {
            dir,
            port: free_port(),
            postmaster: None,
        };
        std::fs::write(server.data().join("standby.signal"), "").expect("writes");
        server.configure(&format!(
            "primary_conninfo = 'host=127.0.0.1 port={port} user=postgres application_name={name}'\n\
             wal_retrieve_retry_interval = 100ms\n{settings}"
        ));
        server.start();
        server
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn configure(&self, settings: &str) {
        let path = self.data().join("postgresql.conf");
        let mut text = std::fs::read_to_string(&path).expect("reads");
        text.push_str(&format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nlogging_collector = off\n{settings}\n",
            self.port,
            self.dir.path().display()
        ));
        std::fs::write(path, text).expect("writes");
    }

    /// Starts the postmaster as our child; whether it answers is the caller's to see.
    pub fn start(&mut self) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("log"))
            .expect("log");
        let child = as_postgres("postgres")
            .arg("-D")
            .arg(self.data())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("starts");
        self.postmaster = Some(child);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// The postmaster's process.
    pub fn postmaster(&self) -> i32 {
        self.postmaster
            .as_ref()
            .map_or(0, |child| child.id().cast_signed())
    }

    pub fn signal(&self, signal: Signal) {
        if let Some(child) = &self.postmaster {
            kill(pid(child.id().cast_signed()), signal).expect("signals");
        }
    }

    /// Sends the signal and waits for the postmaster's end.
    pub fn end(&mut self, signal: Signal) {
        self.signal(signal);
        if let Some(mut child) = self.postmaster.take() {
            child.wait().expect("waits");
        }
    }

    pub fn at(&self) -> ServerAt {
        ServerAt {
            host: "127.0.0.1".to_owned(),
            port: self.port,
        }
    }

    pub fn prober(&self) -> Prober {
        Prober::new(self.at(), superuser())
    }

    pub async fn session(&self) -> Session {
        Session::open(&self.at(), &superuser(), BUDGET, BUDGET)
            .await
            .expect("connects")
    }

    /// A plain client, for what a person or an application would do.
    pub async fn client(&self) -> tokio_postgres::Client {
        let text = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port);
        let (client, connection) = tokio_postgres::connect(&text, tokio_postgres::NoTls)
            .await
            .expect("connects");
        tokio::spawn(connection);
        client
    }

    pub async fn sql(&self, sql: &str) {
        for statement in sql.split(';') {
            self.client()
                .await
                .batch_execute(statement)
                .await
                .expect(statement);
        }
    }

    /// Looks freshly until `good`.
    pub async fn until(&self, what: &str, good: impl Fn(&Probe) -> bool) -> Probe {
        let started = Instant::now();
        loop {
            let probe = self.prober().probe_fresh(BUDGET, Health::Read).await;
            if good(&probe) {
                return probe;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "never {what}: {probe:?}\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn primary(&self) -> PrimaryView {
        match self.until("a primary", |p| matches!(p, Probe::Primary(_))).await {
            Probe::Primary(view) => view,
            other => panic!("{other:?}"),
        }
    }

    pub async fn primary_when(&self, what: &str, good: impl Fn(&PrimaryView) -> bool) -> PrimaryView {
        match self
            .until(what, |p| matches!(p, Probe::Primary(view) if good(view)))
            .await
        {
            Probe::Primary(view) => view,
            other => panic!("{other:?}"),
        }
    }

    pub async fn standby_when(&self, what: &str, good: impl Fn(&StandbyView) -> bool) -> StandbyView {
        match self
            .until(what, |p| matches!(p, Probe::Standby(view) if good(view)))
            .await
        {
            Probe::Standby(view) => view,
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.postmaster.take() else {
            return;
        };
        let postmaster = pid(child.id().cast_signed());
        // SIGQUIT: an immediate stop, which takes the children along.
        let _ = kill(postmaster, Signal::SIGCONT);
        let _ = kill(postmaster, Signal::SIGQUIT);
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(15) {
            if matches!(child.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = kill(postmaster, Signal::SIGKILL);
        let _ = child.wait();
    }
}

pub fn pid(raw: i32) -> Pid {
    Pid::from_raw(raw)
}

pub fn superuser() -> Credentials {
    Credentials {
        user: "postgres".to_owned(),
        password: None,
        database: "postgres".to_owned(),
    }
}

pub fn login(user: &str, password: &str) -> Credentials {
    Credentials {
        user: user.to_owned(),
        password: Some(Secret(password.to_owned())),
        database: "postgres".to_owned(),
    }
}

/// Stops a process until dropped.
pub struct Stopped(Pid);

impl Stopped {
    pub fn new(raw: i32) -> Self {
        kill(pid(raw), Signal::SIGSTOP).expect("stops");
        Self(pid(raw))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
