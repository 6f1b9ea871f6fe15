//! Processes that stand still and go on later: what a paused machine or a hung disk looks like.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::kill::{running, server_processes};
use super::until;
use crate::local::kubelet::Role;
use crate::local::process;
use crate::local::rig::Rig;
use crate::oracles::trial::Inflicted;

/// Longest freeze of a primary: longer than a Lease lasts and a takeover takes.
const PRIMARY_BOUND: Duration = Duration::from_secs(30);
/// It stays frozen this long after somebody else was installed, so that it thaws into a cluster that goes on without it.
const AFTER_TAKEOVER: Duration = Duration::from_secs(3);
/// Freeze of a standby: longer than any timeout of a commit.
const STANDBY_FOR: Duration = Duration::from_secs(15);

pub async fn pod(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let name = &kubelet.member().name;
    let at = Instant::now();
    kubelet.freeze();
    outlast_takeover(rig, name).await;
    kubelet.thaw();
    Ok(lasting(at, name, "all processes"))
}

pub async fn server(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let name = &kubelet.member().name;
    let container = running(kubelet, Role::Server)?;
    let pids = server_processes(&container);
    if pids.is_empty() {
        bail!("{name} has no server process");
    }
    let noted: Vec<(i32, Option<u64>)> = pids.iter().map(|&pid| (pid, process::start_time(pid))).collect();
    let at = Instant::now();
    for &(pid, _) in &noted {
        process::signal(pid, Signal::SIGSTOP).with_context(|| format!("cannot stop process {pid}"))?;
    }
    outlast_takeover(rig, name).await;
    // Most of them were killed by then; a pid may mean another process now.
    for &(pid, start) in &noted {
        if start.is_some() && process::start_time(pid) == start {
            process::signal(pid, Signal::SIGCONT)
                .with_context(|| format!("cannot continue process {pid}"))?;
        }
    }
    Ok(lasting(at, name, "PostgreSQL's processes"))
}

pub async fn sidecar(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let name = &kubelet.member().name;
    let container = running(kubelet, Role::Sidecar)?;
    let at = Instant::now();
    container.freeze();
    outlast_takeover(rig, name).await;
    container.thaw();
    Ok(lasting(at, name, "the sidecar"))
}

pub async fn standby(rig: &Rig) -> Result<Inflicted> {
    let standbys = rig.standby_kubelets()?;
    let kubelet = standbys.first().context("there is no standby")?;
    let at = Instant::now();
    kubelet.freeze();
    sleep(STANDBY_FOR).await;
    kubelet.thaw();
    Ok(lasting(at, &kubelet.member().name, "all processes"))
}

async fn outlast_takeover(rig: &Rig, frozen: &str) {
    let taken_over = || rig.primary().is_some_and(|primary| primary != frozen);
    if until(PRIMARY_BOUND, taken_over).await {
        sleep(AFTER_TAKEOVER).await;
    }
}

fn lasting(at: Instant, name: &str, what: &str) -> Inflicted {
    let for_ms = at.elapsed().as_millis();
    Inflicted::lasting(
        at,
        Some(name),
        format!("SIGSTOP to {what} of {name}, SIGCONT after {for_ms} ms"),
    )
}
