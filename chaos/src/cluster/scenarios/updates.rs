//! Templates that change, and who brings them into the pods.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use crate::cluster::kube::{Kind, text};
use crate::cluster::target::Target;
use crate::names::{SERVER_CONTAINER, SIDECAR_CONTAINER};
use crate::oracles::trial::Inflicted;

const LOOK: Duration = Duration::from_millis(200);
/// What the second name of an image ends with.
const NEXT: &str = "-next";

/// A user's StatefulSets left at RollingUpdate: every template that pgbaton patches would restart a pod.
pub async fn rolling(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let at = Instant::now();
    for member in &target.members {
        let path = target.kube.path(Kind::StatefulSet, member);
        let patch = json!({ "spec": { "updateStrategy": { "type": "RollingUpdate" } } });
        target.kube.patch(&path, &patch).await?;
    }
    let pod = target.kube.path(Kind::Pod, &format!("{primary}-0"));
    target.kube.delete(&pod, None).await?;
    // Kubernetes restarts every pod whose template was ever patched, all StatefulSets at once: perhaps nobody is left to take over.
    let deadline = Instant::now() + TAKEOVER;
    while target.kube.list(Kind::StatefulSet).await.map_or(true, |sets| {
        let rolls = |set: &Value| text(set, "/spec/updateStrategy/type").as_deref() != Some("OnDelete");
        sets.iter().any(rolls)
    }) {
        ensure!(
            Instant::now() < deadline,
            "a StatefulSet is at RollingUpdate after {TAKEOVER:?}"
        );
        sleep(LOOK).await;
    }
    let did = format!(
        "set all StatefulSets to RollingUpdate and deleted the pod of {primary}; all were at OnDelete after {} ms",
        at.elapsed().as_millis()
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// A new image of PostgreSQL, brought in by `pgbaton rollout`.
pub async fn rollout(target: &Target) -> Result<Inflicted> {
    rolled(target, "containers", SERVER_CONTAINER).await
}

/// A new image of the sidecar, brought in the same way: for a while the members' versions differ.
pub async fn sidecar(target: &Target) -> Result<Inflicted> {
    rolled(target, "initContainers", SIDECAR_CONTAINER).await
}

async fn rolled(target: &Target, list: &str, container: &str) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let before = pods(target).await?;
    let mut what = String::new();
    for member in &target.members {
        let path = target.kube.path(Kind::StatefulSet, member);
        let set = target.kube.get(&path).await?;
        let set = set.with_context(|| format!("there is no StatefulSet {member}"))?;
        let patch;
        (patch, what) = changed(target, &set, list, container)?;
        target.kube.patch(&path, &patch).await?;
    }
    let at = Instant::now();
    let said = target.pgbaton("rollout", &["--yes"]).await?;
    let ms = at.elapsed().as_millis();
    let after = pods(target).await?;
    for (member, old) in &before {
        let renewed = after.get(member).is_some_and(|new| new != old);
        ensure!(renewed, "the pod of {member} is the old one: {said}");
    }
    let did = format!("{what} in all templates, then 'pgbaton rollout': all pods were renewed in {ms} ms");
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

async fn pods(target: &Target) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for member in &target.members {
        all.insert(member.clone(), target.pod(member).await?.uid);
    }
    Ok(all)
}

/// A merge patch with another image, and what it is. On the machine's own nodes that is a second name of the same one; elsewhere nobody
/// knows which images there are, and it is an annotation as `kubectl rollout restart` sets it.
fn changed(target: &Target, set: &Value, list: &str, container: &str) -> Result<(Value, String)> {
    let Some(hosts) = &target.hosts else {
        let at = jiff::Timestamp::now().to_string();
        let annotations = json!({ "kubectl.kubernetes.io/restartedAt": at });
        let patch = json!({ "spec": { "template": { "metadata": { "annotations": annotations } } } });
        return Ok((patch, "an annotation".to_owned()));
    };
    let mut containers = set
        .pointer(&format!("/spec/template/spec/{list}"))
        .and_then(Value::as_array)
        .cloned()
        .with_context(|| format!("the template has no {list}"))?;
    let found = containers
        .iter_mut()
        .find(|c| text(c, "/name").as_deref() == Some(container))
        .with_context(|| format!("the template has no container {container}"))?;
    let old = text(found, "/image").with_context(|| format!("{container} has no image"))?;
    let next = match old.strip_suffix(NEXT) {
        Some(first) => first.to_owned(),
        None => format!("{old}{NEXT}"),
    };
    hosts.name_image(&old, &next)?;
    found["image"] = json!(next);
    let patch = json!({ "spec": { "template": { "spec": { list: containers } } } });
    Ok((patch, format!("image {next}")))
}
