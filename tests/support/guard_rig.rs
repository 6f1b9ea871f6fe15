//! A guard as in its container: PID 1 of a PID namespace, with a real PostgreSQL, and a hand that plays the sidecar.
#![allow(
    dead_code,
    clippy::needless_pass_by_value,
    reason = "each test file uses a part of it; orders are made on the spot"
)]

use std::fs;
use std::io::BufReader;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use pgbaton::core::types::{SystemId, Term, Timeline};
use pgbaton::guard::clock::boot_ms;
use pgbaton::guard::protocol::{Answer, DataState, Order, Request, Secret, Server, Stamp, Status, Upstream};

#[path = "guard_tools.rs"]
mod tools;
pub use tools::*;

pub struct Rig {
    pub dir: tempfile::TempDir,
    pub port: u16,
    pub sequence: u64,
    guard: Option<Child>,
    pub extra_args: Vec<String>,
    pub extra_env: Vec<(String, String)>,
    pub namespace: bool,
}

impl Rig {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("pgbaton-guard-")
            .tempdir()
            .unwrap();
        let base = dir.path();
        fs::set_permissions(base, fs::Permissions::from_mode(0o755)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        for sub in ["data", "run", "sock", "initdb.d", "archive"] {
            fs::create_dir(base.join(sub)).unwrap();
        }
        if is_root() {
            let user = nix::unistd::User::from_name("postgres")
                .unwrap()
                .expect("user postgres");
            for sub in ["sock", "archive"] {
                chown(base.join(sub), Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
            }
        }
        let show = |p: &str| base.join(p).display().to_string();
        let conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nhba_file = '{}'\n\
             max_wal_senders = 3\nfsync = off\nshared_buffers = 16MB\nmax_connections = 40\n\
             synchronous_commit = local\nprimary_conninfo = 'host=nowhere'\nsynchronous_standby_names = '*'\n",
            show("sock"),
            show("pg_hba.conf")
        );
        fs::write(base.join("postgresql.conf"), conf).unwrap();
        fs::write(
            base.join("pg_hba.conf"),
            format!(
                "local all all trust\nhost replication {REPLICA} 127.0.0.0/8 scram-sha-256\nhost all {REPLICA} 127.0.0.0/8 scram-sha-256\nhost all {SUPERUSER} 127.0.0.0/8 trust\n"
            ),
        )
        .unwrap();
        let quoted = REPLICA_PASSWORD.replace('\'', "''");
        let user = format!(
            "create user {REPLICA} replication login superuser password '{quoted}';\ncreate table t(i int);\n"
        );
        fs::write(base.join("initdb.d/user.sql"), user).unwrap();
        let entry = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/guard_entrypoint.sh");
        fs::copy(entry, base.join("entry.sh")).unwrap();
        // PostgreSQL's user must be able to execute the program, wherever it was built.
        fs::copy(env!("CARGO_BIN_EXE_pgbaton"), base.join("pgbaton")).unwrap();
        Self {
            dir,
            port,
            sequence: 0,
            guard: None,
            extra_args: Vec::new(),
            extra_env: Vec::new(),
            namespace: true,
        }
    }

    pub fn base(&self) -> &Path {
        self.dir.path()
    }

    pub fn pgdata(&self) -> PathBuf {
        self.base().join("data/pgdata")
    }

    pub fn guard_command(&self) -> Command {
        let program = self.base().join("pgbaton");
        let mut command = if self.namespace {
            let mut command = Command::new("unshare");
            command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
            if !is_root() {
                command.args(["--user", "--map-current-user"]);
            }
            command.arg(program);
            command
        } else {
            Command::new(program)
        };
        command
            .arg("guard")
            .arg("--pgdata")
            .arg(self.pgdata())
            .arg("--run-dir")
            .arg(self.base().join("run"))
            .args(&self.extra_args)
            .arg("--")
            .arg(self.base().join("entry.sh"))
            .arg("-c")
            .arg(format!(
                "config_file={}",
                self.base().join("postgresql.conf").display()
            ))
            .env("PATH", path_env())
            .env("POSTGRES_USER", SUPERUSER)
            .env("POSTGRES_PASSWORD", PASSWORD)
            .env("TEST_INITDB_D", self.base().join("initdb.d"))
            .env("TEST_SOCKETS", self.base().join("sock"))
            .env("TEST_PORT", self.port.to_string())
            .env_remove("PGDATA")
            .envs(self.extra_env.iter().cloned())
            .stdin(Stdio::null())
            .current_dir("/");
        command
    }

    /// Starts the guard and waits for its socket.
    pub fn start(&mut self) {
        let _ = fs::remove_file(self.base().join("run/guard.sock"));
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_path())
            .unwrap();
        let mut command = self.guard_command();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.guard = Some(command.spawn().unwrap());
        wait_for("the guard's socket", || {
            UnixStream::connect(self.base().join("run/guard.sock")).ok()
        });
    }

    pub fn log_path(&self) -> PathBuf {
        self.base().join("log")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The guard's process id as seen from here.
    pub fn guard_pid(&self) -> i32 {
        let outer = i32::try_from(self.guard.as_ref().unwrap().id()).unwrap();
        if !self.namespace {
            return outer;
        }
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).unwrap();
        children.trim().parse().unwrap()
    }

    pub fn signal_guard(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.guard_pid()), signal).unwrap();
    }

    /// Waits for the guard's end; its exit status.
    pub fn await_end(&mut self) -> std::process::ExitStatus {
        let guard = self.guard.as_mut().unwrap();
        let status = wait_for("the guard's end", || guard.try_wait().unwrap());
        self.guard = None;
        status
    }

    /// Ends the guard as a crash would.
    pub fn kill_guard(&mut self) {
        self.signal_guard(nix::sys::signal::Signal::SIGKILL);
        self.await_end();
    }

    /// Ends the process that started the guard.
    pub fn kill_parent(&mut self) {
        self.guard.as_mut().unwrap().kill().unwrap();
        self.await_end();
    }

    pub fn connect(&self) -> Connection {
        let stream = UnixStream::connect(self.base().join("run/guard.sock")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Connection(BufReader::new(stream))
    }

    pub fn ask(&self, request: &Request) -> Answer {
        self.connect().ask(request)
    }

    pub fn status(&self) -> Status {
        match self.ask(&request(Order::Status, None)) {
            Answer::Ok { status } => *status,
            other => panic!("status: {other:?}"),
        }
    }

    /// A stamp that is right for what is here now.
    pub fn stamp(&mut self, term: u64) -> Stamp {
        let status = self.status();
        self.sequence += 1;
        Stamp {
            term: Term(term),
            sequence: self.sequence,
            boot_id: status.boot_id,
            system_identifier: status.system_identifier,
            data_id: status.data_id,
        }
    }

    pub fn order(&mut self, term: u64, order: Order) -> Answer {
        let stamp = self.stamp(term);
        self.ask(&request(order, Some(stamp)))
    }

    pub fn must(&mut self, term: u64, order: Order) -> Status {
        match self.order(term, order.clone()) {
            Answer::Ok { status } => *status,
            other => panic!("{order:?}: {other:?}\n{}", self.log()),
        }
    }

    pub fn permit(&mut self, term: u64, ms: u64) -> Status {
        self.must(
            term,
            Order::Permit {
                deadline_boot_ms: boot_ms() + ms,
            },
        )
    }

    pub fn await_status(&self, what: &str, fits: impl Fn(&Status) -> bool) -> Status {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            if fits(&status) {
                return status;
            }
            assert!(
                Instant::now() < end,
                "waited in vain for {what}: {status:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn await_operation(&self, sequence: u64) -> Option<String> {
        let status = self.await_status("the operation's end", |s| {
            s.operation.is_none() && s.last_operation.as_ref().is_some_and(|o| o.sequence == sequence)
        });
        status.last_operation.unwrap().error
    }

    /// Makes the database in term 1.
    pub fn initialise(&mut self) {
        self.permit(1, 120_000);
        self.must(1, Order::Initialise);
        let error = self.await_operation(self.sequence);
        assert_eq!(error, None, "{}", self.log());
        assert_eq!(self.status().data, DataState::Complete);
    }

    pub fn start_primary(&mut self, term: u64, names: &str) {
        self.permit(term, 300_000);
        self.must(
            term,
            Order::StartPrimary {
                synchronous_standby_names: names.to_owned(),
            },
        );
        self.await_status("a primary", |s| s.server == Server::Primary);
    }

    /// A guard with a running primary of term 1.
    pub fn primary() -> Self {
        let mut rig = Self::new();
        rig.start();
        rig.initialise();
        rig.start_primary(1, "");
        rig
    }

    pub fn upstream(&self, name: &str) -> Upstream {
        Upstream {
            host: "postgres-1".parse().unwrap(),
            hostaddr: "127.0.0.1".parse().unwrap(),
            port: self.port,
            user: REPLICA.to_owned(),
            password: Secret(REPLICA_PASSWORD.to_owned()),
            application_name: name.to_owned(),
        }
    }

    pub fn clone_order(&self, source: &Self, timeline: u32) -> Order {
        Order::Clone {
            upstream: source.upstream("clone"),
            system_identifier: source.system_identifier(),
            timeline: Timeline(timeline),
            bytes: None,
            replace: false,
            source_major: None,
            notes: Vec::new(),
        }
    }

    pub fn system_identifier(&self) -> SystemId {
        self.status().system_identifier.unwrap()
    }

    /// A standby of `source`, cloned and following.
    pub fn standby_of(source: &Self, term: u64) -> Self {
        let mut rig = Self::new();
        rig.start();
        let order = rig.clone_order(source, 1);
        rig.must(term, order);
        assert_eq!(rig.await_operation(rig.sequence), None, "{}", rig.log());
        rig.follow(source, term);
        rig.await_status("a standby", |s| s.server == Server::Standby);
        rig
    }

    pub fn follow(&mut self, source: &Self, term: u64) {
        let slot = format!("slot_{}", self.port);
        let make = format!(
            "select pg_create_physical_replication_slot('{slot}') where not exists (select from pg_replication_slots where slot_name='{slot}')"
        );
        source.sql(&make);
        self.must(
            term,
            Order::Follow {
                upstream: source.upstream("walreceiver_1"),
                slot,
                synchronous_standby_names: "ANY 1 (\"nobody\")".to_owned(),
            },
        );
    }

    pub fn psql(&self, sql: &str) -> Output {
        Command::new(bin_dir().join("psql"))
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
            .args(["-h", "127.0.0.1", "-U", SUPERUSER, "-d", "postgres", "-c", sql])
            .arg("-p")
            .arg(self.port.to_string())
            .env("PGCONNECT_TIMEOUT", "10")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    pub fn sql(&self, sql: &str) -> String {
        let out = self.psql(sql);
        assert!(
            out.status.success(),
            "{sql}: {}\n{}",
            String::from_utf8_lossy(&out.stderr),
            self.log()
        );
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    /// Eight clients that write until the server is gone.
    pub fn writers(&self) -> Child {
        let script = self.base().join("write.sql");
        fs::write(&script, "insert into t select generate_series(1, 20);\n").unwrap();
        Command::new(bin_dir().join("pgbench"))
            .args([
                "-n",
                "-c",
                "8",
                "-j",
                "2",
                "-T",
                "600",
                "-h",
                "127.0.0.1",
                "-U",
                SUPERUSER,
                "-f",
            ])
            .arg(&script)
            .arg("-p")
            .arg(self.port.to_string())
            .arg("postgres")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Living processes that sit in PGDATA, as seen from here.
    pub fn server_processes(&self) -> Vec<i32> {
        let pgdata = self.pgdata();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
                continue;
            };
            let cwd = fs::read_link(format!("/proc/{pid}/cwd"));
            let alive = pgbaton::guard::processes::read_one(pid).is_some_and(|p| p.is_alive());
            if alive && cwd.is_ok_and(|d| d.to_string_lossy().starts_with(&*pgdata.to_string_lossy())) {
                found.push(pid);
            }
        }
        found.sort_unstable();
        found
    }

    /// Processes of the server whose title holds this.
    pub fn titled(&self, part: &str) -> Vec<i32> {
        let mut found = self.server_processes();
        found.retain(|&pid| pgbaton::guard::processes::title(pid).contains(part));
        found
    }

    /// The postmaster, as seen from here.
    pub fn postmaster(&self) -> i32 {
        let all = self.server_processes();
        *all.iter()
            .find(|&&p| {
                let parent = pgbaton::guard::processes::read_one(p).map(|p| p.parent);
                parent.is_some_and(|parent| !all.contains(&parent))
            })
            .expect("a postmaster")
    }

    pub fn signal(pid: i32, signal: nix::sys::signal::Signal) {
        let sent = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
        // It may have ended by itself meanwhile, as the backend of a client that has left does.
        assert!(matches!(sent, Ok(()) | Err(nix::errno::Errno::ESRCH)), "{sent:?}");
    }

    /// What pg_controldata says under this title.
    pub fn control(&self, title: &str) -> String {
        control(&self.pgdata(), title)
    }

    /// Runs a program in the guard's PID namespace as PostgreSQL's user, as `kubectl exec` would.
    pub fn exec(&self, program: &str, args: &[&str]) -> Output {
        let target = self.guard_pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &target, "-p", "-m"]);
        if is_root() {
            command.args(["runuser", "-u", "postgres", "--"]);
        } else {
            command.args(["-U", "--preserve-credentials"]);
        }
        command
            .arg(bin_dir().join(program))
            .args(args)
            .env("PGDATA", self.pgdata())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- log of the guard in {}\n{}",
                self.base().display(),
                self.log()
            );
        }
        if self.guard.is_some() {
            self.kill_guard();
        }
        // The keeper, or the kernel, needs a moment before the directory can go.
        let end = Instant::now() + Duration::from_secs(5);
        while !self.server_processes().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
