//! What the effects share: bounded calls, the term on each object, errors that name object and right.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use kube::Api;
use kube::Resource;
use kube::api::{Patch, PatchParams};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::with_causes;
use super::effects::EffectError;
use crate::core::types::Term;

/// Annotation of everything that pgbaton changes: the term in which it was last changed.
pub(crate) const TERM_ANNOTATION: &str = "pgbaton.dev/term";
/// Who changed a field, for `kubectl get --show-managed-fields`.
pub(crate) const FIELD_MANAGER: &str = "pgbaton";
/// How long one call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a swap that lost against another writer is judged anew.
pub(crate) const SWAP_ATTEMPTS: u32 = 5;

/// One object, as messages name it.
pub(crate) struct Target<'a, K> {
    pub(crate) api: Api<K>,
    /// `Service`, `StatefulSet`, `Pod`.
    pub(crate) kind: &'static str,
    pub(crate) name: &'a str,
}

impl<K> Target<'_, K>
where
    K: Clone + DeserializeOwned + Debug + Resource,
{
    /// `Service postgres`.
    pub(crate) fn label(&self) -> String {
        format!("{} {}", self.kind, self.name)
    }

    /// Reads the object.
    pub(crate) async fn get(&self) -> Result<K, EffectError> {
        self.bounded("get", self.api.get(self.name)).await
    }

    /// Merge patch (RFC 7386); `body` carries the version that it was judged on.
    pub(crate) async fn merge(&self, body: Value) -> Result<K, EffectError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.bounded("patch", self.api.patch(self.name, &params, &Patch::Merge(body)))
            .await
    }

    /// Strategic merge patch: lists merge by their key instead of being replaced.
    pub(crate) async fn strategic(&self, body: Value) -> Result<K, EffectError> {
        let params = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        self.bounded(
            "patch",
            self.api.patch(self.name, &params, &Patch::Strategic(body)),
        )
        .await
    }

    async fn bounded(
        &self,
        verb: &'static str,
        call: impl Future<Output = kube::Result<K>>,
    ) -> Result<K, EffectError> {
        match tokio::time::timeout(CALL_TIMEOUT, call).await {
            Ok(answer) => answer.map_err(|e| self.error(verb, &e)),
            Err(_) => Err(EffectError::TimedOut {
                object: self.label(),
                verb,
                after: CALL_TIMEOUT,
            }),
        }
    }

    fn error(&self, verb: &'static str, error: &kube::Error) -> EffectError {
        let object = self.label();
        match error {
            kube::Error::Api(status) => match status.code {
                404 => EffectError::Missing { object },
                403 => EffectError::Forbidden {
                    object,
                    verb,
                    message: status.message.clone(),
                },
                409 => EffectError::Conflict { object },
                code => EffectError::Rejected {
                    object,
                    verb,
                    code,
                    message: status.message.clone(),
                },
            },
            other => EffectError::Unreachable {
                object,
                reason: with_causes(other),
            },
        }
    }

    /// Refuses to go on when the object carries a term above `ours`.
    pub(crate) fn judge_term(&self, object: &K, ours: Term) -> Result<(), EffectError> {
        match term_of(object) {
            Some(found) if found > ours => Err(EffectError::Outranked {
                object: self.label(),
                found,
                ours,
            }),
            _ => Ok(()),
        }
    }
}

/// The term on an object; none when there is none, or something that is no term (which is then put right).
pub(crate) fn term_of<K: Resource>(object: &K) -> Option<Term> {
    annotation(object.meta().annotations.as_ref()?, TERM_ANNOTATION)
}

fn annotation(annotations: &BTreeMap<String, String>, key: &str) -> Option<Term> {
    annotations.get(key)?.parse().ok().map(Term)
}

/// Runs `attempt` again while it loses against another writer; each attempt reads the object anew.
pub(crate) async fn swapping<T, F, Fut>(mut attempt: F) -> Result<T, EffectError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, EffectError>>,
{
    let mut outcome = attempt().await;
    for _ in 1..SWAP_ATTEMPTS {
        if !matches!(outcome, Err(EffectError::Conflict { .. })) {
            break;
        }
        outcome = attempt().await;
    }
    outcome
}
