//! Objects that somebody deletes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use crate::cluster::kube::Kind;
use crate::cluster::target::Target;
use crate::local::objects::set_env;
use crate::names::{PRIMARY_ADDRESS, STANDBY_MODE};
use crate::oracles::trial::Inflicted;

/// A pod's grace period and time to spare.
const GONE: Duration = Duration::from_secs(90);
const LOOK: Duration = Duration::from_millis(200);

pub async fn pod(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let path = target.kube.path(Kind::Pod, &format!("{primary}-0"));
    let at = Instant::now();
    target.kube.delete(&path, None).await?;
    Ok(Inflicted::blow(
        at,
        &primary,
        format!("deleted the pod of {primary}"),
    ))
}

pub async fn stateful_set(target: &Target, emptied: bool) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let at = Instant::now();
    target
        .kube
        .delete(&target.kube.path(Kind::StatefulSet, &primary), None)
        .await?;
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    gone(target, &primary).await?;
    if emptied {
        empty(target, &primary)?;
    }
    apply_again(target, &primary).await?;
    let volume = if emptied { "an empty volume" } else { "its volume" };
    let did = format!(
        "deleted the StatefulSet of {primary}; {successor} took over; applied it again with STANDBY_MODE=off and {volume}"
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// The member's manifest as it was applied first, as the first primary's.
pub async fn apply_again(target: &Target, member: &str) -> Result<()> {
    let mut manifest = target
        .manifests
        .get(member)
        .context("its manifest is not known")?
        .clone();
    set_env(&mut manifest, STANDBY_MODE, "off");
    set_env(&mut manifest, PRIMARY_ADDRESS, "");
    let sets = target.kube.path(Kind::StatefulSet, "");
    target.kube.create(&sets, &manifest).await
}

/// Waits until the member has no pod.
pub async fn gone(target: &Target, member: &str) -> Result<()> {
    let path = target.kube.path(Kind::Pod, &format!("{member}-0"));
    let deadline = Instant::now() + GONE;
    while target.kube.get(&path).await?.is_some() {
        ensure!(
            Instant::now() < deadline,
            "the pod of {member} is still there after {GONE:?}"
        );
        sleep(LOOK).await;
    }
    Ok(())
}

/// Removes everything from the member's volume, whose pod is gone.
fn empty(target: &Target, member: &str) -> Result<()> {
    let volume = target.hosts()?.volume(&target.kube.namespace, member);
    let entries = fs::read_dir(&volume).with_context(|| format!("cannot read {}", volume.display()))?;
    for entry in entries {
        let path = entry?.path();
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Patches the number of replicas.
pub async fn replicas(target: &Target, member: &str, number: u32) -> Result<Value> {
    let path = target.kube.path(Kind::StatefulSet, member);
    target
        .kube
        .patch(&path, &json!({ "spec": { "replicas": number } }))
        .await
}
