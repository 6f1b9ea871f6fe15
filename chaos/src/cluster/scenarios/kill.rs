//! Processes of pods that end, or stand still.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use jiff::Timestamp;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use crate::cluster::kube::Kind;
use crate::cluster::pods::{self, Processes};
use crate::cluster::target::Target;
use crate::local::process;
use crate::oracles::trial::{Inflicted, Subject as _};

/// Of a pod that is made anew before it is hit; the role moves, so each member may need one.
const FRESH: Duration = Duration::from_secs(90);
const FRESH_TRIES: u32 = 5;
const AGAIN: Duration = Duration::from_secs(30);
/// Longer than a Lease and a takeover.
const FROZEN: Duration = Duration::from_secs(20);

async fn of_primary(target: &Target) -> Result<(String, Processes)> {
    let primary = target.primary().await?;
    let pod = target.pod(&primary).await?;
    Ok((primary, pods::of(target, &pod)?))
}

/// As `of_primary`, in a pod none of whose containers was started again yet: kubelet waits longer before each further start, and that
/// wait would be measured.
async fn of_fresh_primary(target: &Target) -> Result<(String, Processes)> {
    for _ in 0..FRESH_TRIES {
        let primary = target.primary().await?;
        let path = target.kube.path(Kind::Pod, &format!("{primary}-0"));
        let pod = target.kube.get(&path).await?;
        let pod = pod.with_context(|| format!("{primary} has no pod"))?;
        let lists = ["/status/containerStatuses", "/status/initContainerStatuses"];
        let mut containers = lists
            .iter()
            .filter_map(|list| pod.pointer(list)?.as_array())
            .flatten();
        if containers.all(|container| container["restartCount"] == 0) {
            return of_primary(target).await;
        }
        target.kube.delete(&path, None).await?;
        let deadline = Instant::now() + FRESH;
        // Until the old one is gone the cluster looks whole.
        while target
            .kube
            .get(&path)
            .await?
            .is_some_and(|now| now["metadata"]["uid"] == pod["metadata"]["uid"])
        {
            ensure!(
                Instant::now() < deadline,
                "the pod of {primary} is still there after {FRESH:?}"
            );
            sleep(Duration::from_millis(200)).await;
        }
        let whole = target.wait_whole_since(Timestamp::now(), FRESH).await;
        whole.map_err(|missing| anyhow!("not whole after a new pod of {primary}: {}", missing.join("; ")))?;
    }
    bail!("the primary's containers were started again after each of {FRESH_TRIES} new pods")
}

fn killed(primary: &str, pids: &[i32], what: &str) -> Inflicted {
    let at = Instant::now();
    for &pid in pids {
        // Gone already is fine.
        let _ = process::signal(pid, Signal::SIGKILL);
    }
    Inflicted::blow(at, primary, format!("killed {what} of {primary}"))
}

pub async fn guard(target: &Target) -> Result<Inflicted> {
    let (primary, processes) = of_fresh_primary(target).await?;
    Ok(killed(
        &primary,
        &[processes.guard],
        "the main process of the 'postgres' container",
    ))
}

pub async fn postmaster(target: &Target) -> Result<Inflicted> {
    let (primary, processes) = of_primary(target).await?;
    let postmaster = processes.postmaster.context("no postmaster runs there")?;
    Ok(killed(&primary, &[postmaster], "the postmaster"))
}

pub async fn sidecar(target: &Target) -> Result<Inflicted> {
    let (primary, processes) = of_fresh_primary(target).await?;
    Ok(killed(&primary, &[processes.sidecar], "the sidecar"))
}

/// Until its kubelet waits before each start (CrashLoopBackOff: 10 s, then 20 s).
pub async fn sidecar_again(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let at = Instant::now();
    let mut kills = 0;
    while at.elapsed() < AGAIN {
        let pod = target.pod(&primary).await?;
        // There is none between two starts.
        if let Ok(processes) = pods::of(target, &pod)
            && process::signal(processes.sidecar, Signal::SIGKILL).is_ok()
        {
            kills += 1;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let did = format!("killed the sidecar of {primary} {kills} times in {AGAIN:?}");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn pod(target: &Target) -> Result<Inflicted> {
    let (primary, processes) = of_primary(target).await?;
    Ok(killed(&primary, &processes.all, "all processes of the pod"))
}

pub async fn all(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let mut pids = Vec::new();
    for member in &target.members {
        let pod = target.pod(member).await?;
        pids.extend(target.hosts()?.processes(&pod.uid));
    }
    let mut inflicted = killed(&primary, &pids, "all processes of all pods, first those");
    inflicted.did = "killed all processes of all pods".to_owned();
    Ok(inflicted)
}

pub async fn freeze(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let pod = target.pod(&primary).await?;
    let at = Instant::now();
    let undo = target.hosts()?.freeze(&pod.uid)?;
    sleep(FROZEN).await;
    undo.now()?;
    let did = format!("froze the pod of {primary} for {FROZEN:?}");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}
