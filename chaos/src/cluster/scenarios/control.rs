//! What people, controllers and the control plane do.

use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use super::delete::{gone, replicas};
use crate::cluster::kube::Kind;
use crate::cluster::pods;
use crate::cluster::target::Target;
use crate::local::process;
use crate::oracles::trial::Inflicted;

const API_AWAY: Duration = Duration::from_secs(60);
/// Shorter than a permit: the server still runs.
const BEFORE_KILL: Duration = Duration::from_secs(3);
const HANGS: Duration = Duration::from_secs(30);
/// How long, and how often, the manifests are applied again.
const REVERTS: u32 = 40;
const BETWEEN_REVERTS: Duration = Duration::from_millis(500);

pub async fn switchover(target: &Target) -> Result<Inflicted> {
    let from = target.primary().await?;
    let at = Instant::now();
    target.pgbaton("switchover", &[]).await?;
    let did = format!(
        "ordered a switchover; the command ended after {} ms",
        at.elapsed().as_millis()
    );
    Ok(Inflicted::blow(at, &from, did))
}

pub async fn api_stop(target: &Target) -> Result<Inflicted> {
    let at = Instant::now();
    let undo = target.hosts()?.end("apiserver")?;
    sleep(API_AWAY).await;
    undo.now()?;
    Ok(Inflicted::lasting(
        at,
        None,
        format!("the API server was away for {API_AWAY:?}"),
    ))
}

pub async fn api_stop_kill(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let pod = target.pod(&primary).await?;
    let at = Instant::now();
    let undo = target.hosts()?.end("apiserver")?;
    sleep(BEFORE_KILL).await;
    let postmaster = pods::of(target, &pod)?
        .postmaster
        .context("no postmaster runs there")?;
    let _ = process::signal(postmaster, Signal::SIGKILL);
    sleep(API_AWAY.saturating_sub(at.elapsed())).await;
    undo.now()?;
    let did = format!(
        "the API server was away for {API_AWAY:?}; killed the postmaster of {primary} after {BEFORE_KILL:?} of it"
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn hang(target: &Target, component: &str) -> Result<Inflicted> {
    let at = Instant::now();
    let undo = target.hosts()?.hang(component)?;
    sleep(HANGS).await;
    undo.now()?;
    Ok(Inflicted::lasting(
        at,
        None,
        format!("{component} hung for {HANGS:?}"),
    ))
}

pub async fn kubelet_stop(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let pod = target.pod(&primary).await?;
    let node = pod.node.clone().context("the pod is on no node")?;
    let postmaster = pods::of(target, &pod)?
        .postmaster
        .context("no postmaster runs there")?;
    let undo = target.hosts()?.hang(&format!("kubelet-{node}"))?;
    let at = Instant::now();
    let _ = process::signal(postmaster, Signal::SIGKILL);
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    undo.now()?;
    let did =
        format!("stopped the kubelet of {node}, killed the postmaster of {primary}; {successor} took over");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn drain(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let node = target
        .pod(&primary)
        .await?
        .node
        .context("the pod is on no node")?;
    let at = Instant::now();
    let drain = [
        "drain",
        &node,
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=80s",
    ];
    let drained = target.kubectl(&drain).await;
    let successor = target.taken_over(&primary, TAKEOVER).await;
    target.kubectl(&["uncordon", &node]).await?;
    drained?;
    let did = format!(
        "drained {node}; {} took over from {primary}; let it take pods again",
        successor?
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn scale(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let at = Instant::now();
    replicas(target, &primary, 0).await?;
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    gone(target, &primary).await?;
    replicas(target, &primary, 1).await?;
    let did = format!("scaled {primary} to 0; {successor} took over; scaled it to 1");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// As a GitOps controller in a loop: every StatefulSet's template and update strategy as the manifests ship them.
pub async fn gitops(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let at = Instant::now();
    let path = target.kube.path(Kind::Pod, &format!("{primary}-0"));
    target.kube.delete(&path, None).await?;
    for _ in 0..REVERTS {
        for (member, manifest) in &target.manifests {
            let spec = json!({ "spec": { "template": manifest["spec"]["template"] } });
            let path = target.kube.path(Kind::StatefulSet, member);
            // An API server that is busy is asked again in the next round.
            let _ = target.kube.patch(&path, &spec).await;
        }
        sleep(BETWEEN_REVERTS).await;
    }
    let did = format!(
        "deleted the pod of {primary}, and applied the StatefulSets' templates {REVERTS} times again"
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}
