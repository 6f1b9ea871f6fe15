//! The hosts of the machine's own cluster (chaos/cluster/up.sh): network namespaces, control groups, processes. What is done to
//! them is always undone: by the scenario, or when it is dropped half way.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::undo::{Undo, run};

/// Where the cluster's state is.
#[derive(Debug, Clone)]
pub struct Hosts {
    pub(super) state: PathBuf,
    pub(super) scripts: PathBuf,
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

    /// Whether a directory is a file system of its own, which can be filled without filling the machine's.
    #[must_use]
    pub fn is_file_system(directory: &Path) -> bool {
        let device = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.dev());
        let outside = directory.parent().and_then(device);
        outside.is_some() && device(directory) != outside
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
        for root in groups(&format!("pod{uid}")) {
            collect(&root, &mut pids);
        }
        pids
    }

    /// Freezes all processes of a pod until taken back.
    ///
    /// # Errors
    /// When this machine has no freezer for it.
    pub fn freeze(&self, uid: &str) -> Result<Undo> {
        freeze(&format!("pod{uid}"))
    }
}

/// The control groups of this name, one in each controller (version 1), or one (version 2).
pub fn groups(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut rest = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = rest.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            if entry.file_name().to_string_lossy() == *name {
                found.push(entry.path());
            } else if depth < 5 {
                rest.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// All processes in a control group and those below it.
pub(super) fn collect(group: &Path, pids: &mut BTreeSet<i32>) {
    if let Ok(text) = std::fs::read_to_string(group.join("cgroup.procs")) {
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), pids);
        }
    }
}

/// Freezes the processes of these control groups, as a paused virtual machine does, until taken back.
///
/// # Errors
/// When this machine has no freezer for it.
pub(super) fn freeze(name: &str) -> Result<Undo> {
    let mut undo = Undo::default();
    for group in groups(name) {
        let (file, frozen, thawed) = match group {
            _ if group.join("freezer.state").exists() => ("freezer.state", "FROZEN", "THAWED"),
            _ if group.join("cgroup.freeze").exists() => ("cgroup.freeze", "1", "0"),
            _ => continue,
        };
        let file = group.join(file);
        undo.add(&["sh", "-c", &format!("echo {thawed} > {}", file.display())]);
        std::fs::write(&file, frozen).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if undo.is_empty() {
        bail!("control group {name} has no freezer");
    }
    Ok(undo)
}
