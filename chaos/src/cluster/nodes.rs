//! A node of the machine's own cluster as a whole: its daemons, all pods on it, its link. Faults of a machine, not of a process.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use pgbaton::guard::processes::read_one;

use super::hosts::{Hosts, collect, freeze, groups};
use super::undo::{Undo, run};
use crate::local::process;

/// What runs on a node beside its pods.
const DAEMONS: [&str; 3] = ["kubelet", "containerd", "proxy"];

impl Hosts {
    /// Stands still as a paused virtual machine does: no process runs, no packet is answered.
    ///
    /// # Errors
    /// When some part of it cannot be stopped.
    pub fn freeze_node(&self, node: &str) -> Result<Undo> {
        let mut undo = self.cut(node)?;
        // Thawed before the link is up again: packets that wait there belong to the time before.
        undo.and(freeze(&format!("pgb-{node}"))?);
        for pid in self.daemons(node)? {
            undo.add(&["kill", "-CONT", &pid.to_string()]);
            run(&["kill", "-STOP", &pid.to_string()])?;
        }
        Ok(undo)
    }

    /// Ends everything on the node at once, as a machine without power; it boots when taken back.
    ///
    /// # Errors
    /// When its link cannot be taken down, or something survives.
    pub fn kill_node(&self, node: &str) -> Result<Undo> {
        let number = node.trim_start_matches('n');
        let mut undo = Undo::default();
        undo.add(&[&self.scripts.join("boot.sh").to_string_lossy(), number]);
        let cut = self.cut(node)?;
        let mut pids = self.daemons(node)?;
        // The daemons first, and again and again: nobody may start a process anew.
        for _ in 0..20 {
            for group in groups(&format!("pgb-{node}")) {
                collect(&group, &mut pids);
            }
            for &pid in &pids {
                // Gone already is fine.
                let _ = process::signal(pid, Signal::SIGKILL);
            }
            pids.retain(|&pid| read_one(pid).is_some_and(|found| found.is_alive()));
            if pids.is_empty() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        ensure!(pids.is_empty(), "processes of {node} survive SIGKILL: {pids:?}");
        undo.and(cut);
        Ok(undo)
    }

    /// Gives an image that every node has a second name.
    ///
    /// # Errors
    /// When some node does not have it.
    pub fn name_image(&self, image: &str, name: &str) -> Result<()> {
        let full = |image: &str| format!("docker.io/library/{image}");
        for entry in fs::read_dir(&self.state)?.flatten() {
            let socket = entry.path().join("containerd.sock");
            if socket.exists() {
                let socket = socket.to_string_lossy();
                let ctr = ["ctr", "-a", &socket, "-n", "k8s.io", "images", "tag", "--force"];
                run(&[&ctr[..], &[&full(image), &full(name)]].concat())?;
            }
        }
        Ok(())
    }

    /// kubelet, containerd with its shims, and kube-proxy of the node.
    fn daemons(&self, node: &str) -> Result<BTreeSet<i32>> {
        let mut pids = BTreeSet::new();
        for daemon in DAEMONS {
            pids.insert(self.component(&format!("{daemon}-{node}"))?);
        }
        let socket = self.state.join(node).join("containerd.sock");
        let of_node = format!("-address {}", socket.display());
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let is_shim = process::command_name(pid).is_some_and(|name| name.starts_with("containerd-shim"));
            if is_shim && process::command_line(pid).contains(&of_node) {
                pids.insert(pid);
            }
        }
        Ok(pids)
    }
}
