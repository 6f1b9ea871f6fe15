//! Merge patch (RFC 7386) and strategic merge patch, as pure functions on JSON. JSON patch has its own file.

use super::json_patch;
use super::kinds::Kind;
use serde_json::{Map, Value};

/// What a patch body means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/merge-patch+json`: maps merge, null removes, lists are replaced.
    Merge,
    /// `application/strategic-merge-patch+json`: as merge, but known lists merge by a key of their elements.
    Strategic,
    /// `application/json-patch+json`: a list of operations.
    Json,
}

/// Why a patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PatchError {
    /// It cannot be understood.
    Malformed(String),
    /// An element of a list does not say which one it is. The real server answers this with 500.
    NoMergeKey(String),
    /// An operation finds another object than it expects.
    DoesNotFit,
}

impl From<String> for PatchError {
    fn from(text: String) -> Self {
        Self::Malformed(text)
    }
}

/// Applies `patch` to `target`.
pub fn apply(kind: Kind, how: PatchType, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    match how {
        PatchType::Merge => {
            merge(target, patch);
            Ok(())
        }
        PatchType::Strategic => {
            let Value::Object(patch) = patch else {
                return Err("a strategic merge patch must be a JSON object".to_owned().into());
            };
            strategic_map(kind, as_map(target), patch)
        }
        PatchType::Json => json_patch::apply(target, patch),
    }
}

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = as_map(target);
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// The map in `value`; anything else is replaced by an empty one first.
fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable_map(),
    }
}

/// `as_map` has just made it a map.
fn unreachable_map() -> ! {
    unreachable!("the value was made a map above")
}

/// How a list merges.
enum ListStyle {
    /// Elements are maps with this identifying key.
    ByKey(&'static str),
    /// Elements are plain values; new ones are appended.
    Set,
    /// The whole list is replaced.
    Replace,
}

fn list_style(kind: Kind, field: &str) -> ListStyle {
    match field {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "resourceClaims"
        | "schedulingGates"
        | "secrets" => ListStyle::ByKey("name"),
        "volumeMounts" => ListStyle::ByKey("mountPath"),
        "volumeDevices" => ListStyle::ByKey("devicePath"),
        "ports" if kind == Kind::Service => ListStyle::ByKey("port"),
        "ports" => ListStyle::ByKey("containerPort"),
        "hostAliases" | "podIPs" | "hostIPs" => ListStyle::ByKey("ip"),
        "ownerReferences" => ListStyle::ByKey("uid"),
        "conditions" => ListStyle::ByKey("type"),
        "topologySpreadConstraints" => ListStyle::ByKey("topologyKey"),
        "finalizers" => ListStyle::Set,
        _ => ListStyle::Replace,
    }
}

const DIRECTIVE: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const REMOVE: &str = "$deleteFromPrimitiveList/";

fn strategic_map(
    kind: Kind,
    target: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE).map(Value::as_str) {
        None | Some(Some("merge")) => {}
        Some(Some("replace")) => {
            *target = patch
                .iter()
                .filter(|(k, _)| *k != DIRECTIVE)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some(Some("delete")) => {
            target.clear();
            return Ok(());
        }
        Some(other) => return Err(format!("unknown value of $patch: {other:?}").into()),
    }
    if let Some(keep) = patch.get(RETAIN) {
        let keep = keep
            .as_array()
            .ok_or_else(|| "$retainKeys must be a list".to_owned())?;
        target.retain(|key, _| keep.iter().any(|k| k == key));
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(REMOVE) {
            remove_from_set(target, field, value)?;
        } else if key == DIRECTIVE || key == RETAIN || key.starts_with(ORDER) {
            // Directives are no content; the order is put right once the lists are merged.
        } else if value.is_null() {
            target.remove(key);
        } else {
            strategic_value(kind, key, target.entry(key).or_insert(Value::Null), value)?;
        }
    }
    for (key, value) in patch {
        if let Some(field) = key.strip_prefix(ORDER) {
            reorder(kind, target, field, value)?;
        }
    }
    Ok(())
}

fn strategic_value(kind: Kind, field: &str, target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    match patch {
        Value::Object(patch) => strategic_map(kind, as_map(target), patch),
        Value::Array(patch) => {
            // Where there is no list yet nothing is merged, and an element without its key is left to the rules.
            let fresh = !target.is_array();
            if fresh {
                *target = Value::Array(Vec::new());
            }
            let Value::Array(target) = target else {
                unreachable_map()
            };
            match list_style(kind, field) {
                ListStyle::ByKey(key) if fresh && !patch.iter().all(|item| item.get(key).is_some()) => {
                    target.clone_from(patch);
                    Ok(())
                }
                ListStyle::ByKey(key) => strategic_list(kind, field, key, target, patch),
                ListStyle::Set => {
                    for value in patch {
                        if !target.contains(value) {
                            target.push(value.clone());
                        }
                    }
                    Ok(())
                }
                ListStyle::Replace => {
                    target.clone_from(patch);
                    Ok(())
                }
            }
        }
        plain => {
            *target = plain.clone();
            Ok(())
        }
    }
}

fn strategic_list(
    kind: Kind,
    field: &str,
    key: &str,
    target: &mut Vec<Value>,
    patch: &[Value],
) -> Result<(), PatchError> {
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if patch
        .iter()
        .any(|item| directive(item).as_deref() == Some("replace"))
    {
        *target = patch
            .iter()
            .filter(|item| directive(item).is_none())
            .cloned()
            .collect();
        return Ok(());
    }
    for item in patch {
        let Value::Object(content) = item else {
            return Err(format!("elements of {field} must be objects").into());
        };
        let id = content.get(key).ok_or_else(|| {
            PatchError::NoMergeKey(format!("map: {item} does not contain declared merge key: {key}"))
        })?;
        if directive(item).as_deref() == Some("delete") {
            target.retain(|t| t.get(key) != Some(id));
            continue;
        }
        if let Some(existing) = target.iter_mut().find(|t| t.get(key) == Some(id)) {
            strategic_map(kind, as_map(existing), content)?;
        } else {
            let mut fresh = Map::new();
            strategic_map(kind, &mut fresh, content)?;
            target.push(Value::Object(fresh));
        }
    }
    Ok(())
}

fn remove_from_set(target: &mut Map<String, Value>, field: &str, gone: &Value) -> Result<(), PatchError> {
    let gone = gone
        .as_array()
        .ok_or_else(|| format!("{REMOVE}{field} must be a list"))?;
    if let Some(Value::Array(list)) = target.get_mut(field) {
        list.retain(|value| !gone.contains(value));
    }
    Ok(())
}

/// Elements named in the order come first in that order, the others keep their place behind them.
fn reorder(
    kind: Kind,
    target: &mut Map<String, Value>,
    field: &str,
    order: &Value,
) -> Result<(), PatchError> {
    let order = order
        .as_array()
        .ok_or_else(|| format!("{ORDER}{field} must be a list"))?;
    let Some(Value::Array(list)) = target.get_mut(field) else {
        return Ok(());
    };
    let place = |item: &Value| match list_style(kind, field) {
        ListStyle::ByKey(key) => order
            .iter()
            .position(|o| o.get(key).is_some() && o.get(key) == item.get(key)),
        ListStyle::Set | ListStyle::Replace => order.iter().position(|o| o == item),
    };
    list.sort_by_key(|item| place(item).unwrap_or(usize::MAX));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn merged(how: PatchType, mut target: Value, patch: &Value) -> Value {
        apply(Kind::StatefulSet, how, &mut target, patch).unwrap();
        target
    }

    /// The table of RFC 7386, appendix A.
    #[test]
    fn merge_follows_the_rfc() {
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (
                json!({"a":{"b":"c"}}),
                json!({"a":{"b":"d","c":null}}),
                json!({"a":{"b":"d"}}),
            ),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (
                json!({}),
                json!({"a":{"bb":{"ccc":null}}}),
                json!({"a":{"bb":{}}}),
            ),
        ] {
            assert_eq!(
                merged(PatchType::Merge, target.clone(), &patch),
                result,
                "{target} + {patch}"
            );
        }
    }

    fn pod() -> Value {
        json!({"spec": {
            "initContainers": [{"name": "init", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}],
            "containers": [
                {"name": "postgres", "image": "postgres:15", "args": ["x"],
                 "ports": [{"containerPort": 5432, "name": "pg"}],
                 "volumeMounts": [{"mountPath": "/data", "name": "data"}]},
                {"name": "sidecar", "image": "s"},
            ],
            "volumes": [{"name": "data"}],
        }})
    }

    #[test]
    fn strategic_merges_lists_by_their_keys() {
        let patch = json!({"spec": {
            "initContainers": [{"name": "init", "env": [{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]}],
            "containers": [{"name": "postgres", "args": ["y"], "ports": [{"containerPort": 5432, "protocol": "TCP"}],
                            "volumeMounts": [{"mountPath": "/run", "name": "run"}]}],
            "volumes": [{"name": "run", "emptyDir": {}}],
        }});
        let got = merged(PatchType::Strategic, pod(), &patch);
        assert_eq!(
            got["spec"]["initContainers"][0]["env"],
            json!([{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C", "value": "4"}])
        );
        let postgres = &got["spec"]["containers"][0];
        assert_eq!(postgres["image"], "postgres:15");
        assert_eq!(postgres["args"], json!(["y"]));
        assert_eq!(
            postgres["ports"],
            json!([{"containerPort": 5432, "name": "pg", "protocol": "TCP"}])
        );
        assert_eq!(postgres["volumeMounts"].as_array().unwrap().len(), 2);
        assert_eq!(got["spec"]["containers"][1]["name"], "sidecar");
        assert_eq!(
            got["spec"]["volumes"],
            json!([{"name": "data"}, {"name": "run", "emptyDir": {}}])
        );
    }

    #[test]
    fn merge_patch_replaces_the_lists_that_strategic_merges() {
        let patch = json!({"spec": {"containers": [{"name": "postgres"}]}});
        assert_eq!(
            merged(PatchType::Merge, pod(), &patch)["spec"]["containers"],
            json!([{"name": "postgres"}])
        );
    }

    #[test]
    fn strategic_directives() {
        let delete = json!({"spec": {"containers": [{"name": "sidecar", "$patch": "delete"}]}});
        let got = merged(PatchType::Strategic, pod(), &delete);
        assert_eq!(got["spec"]["containers"].as_array().unwrap().len(), 1);

        let replace = json!({"spec": {"volumes": [{"$patch": "replace"}, {"name": "only"}]}});
        assert_eq!(
            merged(PatchType::Strategic, pod(), &replace)["spec"]["volumes"],
            json!([{"name": "only"}])
        );

        let order =
            json!({"spec": {"$setElementOrder/containers": [{"name": "sidecar"}, {"name": "postgres"}]}});
        let got = merged(PatchType::Strategic, pod(), &order);
        assert_eq!(got["spec"]["containers"][0]["name"], "sidecar");
        assert!(got["spec"].get("$setElementOrder/containers").is_none());

        let retain = json!({"s": {"$retainKeys": ["type"], "type": "OnDelete"}});
        let target = json!({"s": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}});
        assert_eq!(
            merged(PatchType::Strategic, target, &retain),
            json!({"s": {"type": "OnDelete"}})
        );

        let map = json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}});
        let target = json!({"metadata": {"labels": {"a": "1"}}});
        assert_eq!(
            merged(PatchType::Strategic, target, &map),
            json!({"metadata": {"labels": {"b": "2"}}})
        );
    }

    #[test]
    fn an_element_without_its_key_is_refused() {
        let patch = json!({"spec": {"containers": [{"image": "x"}]}});
        let error = apply(Kind::StatefulSet, PatchType::Strategic, &mut pod(), &patch).unwrap_err();
        assert!(
            matches!(&error, PatchError::NoMergeKey(text) if text.contains("merge key: name")),
            "{error:?}"
        );
    }

    #[test]
    fn ports_of_a_service_merge_by_port() {
        let mut service = json!({"spec": {"ports": [{"port": 5432, "name": "pg"}]}});
        let patch = json!({"spec": {"ports": [{"port": 5432, "targetPort": 5433}, {"port": 8008}]}});
        apply(Kind::Service, PatchType::Strategic, &mut service, &patch).unwrap();
        assert_eq!(
            service["spec"]["ports"],
            json!([{"port": 5432, "name": "pg", "targetPort": 5433}, {"port": 8008}])
        );
    }

    #[test]
    fn null_removes_in_a_strategic_patch() {
        let patch = json!({"spec": {"volumes": null}});
        assert!(
            merged(PatchType::Strategic, pod(), &patch)["spec"]
                .get("volumes")
                .is_none()
        );
    }
}
