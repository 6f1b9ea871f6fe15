//! What the rollout sees: the Lease, and each member's StatefulSet and pod. Every call bounded.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Preconditions};
use serde_json::Value;
use tokio::time::Instant;

use crate::cli::access::{AccessError, Cluster, LeaseSeen};
use crate::cli::words;
use crate::core::orders::clipped;
use crate::core::preflight::RoleRule;
use crate::core::rollout::{MemberSeen, Outdated, PodSeen, Seen, SetSeen};
use crate::core::template;
use crate::core::types::MemberName;
use crate::kubernetes::client::with_causes;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Label of a pod: the ControllerRevision that it was made from.
const REVISION_LABEL: &str = "controller-revision-hash";
/// Longest message of a kubelet that is shown, in bytes.
const MAX_MESSAGE: usize = 200;
/// What a container waits for in the course of its start.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// One object and what is done to it, as messages name it.
#[derive(Debug, Clone)]
pub(super) struct Call {
    verb: &'static str,
    group: &'static str,
    resource: &'static str,
    name: String,
    namespace: String,
}

impl std::fmt::Display for Call {
    /// `get statefulsets postgres-1 in namespace default`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            verb,
            resource,
            name,
            namespace,
            ..
        } = self;
        write!(f, "{verb} {resource} {name} in namespace {namespace}")
    }
}

/// Why something was not read or not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error(transparent)]
    Lease(#[from] AccessError),
    /// The record cannot be used; the text says what to do.
    #[error("{0}")]
    Damaged(String),
    #[error("the right to {call} is missing: {message}. It needs, in a Role of who runs this: {rule}")]
    Forbidden {
        call: Call,
        message: String,
        rule: RoleRule,
    },
    #[error("the API server refused to {call} ({code}): {message}")]
    Rejected { call: Call, code: u16, message: String },
    #[error("the API server did not answer to {call}: {reason}")]
    Unreachable { call: Call, reason: String },
}

impl LookError {
    /// Another try may go well.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Lease(error) => match error {
                AccessError::Unreachable { .. } | AccessError::Conflict(_) => true,
                AccessError::Rejected { code, .. } => may_pass(*code),
                AccessError::Missing { .. } | AccessError::Forbidden { .. } => false,
            },
            // The running primary writes the record back within seconds.
            Self::Damaged(_) | Self::Unreachable { .. } => true,
            Self::Rejected { code, .. } => may_pass(*code),
            Self::Forbidden { .. } => false,
        }
    }
}

fn may_pass(code: u16) -> bool {
    code == 429 || code >= 500
}

/// Looks at one cluster, again and again.
pub(super) struct Eyes<'a> {
    cluster: &'a Cluster,
    sets: Api<DynamicObject>,
    revisions: Api<DynamicObject>,
    pods: Api<Pod>,
    members: Vec<MemberName>,
    /// Templates by the name of their revision, which never change; none: gone.
    templates: BTreeMap<String, Option<Value>>,
    /// Reports that were seen to come, the last one, and since when it is.
    reports: u64,
    report_at: Option<String>,
    report_since: Option<Instant>,
    /// UID of each member's pod that is Ready, and the number of reports when it was first seen so.
    ready: BTreeMap<MemberName, (String, u64)>,
}

impl<'a> Eyes<'a> {
    pub(super) fn new(cluster: &'a Cluster) -> Self {
        let (client, namespace) = (&cluster.client, &cluster.namespace);
        let of = |resource| Api::namespaced_with(client.clone(), namespace, resource);
        // Untyped: fields that this build does not know are compared too.
        Self {
            cluster,
            sets: of(&ApiResource::erase::<StatefulSet>(&())),
            revisions: of(&ApiResource::erase::<ControllerRevision>(&())),
            pods: Api::namespaced(client.clone(), namespace),
            members: Vec::new(),
            templates: BTreeMap::new(),
            reports: 0,
            report_at: None,
            report_since: None,
            ready: BTreeMap::new(),
        }
    }

    /// Everything once. Objects first, the role last: what is done next is judged by it.
    pub(super) async fn look(&mut self) -> Result<Seen, LookError> {
        let before = self.cluster.read().await?;
        let names: Vec<MemberName> = match &before.record {
            Ok(record) => record.members.iter().map(|m| m.member.clone()).collect(),
            Err(damage) => return Err(LookError::Damaged(damage.clone())),
        };
        self.members.clone_from(&names);
        let mut members = Vec::new();
        for name in names {
            members.push(self.member(name).await?);
        }
        let lease = self.cluster.read().await?;
        self.note(&lease, &mut members);
        let record = match &lease.record {
            Ok(record) => record.clone(),
            Err(damage) => return Err(LookError::Damaged(damage.clone())),
        };
        // One that joined in between is seen by the next look.
        members.retain(|seen| record.member(&seen.member).is_some());
        Ok(Seen {
            report: lease.report.clone().and_then(Result::ok),
            is_led: self.is_led(&lease),
            open_order: lease
                .open_order()
                .map(|order| format!("{}, since {}", words::order(order), order.at)),
            step: record.step.as_ref().map(ToString::to_string),
            record,
            members,
        })
    }

    /// Counts reports, and for each pod those since it is Ready.
    fn note(&mut self, lease: &LeaseSeen, members: &mut [MemberSeen]) {
        let at = lease
            .report
            .as_ref()
            .and_then(|report| report.as_ref().ok())
            .map(|report| report.at.clone());
        if at != self.report_at {
            // The first one may be from long ago.
            if self.report_at.is_some() {
                self.reports += 1;
                self.report_since = Some(Instant::now());
            }
            self.report_at = at;
        }
        for seen in members {
            let Some(pod) = seen.pod.as_mut().filter(|pod| pod.is_ready) else {
                self.ready.remove(&seen.member);
                continue;
            };
            let known = self.ready.get(&seen.member).filter(|(uid, _)| *uid == pod.uid);
            let since = known.map_or(self.reports, |(_, since)| *since);
            self.ready.insert(seen.member.clone(), (pod.uid.clone(), since));
            pod.reports = self.reports - since;
        }
    }

    /// The members of the last look.
    pub(super) fn members(&self) -> impl Iterator<Item = &MemberName> {
        self.members.iter()
    }

    /// By this machine's own clock: the leader's may be another.
    fn is_led(&self, lease: &LeaseSeen) -> bool {
        let lately = |since: Instant| since.elapsed() <= lease.duration;
        lease.holder.is_some() && self.report_since.is_some_and(lately)
    }

    async fn member(&mut self, member: MemberName) -> Result<MemberSeen, LookError> {
        let set = self
            .get(&self.sets, "apps", "statefulsets", member.as_str())
            .await?;
        let found = self.get(&self.pods, "", "pods", &pod_name(&member)).await?;
        let pod = match found {
            Some(found) => Some(self.pod(&found, set.as_ref()).await?),
            None => None,
        };
        Ok(MemberSeen {
            set: set.as_ref().map(set_seen),
            member,
            pod,
        })
    }

    async fn pod(&mut self, pod: &Pod, set: Option<&DynamicObject>) -> Result<PodSeen, LookError> {
        let metadata = &pod.metadata;
        let revision = metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(REVISION_LABEL));
        let outdated = match (set, revision) {
            // Nothing to compare with.
            (None, _) => None,
            (Some(_), None) => Some(Outdated::Unknown(format!(
                "the pod has no label {REVISION_LABEL}: what it was made from is not known"
            ))),
            (Some(set), Some(revision)) => self.outdated(set, revision).await?,
        };
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let is_ready = conditions
            .into_iter()
            .flatten()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        Ok(PodSeen {
            uid: metadata.uid.clone().unwrap_or_default(),
            ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
            is_ending: metadata.deletion_timestamp.is_some(),
            is_ready,
            stuck: stuck(pod),
            outdated,
            reports: 0,
        })
    }

    async fn outdated(&mut self, set: &DynamicObject, revision: &str) -> Result<Option<Outdated>, LookError> {
        if !self.templates.contains_key(revision) {
            let found = self
                .get(&self.revisions, "apps", "controllerrevisions", revision)
                .await?;
            let template = found.and_then(|found| found.data.pointer("/data/spec/template").cloned());
            self.templates.insert(revision.to_owned(), template);
        }
        let Some(Some(from)) = self.templates.get(revision) else {
            return Ok(Some(Outdated::Unknown(format!(
                "ControllerRevision {revision} is gone: what the pod was made from is not known"
            ))));
        };
        let to = set.data.pointer("/spec/template").unwrap_or(&Value::Null);
        let changes = template::changes(from, to);
        Ok((!changes.is_empty()).then_some(Outdated::Changed(changes)))
    }

    /// Tells the pod with this UID to go. False: it is gone, or another one.
    pub(super) async fn delete(&self, member: &MemberName, uid: &str) -> Result<bool, LookError> {
        let name = pod_name(member);
        let params = DeleteParams::default().preconditions(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        });
        let call = self.call("delete", "", "pods", &name);
        match tokio::time::timeout(CALL_TIMEOUT, self.pods.delete(&name, &params)).await {
            Err(_) => Err(silent(call)),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => Ok(false),
            Ok(Err(error)) => Err(failed(call, &error)),
        }
    }

    async fn get<K>(
        &self,
        api: &Api<K>,
        group: &'static str,
        resource: &'static str,
        name: &str,
    ) -> Result<Option<K>, LookError>
    where
        K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let call = self.call("get", group, resource, name);
        match tokio::time::timeout(CALL_TIMEOUT, api.get_opt(name)).await {
            Err(_) => Err(silent(call)),
            Ok(answer) => answer.map_err(|error| failed(call, &error)),
        }
    }

    fn call(&self, verb: &'static str, group: &'static str, resource: &'static str, name: &str) -> Call {
        Call {
            verb,
            group,
            resource,
            name: name.to_owned(),
            namespace: self.cluster.namespace.clone(),
        }
    }
}

/// The pod of a member.
pub(super) fn pod_name(member: &MemberName) -> String {
    format!("{member}-0")
}

fn silent(call: Call) -> LookError {
    LookError::Unreachable {
        call,
        reason: format!("nothing came within {CALL_TIMEOUT:?}"),
    }
}

fn failed(call: Call, error: &kube::Error) -> LookError {
    match error {
        kube::Error::Api(status) if status.code == 403 => LookError::Forbidden {
            rule: RoleRule {
                group: call.group,
                resource: call.resource,
                // Revisions come and go: a rule that names one is of no use.
                names: if call.resource == "controllerrevisions" {
                    Vec::new()
                } else {
                    vec![call.name.clone()]
                },
                verbs: vec![call.verb],
            },
            message: status.message.clone(),
            call,
        },
        kube::Error::Api(status) => LookError::Rejected {
            code: status.code,
            message: status.message.clone(),
            call,
        },
        other => LookError::Unreachable {
            reason: with_causes(other),
            call,
        },
    }
}

fn set_seen(set: &DynamicObject) -> SetSeen {
    let spec = set.data.get("spec").unwrap_or(&Value::Null);
    let replicas = spec["replicas"]
        .as_i64()
        .and_then(|count| i32::try_from(count).ok());
    let strategy = spec.pointer("/updateStrategy/type").and_then(Value::as_str);
    let seen_generation = set
        .data
        .pointer("/status/observedGeneration")
        .and_then(Value::as_i64);
    SetSeen {
        // The defaults of apps/v1.
        replicas: replicas.unwrap_or(1),
        strategy: strategy.unwrap_or("RollingUpdate").to_owned(),
        is_behind: seen_generation
            .zip(set.metadata.generation)
            .is_some_and(|(seen, newest)| seen < newest),
    }
}

/// What keeps a pod from running, but for what belongs to each start.
fn stuck(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waits = |container: &ContainerStatus| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| !STARTING.contains(reason))?;
        let message = waiting.message.as_deref().unwrap_or_default();
        Some(format!(
            "container {}: {reason}: {}",
            container.name,
            clipped(message, MAX_MESSAGE)
        ))
    };
    let init = status.init_container_statuses.iter().flatten();
    let all = init.chain(status.container_statuses.iter().flatten());
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    all.into_iter().find_map(waits).or_else(|| {
        let message = unscheduled?.message.as_deref().unwrap_or_default();
        Some(format!("not scheduled: {}", clipped(message, MAX_MESSAGE)))
    })
}
