//! What the kubelet tells of a pod's containers. The templates here have no probes: a pod is Ready when both containers run.

use serde_json::{Value, json};

use super::kubelet::Role;
use super::store::{Kind, Store};

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It runs.
    Running,
    /// It ended and waits for its next start.
    BackOff,
}

/// Tells it, unless the pod has gone meanwhile. One at a time for each pod: Ready is judged by both containers.
pub fn tell(store: &Store, pod: &Value, role: Role, told: Told) {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let name = text("/metadata/name");
    let Some(now) = store
        .get(Kind::Pod, name)
        .filter(|now| now.pointer("/metadata/uid") == pod.pointer("/metadata/uid"))
    else {
        return;
    };
    let runs = told == Told::Running;
    let state = match told {
        Told::Running => json!({ "running": {} }),
        Told::BackOff => json!({ "waiting": { "reason": "CrashLoopBackOff", "message": "it ended" } }),
    };
    let (own, other) = match role {
        Role::Sidecar => ("initContainerStatuses", "containerStatuses"),
        Role::Server => ("containerStatuses", "initContainerStatuses"),
    };
    let other_runs = now.pointer(&format!("/status/{other}/0/state/running")).is_some();
    let ready = if runs && other_runs { "True" } else { "False" };
    let container = json!({
        "name": role.container(), "ready": runs, "started": runs, "restartCount": 0, "image": "", "imageID": "", "state": state,
    });
    let status = json!({ own: [container], "conditions": [{ "type": "Ready", "status": ready }] });
    if let Err(error) = store.set_status(Kind::Pod, name, &status) {
        tracing::debug!("the state of a container was not told: {error:#}");
    }
}
