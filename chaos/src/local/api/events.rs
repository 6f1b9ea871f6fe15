//! Events are served in two forms (core/v1 and events.k8s.io/v1) and stored in the first.

use super::kinds::{Kind, Resource};
use serde_json::Value;

/// (field in core/v1, field in events.k8s.io/v1)
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn in_new_form(resource: &Resource) -> bool {
    resource.kind == Kind::Event && !resource.group.is_empty()
}

/// A stored object as `resource` serves it.
#[must_use]
pub fn to_served(resource: &Resource, mut stored: Value) -> Value {
    if in_new_form(resource) {
        rename(&mut stored, |(core, new)| (core, new));
        stored["apiVersion"] = resource.api_version().into();
    }
    stored
}

/// An object in the form of `resource` as it is stored.
#[must_use]
pub fn to_stored(resource: &Resource, mut served: Value) -> Value {
    if in_new_form(resource) {
        rename(&mut served, |(core, new)| (new, core));
        served["apiVersion"] = Kind::Event.resource().api_version().into();
    }
    served
}

fn rename(
    object: &mut Value,
    direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) {
    let Some(map) = object.as_object_mut() else { return };
    for (from, to) in RENAMED.into_iter().map(direction) {
        if let Some(value) = map.remove(from) {
            map.insert(to.to_owned(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::local::api::kinds;
    use serde_json::json;

    #[test]
    fn both_forms_carry_the_same() {
        let new = kinds::find("events.k8s.io", "v1", "events").unwrap();
        let served = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
            "regarding": {"kind": "Lease"}, "note": "hello", "reportingController": "pgbaton"});
        let stored = to_stored(new, served.clone());
        assert_eq!(stored["involvedObject"]["kind"], "Lease");
        assert_eq!(stored["message"], "hello");
        assert_eq!(stored["apiVersion"], "v1");
        assert_eq!(to_served(new, stored), served);
    }
}
