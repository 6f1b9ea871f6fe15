//! The Lease as commands read and write it: every call bounded, every write a swap.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::ClusterArgs;
use super::words::damaged;
use crate::core::orders::{ORDER_ANNOTATION, ORDER_RESULT_ANNOTATION, OrderNote, OrderResult};
use crate::core::record::Record;
use crate::core::report::{REPORT_ANNOTATION, Report};
use crate::core::types::Term;
use crate::kubernetes::client::{self, with_causes};
use crate::lease::record_text;

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a write is tried anew: the leader's renewals change the Lease every second.
const SWAP_ATTEMPTS: u32 = 10;

/// Why the Lease was not read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum AccessError {
    #[error(
        "there is no Lease {lease} in namespace {namespace}: name the right ones with --namespace and --lease; if it was deleted, apply deploy/ again, then see 'pgbaton adopt'"
    )]
    Missing { namespace: String, lease: String },
    #[error("the right to {verb} Lease {lease} in namespace {namespace} is missing: {message}")]
    Forbidden {
        verb: &'static str,
        namespace: String,
        lease: String,
        message: String,
    },
    #[error("the API server refused to {verb} Lease {lease} ({code}): {message}")]
    Rejected {
        verb: &'static str,
        lease: String,
        code: u16,
        message: String,
    },
    #[error(
        "Lease {0} was changed by somebody else at each of {SWAP_ATTEMPTS} tries: nothing was written, try again"
    )]
    Conflict(String),
    #[error("the API server did not answer to {verb} Lease {lease}: {reason}")]
    Unreachable {
        verb: &'static str,
        lease: String,
        reason: String,
    },
}

impl AccessError {
    /// It was a write, and it may have been done all the same.
    pub(super) fn is_unknown(&self) -> bool {
        match self {
            Self::Unreachable { verb, .. } => *verb == "patch",
            Self::Rejected { verb, code, .. } => *verb == "patch" && *code >= 500,
            Self::Missing { .. } | Self::Forbidden { .. } | Self::Conflict(_) => false,
        }
    }
}

/// The Lease, read once.
#[derive(Debug, Clone)]
pub(super) struct LeaseSeen {
    pub(super) holder: Option<String>,
    pub(super) transitions: Term,
    /// Since `renewTime`, by this machine's clock and the leader's; for people.
    pub(super) renewed_ago: Option<Duration>,
    pub(super) duration: Duration,
    /// The record, or what is wrong with it and what to do.
    pub(super) record: Result<Record, String>,
    pub(super) report: Option<Result<Report, String>>,
    pub(super) order: Option<Result<OrderNote, String>>,
    pub(super) result: Option<OrderResult>,
    version: Option<String>,
}

impl LeaseSeen {
    /// An order that has no final answer.
    pub(super) fn open_order(&self) -> Option<&OrderNote> {
        let order = self.order.as_ref()?.as_ref().ok()?;
        let answered = self
            .result
            .as_ref()
            .is_some_and(|result| result.id == order.id && result.state.is_final());
        (!answered).then_some(order)
    }
}

/// The cluster that a command is about.
pub(super) struct Cluster {
    api: Api<Lease>,
    pub(super) client: Client,
    pub(super) namespace: String,
    pub(super) lease: String,
}

impl Cluster {
    /// Finds the API server; asks it nothing yet.
    pub(super) async fn open(args: &ClusterArgs) -> anyhow::Result<Self> {
        let kubeconfig = client::kubeconfig_for_person(args.kubeconfig.clone());
        let client = client::connect(kubeconfig.as_deref()).await?;
        let namespace = args.namespace.clone();
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Self::new(client, namespace, args.lease.clone()))
    }

    pub(super) fn new(client: Client, namespace: String, lease: String) -> Self {
        Self {
            api: Api::namespaced(client.clone(), &namespace),
            client,
            namespace,
            lease,
        }
    }

    /// What a person types to say that this cluster is meant.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.lease)
    }

    pub(super) async fn read(&self) -> Result<LeaseSeen, AccessError> {
        let answer = tokio::time::timeout(CALL_TIMEOUT, self.api.get(&self.lease)).await;
        let lease = answer
            .map_err(|_| self.silent("get"))?
            .map_err(|e| self.error("get", &e))?;
        Ok(self.seen(&lease))
    }

    /// Changes annotations of the Lease (none: removes one) as long as `judge` agrees with what is there; it may refuse by `Err`.
    pub(super) async fn change<R>(
        &self,
        annotations: &BTreeMap<&str, Option<String>>,
        mut judge: impl FnMut(&LeaseSeen) -> Result<(), R>,
    ) -> Result<Result<(), R>, AccessError> {
        for _ in 0..SWAP_ATTEMPTS {
            let seen = self.read().await?;
            if let Err(refusal) = judge(&seen) {
                return Ok(Err(refusal));
            }
            let body = json!({ "metadata": { "resourceVersion": seen.version, "annotations": annotations } });
            let params = PatchParams::default();
            let patch = Patch::Merge(body);
            let call = self.api.patch(&self.lease, &params, &patch);
            let answer = tokio::time::timeout(CALL_TIMEOUT, call).await;
            match answer.map_err(|_| self.silent("patch"))? {
                Ok(_) => return Ok(Ok(())),
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => return Err(self.error("patch", &error)),
            }
        }
        Err(AccessError::Conflict(self.lease.clone()))
    }

    fn silent(&self, verb: &'static str) -> AccessError {
        AccessError::Unreachable {
            verb,
            lease: self.lease.clone(),
            reason: format!("nothing came within {CALL_TIMEOUT:?}"),
        }
    }

    fn error(&self, verb: &'static str, error: &kube::Error) -> AccessError {
        let (namespace, lease) = (self.namespace.clone(), self.lease.clone());
        match error {
            kube::Error::Api(status) => match status.code {
                404 => AccessError::Missing { namespace, lease },
                403 => AccessError::Forbidden {
                    verb,
                    namespace,
                    lease,
                    message: status.message.clone(),
                },
                code => AccessError::Rejected {
                    verb,
                    lease,
                    code,
                    message: status.message.clone(),
                },
            },
            other => AccessError::Unreachable {
                verb,
                lease,
                reason: with_causes(other),
            },
        }
    }

    fn seen(&self, lease: &Lease) -> LeaseSeen {
        let spec = lease.spec.clone().unwrap_or_default();
        let annotation = |key: &str| lease.metadata.annotations.as_ref()?.get(key).map(String::as_str);
        let now = jiff::Timestamp::now();
        let renewed_ago = spec
            .renew_time
            .as_ref()
            .map(|at| Duration::try_from(now.duration_since(at.0)).unwrap_or_default());
        let text = lease
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| record_text(&spec, annotations));
        let record = match text {
            None => Err(damaged(self, "the Lease has no record")),
            Some(text) => Record::parse(text).map_err(|e| damaged(self, &e.to_string())),
        };
        let whole = |n: Option<i32>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        LeaseSeen {
            holder: spec.holder_identity.filter(|h| !h.is_empty()),
            transitions: Term(whole(spec.lease_transitions)),
            renewed_ago,
            duration: Duration::from_secs(whole(spec.lease_duration_seconds)),
            record,
            report: annotation(REPORT_ANNOTATION).map(Report::parse),
            order: annotation(ORDER_ANNOTATION).map(|text| OrderNote::parse(text).map_err(|e| e.to_string())),
            result: annotation(ORDER_RESULT_ANNOTATION).and_then(|text| OrderResult::parse(text).ok()),
            version: lease.metadata.resource_version.clone(),
        }
    }
}
