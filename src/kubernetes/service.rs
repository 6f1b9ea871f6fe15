//! The read-write Service: its selector is the authority for where clients go, readiness is not.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::effects::{Change, Desired, EffectError};
use super::object::{TERM_ANNOTATION, Target, swapping, term_of};
use crate::core::types::Term;

/// The selector's only key while clients are led to the primary.
const SELECTOR_KEY: &str = "app";
/// A key beside it that no pod carries: the Service leads nowhere then.
const CLOSED_KEY: &str = "pgbaton.dev/closed";

fn target<'a>(client: &Client, namespace: &str, name: &'a str) -> Target<'a, Service> {
    Target {
        api: Api::namespaced(client.clone(), namespace),
        kind: "Service",
        name,
    }
}

/// The term that the Service carries: what a damaged Lease's new term must exceed (DESIGN.md section 3).
///
/// # Errors
/// When it cannot be read.
pub async fn service_term(
    client: &Client,
    namespace: &str,
    service: &str,
) -> Result<Option<Term>, EffectError> {
    let object = target(client, namespace, service).get().await?;
    Ok(term_of(&object))
}

/// See `point_service`.
pub(super) async fn point(client: &Client, desired: &Desired) -> Result<Option<Change>, EffectError> {
    let target = target(client, &desired.namespace, &desired.service);
    swapping(|| async {
        let found = target.get().await?;
        target.judge_term(&found, desired.term)?;
        let Some((body, change)) = needed(&found, desired) else {
            return Ok(None);
        };
        target.merge(body).await?;
        Ok(Some(change))
    })
    .await
}

/// Whether `found` is as desired, or belongs to a later term.
#[must_use]
pub fn is_pointed(found: &Service, desired: &Desired) -> bool {
    needed(found, desired).is_none() || term_of(found).is_some_and(|term| term > desired.term)
}

/// The patch that makes `found` right, and what it changes; none when it is right.
fn needed(found: &Service, desired: &Desired) -> Option<(Value, Change)> {
    let spec = found.spec.clone().unwrap_or_default();
    let selector = spec.selector.unwrap_or_default();
    let mut wanted = BTreeMap::from([(SELECTOR_KEY.to_owned(), desired.primary.to_string())]);
    if !desired.open {
        wanted.insert(CLOSED_KEY.to_owned(), "true".to_owned());
    }
    let published = spec.publish_not_ready_addresses == Some(true);
    if selector == wanted && published && term_of(found) == Some(desired.term) {
        return None;
    }
    // Keys merge in a merge patch, so each foreign one is dropped by name.
    let mut patched: serde_json::Map<String, Value> =
        selector.keys().map(|key| (key.clone(), Value::Null)).collect();
    patched.extend(wanted.iter().map(|(key, value)| (key.clone(), json!(value))));
    let body = json!({
        "metadata": {
            "resourceVersion": found.metadata.resource_version,
            "annotations": { TERM_ANNOTATION: desired.term.to_string() },
        },
        "spec": { "selector": patched, "publishNotReadyAddresses": true },
    });
    let service = desired.service.clone();
    let change = if selector == wanted {
        Change::ServiceDetails { service }
    } else {
        Change::Service {
            service,
            from: in_words(&selector),
            to: in_words(&wanted),
        }
    };
    Some((body, change))
}

fn in_words(selector: &BTreeMap<String, String>) -> String {
    if selector.is_empty() {
        return "none".to_owned();
    }
    let pairs: Vec<String> = selector.iter().map(|(k, v)| format!("{k}={v}")).collect();
    pairs.join(",")
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
