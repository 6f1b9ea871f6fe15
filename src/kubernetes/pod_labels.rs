//! The label `pgbaton.dev/role` on the pods: for people, for `postgres-ro`, for disruption budgets. No role is decided by it.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::json;

use super::effects::{Change, Desired, EffectError};
use super::object::{TERM_ANNOTATION, Target, swapping, term_of};
use crate::core::types::MemberName;

/// The label.
pub(crate) const ROLE_LABEL: &str = "pgbaton.dev/role";

/// Labels the member's pod; `Missing` when there is no pod at the moment.
pub(super) async fn set_role(
    client: &Client,
    desired: &Desired,
    member: &MemberName,
) -> Result<Option<Change>, EffectError> {
    let name = format!("{member}-0");
    let target: Target<'_, Pod> = Target {
        api: Api::namespaced(client.clone(), &desired.namespace),
        kind: "Pod",
        name: &name,
    };
    let role = role_of(desired, member);
    swapping(|| async {
        let found = target.get().await?;
        target.judge_term(&found, desired.term)?;
        let has_role = found
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(ROLE_LABEL))
            .is_some_and(|value| value == role);
        if has_role && term_of(&found) == Some(desired.term) {
            return Ok(None);
        }
        target
            .merge(json!({
                "metadata": {
                    "resourceVersion": found.metadata.resource_version,
                    "labels": { ROLE_LABEL: role },
                    "annotations": { TERM_ANNOTATION: desired.term.to_string() },
                },
            }))
            .await?;
        Ok((!has_role).then(|| Change::Label {
            member: member.clone(),
            role,
        }))
    })
    .await
}

fn role_of(desired: &Desired, member: &MemberName) -> &'static str {
    if *member == desired.primary {
        "primary"
    } else if desired.not_for_reading.contains(member) {
        "lagging"
    } else {
        "standby"
    }
}
