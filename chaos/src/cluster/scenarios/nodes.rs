//! Machines that stop, stand still or boot, and a pod that is deleted by force while nobody can tell its kubelet.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use crate::cluster::kube::Kind;
use crate::cluster::target::Target;
use crate::oracles::trial::Inflicted;

/// Longer than a Lease and a takeover.
const AWAY: Duration = Duration::from_secs(30);
const FROZEN: Duration = Duration::from_secs(20);
/// Until the StatefulSet's controller makes another pod of the same name.
const ANOTHER: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(200);

async fn node_of(target: &Target, member: &str) -> Result<String> {
    let pod = target.pod(member).await?;
    pod.node.context("the pod is on no node")
}

/// The machine is without power, and boots after a while.
pub async fn kill(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let node = node_of(target, &primary).await?;
    let at = Instant::now();
    let undo = target.hosts()?.kill_node(&node)?;
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    sleep(AWAY.saturating_sub(at.elapsed())).await;
    undo.now()?;
    let did = format!(
        "killed {node} with all on it; {successor} took over from {primary}; it booted after {AWAY:?}"
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// The machine boots at once: all containers again, with the pod's old env.
pub async fn reboot(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let node = node_of(target, &primary).await?;
    let at = Instant::now();
    target.hosts()?.kill_node(&node)?.now()?;
    let did = format!("{node}, where {primary} is, booted");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn freeze(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let node = node_of(target, &primary).await?;
    let at = Instant::now();
    let undo = target.hosts()?.freeze_node(&node)?;
    sleep(FROZEN).await;
    undo.now()?;
    let did = format!("{node}, where {primary} is, stood still for {FROZEN:?}");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// What people do with a pod that hangs in Terminating. The old one still runs where nobody reaches it: two pods of one name.
pub async fn force_delete(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let old = target.pod(&primary).await?;
    let node = old.node.clone().context("the pod is on no node")?;
    let at = Instant::now();
    let undo = target.hosts()?.cut(&node)?;
    let path = target.kube.path(Kind::Pod, &old.name);
    target.kube.delete(&path, Some(0)).await?;
    let deadline = Instant::now() + ANOTHER;
    loop {
        let now = target.pod(&primary).await.ok();
        if now.is_some_and(|pod| pod.uid != old.uid) {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "no new pod of {primary} after {ANOTHER:?}"
        );
        sleep(LOOK).await;
    }
    let both = !target.hosts()?.processes(&old.uid).is_empty();
    ensure!(
        both,
        "the old pod of {primary} does not run any more: nothing was tried"
    );
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    sleep(AWAY.saturating_sub(at.elapsed())).await;
    undo.now()?;
    let did = format!(
        "cut {node} off and deleted the pod of {primary} by force: two pods of one name; {successor} took over; \
         {node} was back after {AWAY:?}"
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}
