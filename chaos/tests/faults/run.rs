//! Runs `pgbaton-chaos demo --json` in a directory of the test's own, judges what it says, and leaves nothing behind.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use pgbaton_chaos::local::process;
use pgbaton_chaos::report::FaultReport;
use tempfile::TempDir;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Clusters at once: they mostly wait, and a third one would make all slow on two cores.
static FEW: Semaphore = Semaphore::const_new(2);

/// To start a cluster, and for each fault; several times what a loaded machine needs.
const START_BOUND: Duration = Duration::from_secs(180);
const FAULT_BOUND: Duration = Duration::from_secs(150);
/// From the polite signal to the end of all processes.
const END_BOUND: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(50);
/// Lines of each log that are shown when a test fails.
const SHOWN: usize = 40;

/// Waits for its turn; those before it are bounded in time.
fn one_of_few() -> SemaphorePermit<'static> {
    loop {
        if let Ok(turn) = FEW.try_acquire() {
            return turn;
        }
        std::thread::sleep(LOOK);
    }
}

/// What must hold after a fault, beside what always must.
#[derive(Debug, Clone)]
pub struct Expect {
    pub fault: &'static str,
    /// Whether another member leads afterwards; none: either.
    pub moved: Option<bool>,
    /// Milliseconds; far above what is normal.
    pub outage_below: u64,
    /// Milliseconds, where an outage is part of what was chosen.
    pub outage_above: u64,
    /// How the member that was hit may come back (`nothing`: its server never ended); empty: any way.
    pub rejoined_by: &'static [&'static str],
}

/// A cluster to be.
#[derive(Debug)]
pub struct Cluster {
    subnet: u8,
    members: u8,
    durability: &'static str,
    more: &'static [&'static str],
}

impl Cluster {
    /// Three members, synchronous, at 127.0.`subnet`.x.
    pub fn new(subnet: u8) -> Self {
        Self {
            subnet,
            members: 3,
            durability: "sync",
            more: &[],
        }
    }

    pub fn members(mut self, members: u8) -> Self {
        self.members = members;
        self
    }

    /// Further arguments of the demo.
    pub fn with(mut self, more: &'static [&'static str]) -> Self {
        self.more = more;
        self
    }

    pub fn asynchronous(mut self) -> Self {
        self.durability = "async";
        self
    }

    /// Runs the faults in their order and panics with all that was wrong.
    pub fn check(&self, expected: &[Expect]) {
        let _one = one_of_few();
        let mut run = Run::start(self, expected);
        let faults = u32::try_from(expected.len()).unwrap();
        let status = run.wait(START_BOUND + FAULT_BOUND * faults);
        let reports = run.reports();
        let mut wrong: Vec<String> = Vec::new();
        match status {
            Some(status) if status.success() => {}
            Some(status) => wrong.push(format!("the demo ended with {status}")),
            None => wrong.push("the demo did not end in time".to_owned()),
        }
        for (number, expect) in expected.iter().enumerate() {
            match reports.get(number) {
                Some(report) => wrong.extend(self.judge(expect, report)),
                None => wrong.push(format!("{}: no report", expect.fault)),
            }
        }
        if wrong.is_empty() && run.directory.exists() {
            wrong.push(format!("{} was left behind", run.directory.display()));
        }
        let left = run.left();
        if status.is_some() && !left.is_empty() {
            wrong.push(format!("processes were left behind: {left:?}"));
        }
        if !wrong.is_empty() {
            let shown = run.evidence();
            panic!("{}\n{shown}", wrong.join("\n"));
        }
    }

    fn judge(&self, expect: &Expect, report: &FaultReport) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut check = |good: bool, what: String| {
            if !good {
                wrong.push(format!("{}: {what}", expect.fault));
            }
        };
        check(
            report.fault == expect.fault && report.durability == self.durability,
            format!("reported as {} in {}", report.fault, report.durability),
        );
        check(
            self.durability == "async" || report.lost == 0,
            format!(
                "{} acknowledged writes are lost: {:?}",
                report.lost, report.detail.lost_ids
            ),
        );
        check(
            !report.two_writable,
            format!("two servers took writes: {:?}", report.detail.two_writable),
        );
        check(
            report.read_only_errors == 0,
            format!(
                "{} writes of clients met a read-only server",
                report.read_only_errors
            ),
        );
        check(
            report.detail.not_whole.is_empty() && report.rejoined_ms.is_some(),
            format!("not whole again: {}", report.detail.not_whole.join("; ")),
        );
        check(
            report.detail.trouble.is_none(),
            format!("{:?}", report.detail.trouble),
        );
        check(report.acknowledged > 0, "no write was acknowledged".to_owned());
        check(
            report.outage_ms < expect.outage_below && report.outage_ms >= expect.outage_above,
            format!("an outage of {} ms", report.outage_ms),
        );
        let moved = report.old_primary != report.new_primary;
        check(
            report.new_primary.is_some() && expect.moved.is_none_or(|expected| expected == moved),
            format!("primary {:?} -> {:?}", report.old_primary, report.new_primary),
        );
        let by = report.rejoined_by.as_deref().unwrap_or("nothing");
        check(
            expect.rejoined_by.is_empty() || expect.rejoined_by.contains(&by),
            format!("came back by {by}"),
        );
        wrong
    }
}

/// The demo and its files; dropping it ends what runs and removes what lies there.
struct Run {
    child: Child,
    /// The cluster's.
    directory: PathBuf,
    files: Option<TempDir>,
}

impl Run {
    fn start(cluster: &Cluster, expected: &[Expect]) -> Self {
        let chaos = Path::new(env!("CARGO_BIN_EXE_pgbaton-chaos"));
        let pgbaton = chaos.with_file_name("pgbaton");
        assert!(
            pgbaton.is_file(),
            "there is no {}: run 'cargo build --release --workspace', or 'make test'",
            pgbaton.display()
        );
        let files = tempfile::Builder::new()
            .prefix("pgbaton-test-")
            .tempdir()
            .unwrap();
        // The server's user must pass through.
        fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let directory = files.path().join("rig");
        let file = |name: &str| File::create(files.path().join(name)).unwrap();
        let mut command = Command::new(chaos);
        command
            .args(["demo", "--json", "--durability", cluster.durability])
            .args(["--members", &cluster.members.to_string()])
            .args(["--subnet", &cluster.subnet.to_string()])
            .arg("--dir")
            .arg(&directory)
            .arg("--pgbaton")
            .arg(&pgbaton)
            .args(cluster.more);
        for expect in expected {
            command.args(["--fault", expect.fault]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(file("reports"))
            .stderr(file("words"))
            .spawn()
            .unwrap();
        Self {
            child,
            directory,
            files: Some(files),
        }
    }

    fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + bound;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(LOOK);
        }
        None
    }

    fn text(&self, name: &str) -> String {
        let files = self.files.as_ref().map(TempDir::path);
        let bytes = files.and_then(|files| fs::read(files.join(name)).ok());
        String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
    }

    /// One object a line, nothing else.
    fn reports(&self) -> Vec<FaultReport> {
        let text = self.text("reports");
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in '{line}'")))
            .collect()
    }

    /// Processes that still belong to the cluster: they work in its directory or name it.
    fn left(&self) -> Vec<String> {
        let name = self.directory.display().to_string();
        let here = process::working_below(&self.directory);
        process::all()
            .into_iter()
            .filter(|&pid| process::is_alive(pid))
            .filter(|pid| here.contains(pid) || process::command_line(*pid).contains(&name))
            .map(|pid| format!("{pid} {}", process::command_line(pid)))
            .collect()
    }

    /// What explains a failure: the demo's own words on the last fault, and what each member logged that is not routine.
    fn evidence(&self) -> String {
        let words = self.text("words");
        let from = words.rfind("\nfault: ").unwrap_or(0);
        let mut shown = format!("{}\n{}\n", words[from..].trim(), self.text("reports").trim());
        let mut logs: Vec<PathBuf> = Vec::new();
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let found = fs::read_dir(entry.path().join("log"));
            logs.extend(found.into_iter().flatten().flatten().map(|file| file.path()));
        }
        logs.sort();
        for log in logs {
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            let telling: Vec<&str> = text.lines().filter(|line| is_telling(line)).collect();
            let _ = writeln!(shown, "--- {}", log.display());
            for line in &telling[telling.len().saturating_sub(SHOWN)..] {
                shown.push_str(line);
                shown.push('\n');
            }
        }
        shown
    }
}

/// Neither the refusals that every writer meets during a fault nor the statements that met them.
fn is_telling(line: &str) -> bool {
    let routine = [
        "STATEMENT:",
        "read-only transaction",
        "the database system is",
        "Consistent recovery state",
        "pg_ident.conf",
        "terminating connection",
        "Connection reset by peer",
    ];
    !routine.iter().any(|words| line.contains(words))
}

impl Drop for Run {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            // In order first: the demo ends its containers itself. Its watchdog does when it is killed.
            if let Ok(pid) = i32::try_from(self.child.id()) {
                let _ = process::signal(pid, Signal::SIGTERM);
            }
            if self.wait(END_BOUND).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        let deadline = Instant::now() + END_BOUND;
        while !self.left().is_empty() && Instant::now() < deadline {
            std::thread::sleep(LOOK);
        }
        if let Some(files) = self.files.take()
            && std::thread::panicking()
            && std::env::var_os("PGBATON_KEEP").is_some_and(|value| value == "1")
        {
            eprintln!("logs and data stay in {}", files.keep().display());
        }
    }
}
