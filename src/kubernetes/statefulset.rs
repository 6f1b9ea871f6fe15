//! `STANDBY_MODE` and `PRIMARY_SERVER_ADDRESS` in the StatefulSets: what a new pod starts with. pgbaton itself takes the role
//! from the record (invariant 7); the env is there for people and for the init container of the tutorial.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, EnvVar, PodSpec};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::effects::{Change, Desired, EffectError};
use super::object::{TERM_ANNOTATION, Target, swapping, term_of};
use crate::core::template::{PRIMARY_SERVER_ADDRESS, STANDBY_MODE};
use crate::core::types::MemberName;

const ON_DELETE: &str = "OnDelete";

/// What one StatefulSet's variables shall be.
struct Wanted<'a> {
    standby_mode: &'static str,
    primary_server_address: &'a str,
}

impl Wanted<'_> {
    fn of(&self, variable: &str) -> Option<&str> {
        match variable {
            STANDBY_MODE => Some(self.standby_mode),
            PRIMARY_SERVER_ADDRESS => Some(self.primary_server_address),
            _ => None,
        }
    }
}

/// Puts one member's StatefulSet right. Changes made before an error are told too.
pub(super) async fn set_role(
    client: &Client,
    desired: &Desired,
    member: &MemberName,
) -> (Vec<Change>, Option<EffectError>) {
    let target: Target<'_, StatefulSet> = Target {
        api: Api::namespaced(client.clone(), &desired.namespace),
        kind: "StatefulSet",
        name: member.as_str(),
    };
    let wanted = if *member == desired.primary {
        Wanted {
            standby_mode: "off",
            primary_server_address: "",
        }
    } else {
        Wanted {
            standby_mode: "on",
            primary_server_address: desired.primary.as_str(),
        }
    };
    // The strategy first, in a patch of its own: with RollingUpdate the change of the template would restart the pod.
    let (found, strategy) = match swapping(|| ensure_on_delete(&target, desired, member)).await {
        Ok(done) => done,
        Err(error) => return (Vec::new(), Some(error)),
    };
    // 0 is a member that somebody scaled away for a while.
    let replicas = found.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let mut changes: Vec<Change> = strategy.into_iter().collect();
    let mut first = Some(found);
    let env = swapping(|| {
        let found = first.take();
        let (target, wanted) = (&target, &wanted);
        async move {
            let found = match found {
                Some(found) => found,
                None => target.get().await?,
            };
            ensure_env(target, desired, member, wanted, &found).await
        }
    })
    .await;
    match env {
        Ok(change) => {
            changes.extend(change);
            let object = target.label();
            let too_many = (replicas > 1).then_some(EffectError::Replicas { object, replicas });
            (changes, too_many)
        }
        Err(error) => (changes, Some(error)),
    }
}

async fn ensure_on_delete(
    target: &Target<'_, StatefulSet>,
    desired: &Desired,
    member: &MemberName,
) -> Result<(StatefulSet, Option<Change>), EffectError> {
    let found = target.get().await?;
    target.judge_term(&found, desired.term)?;
    if !carries_variables(&found) {
        return Err(EffectError::NoVariables {
            object: target.label(),
        });
    }
    let strategy = strategy(&found);
    if strategy == ON_DELETE {
        return Ok((found, None));
    }
    // Without the null the API server answers 422: the old strategy's parameters would stay beside the new type.
    let body = json!({
        "metadata": { "resourceVersion": found.metadata.resource_version },
        "spec": { "updateStrategy": { "type": ON_DELETE, "rollingUpdate": null } },
    });
    let changed = target.merge(body).await?;
    let change = Change::UpdateStrategy {
        member: member.clone(),
        from: strategy,
    };
    Ok((changed, Some(change)))
}

async fn ensure_env(
    target: &Target<'_, StatefulSet>,
    desired: &Desired,
    member: &MemberName,
    wanted: &Wanted<'_>,
    found: &StatefulSet,
) -> Result<Option<Change>, EffectError> {
    target.judge_term(found, desired.term)?;
    let right = is_right(found, wanted);
    if right && term_of(found) == Some(desired.term) {
        return Ok(None);
    }
    // Somebody may have put the strategy back since: then the template must not be touched.
    if !right && strategy(found) != ON_DELETE {
        return Err(EffectError::Conflict {
            object: target.label(),
        });
    }
    let mut body = json!({
        "metadata": {
            "resourceVersion": found.metadata.resource_version,
            "annotations": { TERM_ANNOTATION: desired.term.to_string() },
        },
    });
    if right {
        target.merge(body).await?;
        return Ok(Some(Change::EnvTerm {
            member: member.clone(),
        }));
    }
    body["spec"] = template_patch(found, wanted);
    let changed = target.strategic(body).await?;
    // A variable that stands twice in one container is patched once: say so instead of patching for ever in silence.
    if !is_right(&changed, wanted) {
        return Err(EffectError::NotApplied {
            object: target.label(),
            what: format!(
                "{STANDBY_MODE} and {PRIMARY_SERVER_ADDRESS} are not as patched (is one of them set twice in a container?)"
            ),
        });
    }
    Ok(Some(Change::Env {
        member: member.clone(),
        standby_mode: wanted.standby_mode,
    }))
}

/// True for a StatefulSet that runs a server: one of the variables stands somewhere in its template.
pub(super) fn carries_variables(set: &StatefulSet) -> bool {
    pod_spec(set).is_some_and(|spec| containers(spec).any(|(_, c)| carried(c).next().is_some()))
}

/// `spec` of the strategic merge patch: for each container that carries a variable, its name and those variables.
fn template_patch(found: &StatefulSet, wanted: &Wanted<'_>) -> Value {
    let mut pod = serde_json::Map::new();
    for (list, container) in pod_spec(found).into_iter().flat_map(containers) {
        let env: Vec<Value> = carried(container)
            .filter(|variable| !holds(variable, wanted))
            .map(|variable| {
                let mut patch = json!({ "name": variable.name, "value": wanted.of(&variable.name) });
                // A value beside a reference is refused (422).
                if variable.value_from.is_some() {
                    patch["valueFrom"] = Value::Null;
                }
                patch
            })
            .collect();
        if env.is_empty() {
            continue;
        }
        let entry = pod.entry(list).or_insert_with(|| json!([]));
        if let Value::Array(items) = entry {
            items.push(json!({ "name": container.name, "env": env }));
        }
    }
    json!({ "template": { "spec": pod } })
}

fn strategy(found: &StatefulSet) -> String {
    found
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref())
        .and_then(|strategy| strategy.type_.clone())
        // The default of apps/v1.
        .unwrap_or_else(|| "RollingUpdate".to_owned())
}

fn pod_spec(found: &StatefulSet) -> Option<&PodSpec> {
    found.spec.as_ref()?.template.spec.as_ref()
}

/// Every container with the name of its list.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (&'static str, &Container)> {
    let main = spec.containers.iter().map(|c| ("containers", c));
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .map(|c| ("initContainers", c));
    main.chain(init)
}

/// The variables of interest that a container carries.
fn carried(container: &Container) -> impl Iterator<Item = &EnvVar> {
    container
        .env
        .iter()
        .flatten()
        .filter(|v| v.name == STANDBY_MODE || v.name == PRIMARY_SERVER_ADDRESS)
}

fn holds(variable: &EnvVar, wanted: &Wanted<'_>) -> bool {
    // The API server leaves an empty value out.
    let value = variable.value.as_deref().unwrap_or_default();
    variable.value_from.is_none() && wanted.of(&variable.name) == Some(value)
}

fn is_right(found: &StatefulSet, wanted: &Wanted<'_>) -> bool {
    pod_spec(found)
        .into_iter()
        .flat_map(containers)
        .flat_map(|(_, container)| carried(container))
        .all(|variable| holds(variable, wanted))
}

#[cfg(test)]
#[path = "statefulset_tests.rs"]
mod tests;
