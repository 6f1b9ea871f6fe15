//! A container of the rig: a process that is PID 1 of a PID namespace of its own, so that its end is the end of everything it
//! started, as in a real container. Nothing else is isolated: file system and network are the machine's.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::host::Account;
use super::process;

/// How long `unshare` may take until the process inside runs.
const LAUNCH_BOUND: Duration = Duration::from_secs(5);

/// What the kernel lets this user do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Root: a PID namespace.
    Namespace,
    /// An ordinary user: a PID namespace within a user namespace.
    UserNamespace,
    /// Neither: the guard is told so and ends its server itself when it dies.
    None,
}

impl Isolation {
    /// `unshare`'s arguments; none without namespace.
    #[must_use]
    pub fn unshare_arguments(self) -> Option<&'static [&'static str]> {
        match self {
            Self::Namespace => Some(&["--pid", "--fork", "--kill-child", "--mount-proc"]),
            Self::UserNamespace => Some(&[
                "--user",
                "--map-current-user",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
            ]),
            Self::None => None,
        }
    }
}

/// What to run.
#[derive(Debug, Clone)]
pub struct ContainerSpec {
    /// `<pod>/<container>`, for messages.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Standard output and error are appended here.
    pub log: PathBuf,
    /// See there.
    pub isolation: Isolation,
    /// Whom the process becomes before it starts; none: stays who the rig is.
    pub account: Option<Account>,
    /// Its working directory.
    pub directory: PathBuf,
    /// Without a namespace: processes that work below this directory belong to the container, whoever their parents are.
    pub owns: Option<PathBuf>,
}

/// A container that was launched.
#[derive(Debug)]
pub struct Container {
    name: String,
    isolation: Isolation,
    init: i32,
    namespace: Option<u64>,
    owns: Option<PathBuf>,
    exit: watch::Receiver<Option<ExitStatus>>,
    started: Instant,
}

impl Container {
    /// Launches the process and waits until it is there.
    ///
    /// # Errors
    /// When the log cannot be written, `unshare` cannot be run, or the process inside did not come up.
    pub async fn launch(spec: &ContainerSpec) -> Result<Self> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&spec.log)
            .with_context(|| format!("cannot open {} for the container's log", spec.log.display()))?;
        let mut command = command(spec)?;
        command
            .env_clear()
            .envs(spec.env.iter().map(|(name, value)| (name, value)))
            .current_dir(&spec.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            // Ctrl-C at the terminal is for the rig alone; it ends the containers in order.
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start container {}: {:?}", spec.name, spec.command))?;
        let outer = i32::try_from(child.id().unwrap_or_default()).unwrap_or_default();
        let init = match spec.isolation {
            Isolation::None => outer,
            Isolation::Namespace | Isolation::UserNamespace => match inner(&mut child, outer).await {
                Ok(pid) => pid,
                Err(error) => bail!("container {}: {error}; see {}", spec.name, spec.log.display()),
            },
        };
        let namespace = match spec.isolation {
            Isolation::None => None,
            Isolation::Namespace | Isolation::UserNamespace => process::pid_namespace(init),
        };
        let (sender, exit) = watch::channel(None);
        tokio::spawn(async move {
            // The receiver's end is where a dropped container shows; the child is waited for in any case, so no zombie stays.
            let status = child.wait().await.unwrap_or_default();
            sender.send_replace(Some(status));
        });
        Ok(Self {
            name: spec.name.clone(),
            isolation: spec.isolation,
            init,
            namespace,
            owns: spec.owns.clone(),
            exit,
            started: Instant::now(),
        })
    }

    /// `<pod>/<container>`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's pid of the container's PID 1.
    #[must_use]
    pub fn init_pid(&self) -> i32 {
        self.init
    }

    /// How long ago it was launched.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// True until it ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.exit.borrow().is_none()
    }

    /// The host's pids of all its processes, PID 1 first.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let mut found: BTreeSet<i32> = match self.namespace {
            Some(inode) => process::all()
                .into_iter()
                .filter(|&pid| process::pid_namespace(pid) == Some(inode))
                .collect(),
            None if self.is_running() => process::descendants(self.init),
            None => BTreeSet::new(),
        };
        if let (None, Some(directory)) = (self.namespace, &self.owns) {
            found.extend(process::working_below(directory));
        }
        found.remove(&self.init);
        let first = self.is_running().then_some(self.init);
        first.into_iter().chain(found).collect()
    }

    /// Sends a signal to PID 1 only.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            send(self.init, signal);
        }
    }

    /// SIGKILL to every process. In a namespace the first one ends them all.
    pub fn kill(&self) {
        self.signal_until_settled(Signal::SIGKILL);
    }

    /// SIGSTOP to every process.
    pub fn freeze(&self) {
        self.signal_until_settled(Signal::SIGSTOP);
    }

    /// SIGCONT to every process.
    pub fn thaw(&self) {
        for pid in self.pids() {
            send(pid, Signal::SIGCONT);
        }
    }

    /// Waits for its end.
    pub async fn exited(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await;
        status.ok().and_then(|status| *status).unwrap_or_default()
    }

    /// Waits for its end, at most this long.
    pub async fn exited_within(&self, bound: Duration) -> Option<ExitStatus> {
        timeout(bound, self.exited()).await.ok()
    }

    /// Runs a program inside, as `kubectl exec` does, at most for `bound`.
    ///
    /// # Errors
    /// When it cannot be run, does not end in time, or ends with a status other than 0.
    pub async fn exec(&self, account: Option<&Account>, command: &[&str], bound: Duration) -> Result<String> {
        let enter: &[&str] = match self.isolation {
            Isolation::Namespace => &["--pid", "--mount"],
            Isolation::UserNamespace => &["--user", "--preserve-credentials", "--pid", "--mount"],
            Isolation::None => &[],
        };
        let mut words: Vec<String> = Vec::new();
        if !enter.is_empty() {
            words.extend(["nsenter".to_owned(), format!("--target={}", self.init)]);
            words.extend(enter.iter().map(|&word| word.to_owned()));
            if let Some(account) = account {
                words.extend([
                    format!("--setgid={}", account.gid),
                    format!("--setuid={}", account.uid),
                ]);
            }
            words.push("--".to_owned());
        }
        words.extend(command.iter().map(|&word| word.to_owned()));
        let mut run = Command::new(&words[0]);
        run.args(&words[1..])
            .stdin(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true);
        if let (Isolation::None, Some(account)) = (self.isolation, account) {
            run.uid(account.uid).gid(account.gid);
        }
        let what = command.join(" ");
        let output = timeout(bound, run.output())
            .await
            .with_context(|| format!("'{what}' in {} did not end within {bound:?}", self.name))?
            .with_context(|| format!("cannot run '{what}' in {}", self.name))?;
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        if !output.status.success() {
            bail!(
                "'{what}' in {} ended with {}: {}",
                self.name,
                output.status,
                text.trim()
            );
        }
        Ok(text)
    }

    /// A process forked while the list was read escapes one round, so rounds go on until nothing new appears.
    fn signal_until_settled(&self, signal: Signal) {
        let mut done = BTreeSet::new();
        for _ in 0..5 {
            let new: Vec<i32> = self
                .pids()
                .into_iter()
                .filter(|pid| !done.contains(pid))
                .collect();
            if new.is_empty() {
                return;
            }
            for pid in new {
                send(pid, signal);
                done.insert(pid);
            }
        }
    }
}

/// The rig signals only what it started; a refusal is worth a line and nothing more.
fn send(pid: i32, signal: Signal) {
    if let Err(errno) = process::signal(pid, signal) {
        tracing::warn!(pid, %signal, %errno, "a signal was refused");
    }
}

fn command(spec: &ContainerSpec) -> Result<Command> {
    let Some((program, arguments)) = spec.command.split_first() else {
        bail!("container {} has no command", spec.name);
    };
    let Some(unshare) = spec.isolation.unshare_arguments() else {
        let mut command = Command::new(program);
        command.args(arguments);
        if let Some(account) = &spec.account {
            command.uid(account.uid).gid(account.gid);
        }
        return Ok(command);
    };
    let mut command = Command::new("unshare");
    command.args(unshare);
    if let Some(account) = &spec.account {
        command
            .arg(format!("--setgid={}", account.gid))
            .arg(format!("--setuid={}", account.uid));
    }
    command.arg("--").arg(program).args(arguments);
    Ok(command)
}

/// The one child of `unshare`: PID 1 inside.
async fn inner(child: &mut Child, outer: i32) -> Result<i32> {
    let deadline = Instant::now() + LAUNCH_BOUND;
    loop {
        if let Some(&pid) = process::children(outer).first() {
            return Ok(pid);
        }
        if let Some(status) = child.try_wait().context("cannot wait for unshare")? {
            bail!("unshare ended at once ({status})");
        }
        if Instant::now() > deadline {
            child.start_kill().context("cannot end unshare")?;
            bail!("unshare started nothing within {LAUNCH_BOUND:?}");
        }
        sleep(Duration::from_millis(2)).await;
    }
}
