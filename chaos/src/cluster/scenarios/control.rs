//! What people, controllers and the control plane do.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::TAKEOVER;
use super::delete::{gone, replicas};
use crate::cluster::kube::Kind;
use crate::cluster::pods;
use crate::cluster::target::Target;
use crate::local::process;
use crate::oracles::trial::Inflicted;
use nix::sys::signal::Signal;

/// How long a command of a person may take.
const COMMAND_BOUND: Duration = Duration::from_secs(90);
const API_AWAY: Duration = Duration::from_secs(60);
const HANGS: Duration = Duration::from_secs(30);
/// How long, and how often, the manifests are applied again.
const REVERTS: u32 = 40;
const BETWEEN_REVERTS: Duration = Duration::from_millis(500);

async fn command(program: &std::path::Path, arguments: &[&str]) -> Result<()> {
    let run = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let words = || format!("'{} {}'", program.display(), arguments.join(" "));
    let output = timeout(COMMAND_BOUND, run)
        .await
        .with_context(|| format!("{} did not end within {COMMAND_BOUND:?}", words()))?
        .with_context(|| format!("cannot run {}", words()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", words(), output.status, said.trim());
    }
    Ok(())
}

pub async fn switchover(target: &Target) -> Result<Inflicted> {
    let from = target.primary().await?;
    let kubeconfig = target.kubeconfig.to_string_lossy();
    let at = Instant::now();
    let arguments = [
        "switchover",
        "-n",
        &target.kube.namespace,
        "--kubeconfig",
        &kubeconfig,
    ];
    command(&target.pgbaton, &arguments).await?;
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
    let kubeconfig = target.kubeconfig.to_string_lossy().into_owned();
    let kubectl = |verb: &'static str| {
        let mut words: Vec<String> = target.kubectl.iter().skip(1).cloned().collect();
        words.extend(["--kubeconfig", &kubeconfig, verb, &node].map(str::to_owned));
        if verb == "drain" {
            words.extend(
                ["--ignore-daemonsets", "--delete-emptydir-data", "--timeout=80s"].map(str::to_owned),
            );
        }
        words
    };
    let run = async |verb: &'static str| {
        let words = kubectl(verb);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let program = target.kubectl.first().context("kubectl is not known")?;
        command(std::path::Path::new(program), &words).await
    };
    let at = Instant::now();
    let drained = run("drain").await;
    let successor = target.taken_over(&primary, TAKEOVER).await;
    run("uncordon").await?;
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
