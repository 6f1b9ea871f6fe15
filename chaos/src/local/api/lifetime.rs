//! How objects age and end: generations, deletion marks, the grace of pods.

use super::kinds::Kind;
use super::types::DeleteOptions;
use jiff::{Timestamp, ToSpan};
use serde_json::Value;

/// Seconds until a pod goes; 0 for everything that goes at once.
pub fn pod_grace(kind: Kind, object: &Value, options: &DeleteOptions) -> i64 {
    let on_a_node = object
        .pointer("/spec/nodeName")
        .and_then(Value::as_str)
        .is_some_and(|n| !n.is_empty());
    let over = matches!(
        object.pointer("/status/phase").and_then(Value::as_str),
        Some("Succeeded" | "Failed")
    );
    if kind != Kind::Pod || !on_a_node || over {
        return 0;
    }
    let own = object["spec"]["terminationGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(30);
    options.grace_seconds.unwrap_or(own).max(0)
}

/// Marks an object as one that goes after a time.
pub fn mark(object: &mut Value, now: Timestamp, grace: i64) {
    let until = now.checked_add(grace.seconds()).unwrap_or(now);
    object["metadata"]["deletionTimestamp"] = seconds(until).into();
    object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    raise_generation(object);
}

/// Counts a change of the spec, or the wish that it go.
pub fn raise_generation(object: &mut Value) {
    let generation = object["metadata"]["generation"].as_i64().unwrap_or_default();
    object["metadata"]["generation"] = generation.saturating_add(1).into();
}

/// RFC 3339 in whole seconds, the form of Kubernetes' `Time`.
pub fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
