//! What a StatefulSet's template says: when its pod must be replaced, and each container's command line and environment.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::container::ContainerSpec;
use super::kubelet::Role;
use super::member::Member;
use super::settings::Settings;

/// The controller replaces a pod when its template changed under RollingUpdate, and ends it when the StatefulSet is gone.
#[must_use]
pub fn must_replace(then: &Value, now: Option<&Value>) -> bool {
    let Some(now) = now else { return true };
    let rolling = now.pointer("/spec/updateStrategy/type").and_then(Value::as_str) != Some("OnDelete");
    let same_set = then.pointer("/metadata/uid") == now.pointer("/metadata/uid");
    !same_set || (rolling && then.pointer("/spec/template") != now.pointer("/spec/template"))
}

/// The pod's `terminationGracePeriodSeconds`.
#[must_use]
pub fn grace_period(pod: &Value) -> Duration {
    let seconds = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_u64);
    Duration::from_secs(seconds.unwrap_or(30))
}

/// The container as the pod's template describes it.
///
/// # Errors
/// What the template lacks.
pub fn container_spec(
    settings: &Settings,
    member: &Member,
    role: Role,
    pod: &Value,
) -> Result<ContainerSpec> {
    let list = match role {
        Role::Server => "/spec/containers",
        Role::Sidecar => "/spec/initContainers",
    };
    let containers = pod
        .pointer(list)
        .and_then(Value::as_array)
        .map_or(&[][..], Vec::as_slice);
    let wanted = |container: &&Value| container.get("name").and_then(Value::as_str) == Some(role.container());
    let Some(container) = containers.iter().find(wanted) else {
        bail!(
            "the template of {} has no container '{}'",
            member.name,
            role.container()
        );
    };
    let words = |key: &str| -> Vec<String> {
        let list = container.get(key).and_then(Value::as_array);
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let variables = container.get("env").and_then(Value::as_array);
    let mut env = Vec::new();
    for variable in variables.into_iter().flatten() {
        let name = variable
            .get("name")
            .and_then(Value::as_str)
            .context("an env entry has no name")?;
        env.push((name.to_owned(), value_of(settings, pod, variable)?));
    }
    Ok(ContainerSpec {
        name: format!("{}/{}", member.pod(), role.container()),
        command: [words("command"), words("args")].concat(),
        env,
        log: member.log(role.container()),
        isolation: settings.isolation,
        // The guard drops root by itself; the sidecar never has it.
        account: if role == Role::Sidecar {
            settings.account.clone()
        } else {
            None
        },
        directory: member.root.clone(),
        owns: (role == Role::Server).then(|| member.volume()),
    })
}

/// An env entry's value: plain, from the Secret, or from the pod's own fields.
fn value_of(settings: &Settings, pod: &Value, variable: &Value) -> Result<String> {
    if let Some(key) = variable
        .pointer("/valueFrom/secretKeyRef/key")
        .and_then(Value::as_str)
    {
        let value = settings.secret.value(key);
        return value
            .map(str::to_owned)
            .with_context(|| format!("the Secret has no key '{key}'"));
    }
    if let Some(path) = variable
        .pointer("/valueFrom/fieldRef/fieldPath")
        .and_then(Value::as_str)
    {
        let pointer = format!("/{}", path.replace('.', "/"));
        let value = pod.pointer(&pointer).and_then(Value::as_str);
        return value
            .map(str::to_owned)
            .with_context(|| format!("the pod has no field '{path}'"));
    }
    Ok(variable
        .get("value")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned())
}
