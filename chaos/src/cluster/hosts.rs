//! The hosts of the machine's own cluster (chaos/cluster/up.sh): network namespaces, control groups, processes. What is done to
//! them is always undone: by the scenario, or when it is dropped half way.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Where the cluster's state is.
#[derive(Debug, Clone)]
pub struct Hosts {
    state: PathBuf,
    scripts: PathBuf,
}

/// Commands that take back what was done. They run once: by `now`, or at the latest when this is dropped.
#[derive(Debug, Default)]
#[must_use = "dropping it undoes the fault"]
pub struct Undo(Vec<Vec<String>>);

impl Undo {
    fn add(&mut self, command: &[&str]) {
        self.0.push(command.iter().map(|&word| word.to_owned()).collect());
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When a command failed; the others were run all the same.
    pub fn now(mut self) -> Result<()> {
        self.run()
    }

    fn run(&mut self) -> Result<()> {
        let mut first = Ok(());
        for command in std::mem::take(&mut self.0).into_iter().rev() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            first = first.and(run(&words));
        }
        first
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Err(error) = self.run() {
            tracing::error!("a fault could not be taken back: {error:#}");
        }
    }
}

fn run(command: &[&str]) -> Result<()> {
    let [program, arguments @ ..] = command else {
        bail!("an empty command");
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "'{}' ended with {}: {}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

impl Hosts {
    /// The cluster whose state is in this directory; its scripts lie in the checkout.
    ///
    /// # Errors
    /// When no cluster is up there.
    pub fn at(state: &Path, scripts: &Path) -> Result<Self> {
        if !state.join("pid/apiserver").exists() {
            bail!("no cluster is up in {}: make cluster", state.display());
        }
        Ok(Self {
            state: state.to_owned(),
            scripts: scripts.to_owned(),
        })
    }

    /// The directory of a member's volume.
    #[must_use]
    pub fn volume(&self, namespace: &str, member: &str) -> PathBuf {
        self.state.join("volumes").join(namespace).join(member)
    }

    /// Cuts a host (`n1`, `cp`) off from all others.
    ///
    /// # Errors
    /// When its link cannot be taken down.
    pub fn cut(&self, host: &str) -> Result<Undo> {
        let link = format!("p-{host}");
        let lan = "--net=/run/netns/pgb-lan";
        let mut undo = Undo::default();
        undo.add(&["nsenter", lan, "ip", "link", "set", &link, "up"]);
        run(&["nsenter", lan, "ip", "link", "set", &link, "down"])?;
        Ok(undo)
    }

    /// Packets that match are dropped inside the network namespace of this process.
    ///
    /// # Errors
    /// When a rule cannot be put in.
    pub fn drop_packets(&self, pid: i32, rules: &[&[&str]]) -> Result<Undo> {
        let mut undo = Undo::default();
        let namespace = format!("--net=/proc/{pid}/ns/net");
        for rule in rules {
            let with = |action: &'static str| -> Vec<&str> {
                let mut words = vec!["nsenter", namespace.as_str(), "iptables", "-w", action];
                words.extend(*rule);
                words.extend(["-j", "DROP"]);
                words
            };
            run(&with("-I"))?;
            undo.add(&with("-D"));
        }
        Ok(undo)
    }

    /// The process of a control plane's component, or a node's daemon: `apiserver`, `etcd`, `kubelet-n1`.
    ///
    /// # Errors
    /// When it is not known.
    pub fn component(&self, name: &str) -> Result<i32> {
        let path = self.state.join("pid").join(name);
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        text.trim()
            .parse()
            .with_context(|| format!("{} holds no pid", path.display()))
    }

    /// Stops a component's process where it is, until taken back.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn hang(&self, component: &str) -> Result<Undo> {
        let pid = self.component(component)?;
        let mut undo = Undo::default();
        undo.add(&["kill", "-CONT", &pid.to_string()]);
        run(&["kill", "-STOP", &pid.to_string()])?;
        Ok(undo)
    }

    /// Ends `etcd` or `apiserver`; it is started again when taken back.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn end(&self, component: &str) -> Result<Undo> {
        let pid = self.component(component)?;
        let mut undo = Undo::default();
        let script = self.scripts.join("component.sh");
        undo.add(&[&script.to_string_lossy(), component]);
        run(&["kill", "-KILL", &pid.to_string()])?;
        Ok(undo)
    }

    /// All processes of a pod, by its control groups.
    #[must_use]
    pub fn processes(&self, uid: &str) -> BTreeSet<i32> {
        // With the cgroupfs driver the directory is named by the UID as it is.
        let mut pids = BTreeSet::new();
        for root in groups(uid) {
            collect(&root, &mut pids);
        }
        pids
    }

    /// Freezes all processes of a pod, as a paused virtual machine does, until taken back.
    ///
    /// # Errors
    /// When this machine has no freezer for it.
    pub fn freeze(&self, uid: &str) -> Result<Undo> {
        let mut undo = Undo::default();
        for group in groups(uid) {
            let (file, frozen, thawed) = match group {
                _ if group.join("freezer.state").exists() => ("freezer.state", "FROZEN", "THAWED"),
                _ if group.join("cgroup.freeze").exists() => ("cgroup.freeze", "1", "0"),
                _ => continue,
            };
            let file = group.join(file);
            undo.add(&["sh", "-c", &format!("echo {thawed} > {}", file.display())]);
            std::fs::write(&file, frozen).with_context(|| format!("cannot write {}", file.display()))?;
        }
        if undo.0.is_empty() {
            bail!("the control groups of pod {uid} have no freezer");
        }
        Ok(undo)
    }
}

/// The control groups of a pod, one in each controller (version 1), or one (version 2).
fn groups(uid: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let name = format!("pod{uid}");
    let mut rest = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = rest.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            if entry.file_name().to_string_lossy() == name {
                found.push(entry.path());
            } else if depth < 5 {
                rest.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

fn collect(group: &Path, pids: &mut BTreeSet<i32>) {
    if let Ok(text) = std::fs::read_to_string(group.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}
