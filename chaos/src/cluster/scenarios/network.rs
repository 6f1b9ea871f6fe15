//! Networks that are cut, by the links of hosts or by packet filters in a pod's network namespace.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use crate::cluster::target::Target;
use crate::local::process;
use crate::oracles::trial::Inflicted;

/// Longer than a Lease and a takeover.
const CUT: Duration = Duration::from_secs(30);
const PEERS_CUT: Duration = Duration::from_secs(20);

/// A process whose network namespace is the member's pod's.
async fn process_of(target: &Target, member: &str) -> Result<i32> {
    let pod = target.pod(member).await?;
    let processes = target.hosts()?.processes(&pod.uid);
    // The one that lives as long as the pod: the fault is taken back through it.
    let holds = |pid: &i32| process::command_name(*pid).as_deref() == Some("pause");
    processes
        .into_iter()
        .find(holds)
        .with_context(|| format!("the sandbox of pod {} does not run", pod.name))
}

pub async fn node(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let node = target
        .pod(&primary)
        .await?
        .node
        .context("the pod is on no node")?;
    let at = Instant::now();
    let undo = target.hosts()?.cut(&node)?;
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    sleep(CUT.saturating_sub(at.elapsed())).await;
    undo.now()?;
    let did = format!("cut {node} off from all hosts for {CUT:?}; {successor} took over from {primary}");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn api(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let pid = process_of(target, &primary).await?;
    let rules: [&[&str]; 2] = [
        &["OUTPUT", "-p", "tcp", "-d", "10.96.0.1"],
        &["OUTPUT", "-p", "tcp", "-d", "10.77.0.100", "--dport", "6443"],
    ];
    let at = Instant::now();
    let undo = target.hosts()?.drop_packets(pid, &rules)?;
    sleep(CUT).await;
    undo.now()?;
    let did = format!("{primary} could not reach the API server for {CUT:?}");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

pub async fn peers(target: &Target) -> Result<Inflicted> {
    let mut pods = Vec::new();
    for member in &target.members {
        let ip = target
            .pod(member)
            .await?
            .ip
            .context("a pod has no address")?
            .to_string();
        pods.push((process_of(target, member).await?, ip));
    }
    let at = Instant::now();
    let mut undos = Vec::new();
    for (pid, own) in &pods {
        for (_, other) in pods.iter().filter(|(_, other)| other != own) {
            undos.push(target.hosts()?.drop_packets(*pid, &[&["INPUT", "-s", other]])?);
        }
    }
    sleep(PEERS_CUT).await;
    for undo in undos {
        undo.now()?;
    }
    let did = format!("members could not reach each other for {PEERS_CUT:?}");
    Ok(Inflicted::lasting(at, None, did))
}

pub async fn one_way(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let pid = process_of(target, &primary).await?;
    let at = Instant::now();
    let undo = target.hosts()?.drop_packets(pid, &[&["OUTPUT", "-o", "eth0"]])?;
    sleep(CUT).await;
    undo.now()?;
    let did = format!("nothing from {primary} reached anybody for {CUT:?}");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}
