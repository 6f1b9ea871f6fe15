//! What a StatefulSet's controller keeps beside its pods: a ControllerRevision for each template, which the pods' labels name, and
//! how far it has looked at the StatefulSet. Old revisions are kept without a limit.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::settings::NAMESPACE;
use super::store::{Kind, Store};

/// Label of a pod: the revision that it was made from.
pub const LABEL: &str = "controller-revision-hash";

/// Makes the revision of this StatefulSet's present template unless it is there, notes in the status that it was seen, and gives
/// its name.
///
/// # Errors
/// What the API server says.
pub fn note(store: &Store, set: &Value) -> Result<String> {
    let text = |pointer: &str| set.pointer(pointer).and_then(Value::as_str);
    let of = text("/metadata/name").context("the StatefulSet has no name")?;
    let mut template = set.pointer("/spec/template").cloned().unwrap_or_default();
    template["$patch"] = json!("replace");
    let data = json!({ "spec": { "template": template } });
    let mut hasher = DefaultHasher::new();
    data.to_string().hash(&mut hasher);
    let hash = format!("{:010x}", hasher.finish() >> 24);
    let name = format!("{of}-{hash}");
    if store.get(Kind::ControllerRevision, &name).is_none() {
        let mut labels = set
            .pointer("/spec/selector/matchLabels")
            .cloned()
            .unwrap_or_else(|| json!({}));
        labels["controller.kubernetes.io/hash"] = json!(hash);
        let revision = json!({
            "metadata": { "name": name, "namespace": NAMESPACE, "labels": labels, "ownerReferences": [owner(set, of)] },
            "data": data,
            "revision": owned(store, set).len() + 1,
        });
        store.create(Kind::ControllerRevision, revision)?;
    }
    let status = json!({
        "observedGeneration": set.pointer("/metadata/generation"),
        "updateRevision": name,
        "replicas": 1,
    });
    let seen = |field: &str| set.pointer(&format!("/status/{field}")) == status.get(field);
    if !["observedGeneration", "updateRevision"].into_iter().all(seen) {
        store.set_status(Kind::StatefulSet, of, &status)?;
    }
    Ok(name)
}

/// As `note`; a StatefulSet that was changed or deleted in between is seen again.
pub fn note_change(store: &Store, set: Option<&Value>) {
    if let Some(Err(error)) = set.map(|set| note(store, set)) {
        tracing::debug!("a StatefulSet's revision was not noted: {error:#}");
    }
}

/// The garbage collector's work: the revisions of a StatefulSet that is gone go too.
pub fn forget_unless_there(store: &Store, set: &Value) {
    let uid = set.pointer("/metadata/uid");
    let name = set.pointer("/metadata/name").and_then(Value::as_str);
    let now = name.and_then(|name| store.get(Kind::StatefulSet, name));
    if now.is_some_and(|now| now.pointer("/metadata/uid") == uid) {
        return;
    }
    for name in owned(store, set) {
        store.remove(Kind::ControllerRevision, &name);
    }
}

fn owner(set: &Value, name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name,
        "uid": set.pointer("/metadata/uid").cloned().unwrap_or_default(),
        "controller": true, "blockOwnerDeletion": true,
    })
}

fn owned(store: &Store, set: &Value) -> Vec<String> {
    let uid = set.pointer("/metadata/uid");
    let all = store.api().list(Kind::ControllerRevision, NAMESPACE);
    let of_it = all
        .iter()
        .filter(|revision| revision.pointer("/metadata/ownerReferences/0/uid") == uid);
    of_it
        .filter_map(|revision| Some(revision.pointer("/metadata/name")?.as_str()?.to_owned()))
        .collect()
}
