//! What differs between two pod templates, for people. What pgbaton itself writes into a template is no difference.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

/// Variable of a StatefulSet's template that pgbaton keeps: `off` for the primary, else `on`.
pub const STANDBY_MODE: &str = "STANDBY_MODE";
/// Variable of a StatefulSet's template that pgbaton keeps: the primary's name, empty for itself.
pub const PRIMARY_SERVER_ADDRESS: &str = "PRIMARY_SERVER_ADDRESS";

/// Lists whose items are known by one of their fields; every other list is compared item by item, in order.
const KEYED: [(&str, &str); 6] = [
    ("containers", "name"),
    ("initContainers", "name"),
    ("env", "name"),
    ("volumes", "name"),
    ("volumeMounts", "mountPath"),
    ("ports", "containerPort"),
];

/// What the template `to` has otherwise than `from`, one text for each place; empty: nothing.
///
/// Both are taken as the API server gives them. Values are shown of images and resources only: others may be secrets.
#[must_use]
pub fn changes(from: &Value, to: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", &comparable(from), &comparable(to), &mut found);
    found
}

/// The template without what says nothing: nulls, the directive of a ControllerRevision, and the values that pgbaton writes.
fn comparable(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ours = map.get("name").and_then(Value::as_str);
            let ours = matches!(ours, Some(STANDBY_MODE | PRIMARY_SERVER_ADDRESS));
            // Kubernetes before 1.34 writes a null creationTimestamp into each template, later ones none.
            let counts = |key: &str, value: &Value| {
                !value.is_null() && key != "$patch" && !(ours && matches!(key, "value" | "valueFrom"))
            };
            let kept = map.iter().filter(|(key, value)| counts(key, value));
            Value::Object(
                kept.map(|(key, value)| (key.clone(), comparable(value)))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(comparable).collect()),
        plain => plain.clone(),
    }
}

fn compare(at: &str, from: &Value, to: &Value, found: &mut Vec<String>) {
    if from == to {
        return;
    }
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => compare_maps(at, from, to, found),
        (Value::Array(from), Value::Array(to)) => compare_lists(at, from, to, found),
        (from, to) if is_shown(at) && is_plain(from) && is_plain(to) => {
            found.push(format!("{at}: {} -> {}", plain(from), plain(to)));
        }
        _ => found.push(at.to_owned()),
    }
}

fn compare_maps(at: &str, from: &Map<String, Value>, to: &Map<String, Value>, found: &mut Vec<String>) {
    let keys: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    for key in keys {
        one(&place(at, key), from.get(key), to.get(key), found);
    }
}

fn one(at: &str, from: Option<&Value>, to: Option<&Value>, found: &mut Vec<String>) {
    match (from, to) {
        (Some(from), Some(to)) => compare(at, from, to, found),
        (Some(_), None) => found.push(format!("{at} (gone)")),
        (None, Some(_)) => found.push(format!("{at} (new)")),
        (None, None) => {}
    }
}

fn compare_lists(at: &str, from: &[Value], to: &[Value], found: &mut Vec<String>) {
    let list = at.rsplit('.').next().unwrap_or(at);
    let key = KEYED.iter().find(|(name, _)| *name == list).map(|(_, key)| *key);
    let keys = |items: &[Value]| -> Option<Vec<String>> {
        let keys: Vec<String> = items
            .iter()
            .map(|item| Some(plain(item.get(key?)?)))
            .collect::<Option<_>>()?;
        let distinct: BTreeSet<&String> = keys.iter().collect();
        (distinct.len() == keys.len()).then_some(keys)
    };
    if let (Some(old), Some(new)) = (keys(from), keys(to)) {
        let before = found.len();
        let of = |keys: &[String], items: &[Value], key: &String| {
            let index = keys.iter().position(|known| known == key)?;
            items.get(index).cloned()
        };
        let added = new.iter().filter(|key| !old.contains(key));
        for key in old.iter().chain(added) {
            let (from, to) = (of(&old, from, key), of(&new, to, key));
            one(&format!("{at}[{key}]"), from.as_ref(), to.as_ref(), found);
        }
        if found.len() == before {
            found.push(format!("{at} (order)"));
        }
    } else if from.len() == to.len() {
        for (index, (from, to)) in from.iter().zip(to).enumerate() {
            compare(&format!("{at}[{index}]"), from, to, found);
        }
    } else {
        found.push(at.to_owned());
    }
}

/// `spec` is left out: nearly everything stands below it.
fn place(at: &str, key: &str) -> String {
    match at {
        "" | "spec" => key.to_owned(),
        _ if key.contains(['.', '/']) => format!("{at}[{key}]"),
        _ => format!("{at}.{key}"),
    }
}

fn is_shown(at: &str) -> bool {
    at.ends_with(".image") || at.contains(".resources.")
}

fn is_plain(value: &Value) -> bool {
    !value.is_object() && !value.is_array()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({
            "metadata": { "labels": { "app": "postgres-1" } },
            "spec": {
                "terminationGracePeriodSeconds": 60,
                "initContainers": [{ "name": "sidecar", "image": "pgbaton:0.1.0" }],
                "containers": [{
                    "name": "postgres",
                    "image": "postgres:15.3",
                    "args": ["-c", "config_file=/config/postgresql.conf"],
                    "resources": { "limits": { "memory": "1Gi" } },
                    "env": [
                        { "name": "POSTGRES_PASSWORD", "value": "secret" },
                        { "name": "STANDBY_MODE", "value": "on" },
                        { "name": "PRIMARY_SERVER_ADDRESS", "value": "postgres-2" },
                    ],
                    "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    "ports": [{ "containerPort": 5432 }],
                }],
                "volumes": [{ "name": "config", "configMap": { "name": "postgres-config" } }],
            },
        })
    }

    fn changed(pointer: &str, to: Value) -> Vec<String> {
        let mut new = template();
        *new.pointer_mut(pointer).unwrap() = to;
        changes(&template(), &new)
    }

    const CONTAINER: &str = "/spec/containers/0";

    #[test]
    fn what_pgbaton_writes_and_what_says_nothing_is_no_change() {
        let mut revision = template();
        revision["$patch"] = json!("replace");
        revision["metadata"]["creationTimestamp"] = Value::Null;
        let env = "/spec/containers/0/env";
        // A primary's: the API server leaves the empty value out.
        revision.pointer_mut(env).unwrap()[1] = json!({ "name": "STANDBY_MODE", "value": "off" });
        revision.pointer_mut(env).unwrap()[2] = json!({ "name": "PRIMARY_SERVER_ADDRESS" });
        assert_eq!(changes(&revision, &template()), Vec::<String>::new());
        assert_eq!(changes(&template(), &revision), Vec::<String>::new());
        // In another container they are a change of the manifest, whatever their values are.
        let mut more = template();
        more["spec"]["initContainers"][0]["env"] = json!([{ "name": "STANDBY_MODE", "value": "on" }]);
        assert_eq!(changes(&template(), &more), ["initContainers[sidecar].env (new)"]);
    }

    #[test]
    fn images_and_resources_are_shown_and_other_values_are_not() {
        let image = changed(&format!("{CONTAINER}/image"), json!("postgres:15.4"));
        assert_eq!(
            image,
            ["containers[postgres].image: postgres:15.3 -> postgres:15.4"]
        );
        let memory = changed(&format!("{CONTAINER}/resources/limits/memory"), json!("2Gi"));
        assert_eq!(
            memory,
            ["containers[postgres].resources.limits.memory: 1Gi -> 2Gi"]
        );
        let secret = changed(&format!("{CONTAINER}/env/0/value"), json!("other"));
        assert_eq!(secret, ["containers[postgres].env[POSTGRES_PASSWORD].value"]);
        let args = changed(&format!("{CONTAINER}/args/1"), json!("config_file=/other"));
        assert_eq!(args, ["containers[postgres].args[1]"]);
        let annotation = json!({ "labels": { "app": "postgres-1" }, "annotations": { "kubectl.kubernetes.io/restartedAt": "now" } });
        assert_eq!(changed("/metadata", annotation), ["metadata.annotations (new)"]);
    }

    #[test]
    fn what_comes_goes_and_moves_is_named() {
        let new = json!({ "name": "LANG", "value": "C" });
        let old = template();
        let env = old.pointer("/spec/containers/0/env").unwrap().as_array().unwrap();
        let with = |items: Vec<Value>| changed("/spec/containers/0/env", Value::Array(items));
        assert_eq!(
            with(vec![env[0].clone(), env[1].clone(), env[2].clone(), new]),
            ["containers[postgres].env[LANG] (new)"]
        );
        assert_eq!(
            with(vec![env[1].clone(), env[2].clone()]),
            ["containers[postgres].env[POSTGRES_PASSWORD] (gone)"]
        );
        // A variable may use those before it: their order counts.
        assert_eq!(
            with(vec![env[1].clone(), env[0].clone(), env[2].clone()]),
            ["containers[postgres].env (order)"]
        );
        assert_eq!(
            changed("/spec/containers/0/args", json!(["-c"])),
            ["containers[postgres].args"]
        );
        assert_eq!(
            changed("/spec/volumes/0/configMap/name", json!("other")),
            ["volumes[config].configMap.name"]
        );
        assert_eq!(
            changed("/spec/terminationGracePeriodSeconds", json!(90)),
            ["terminationGracePeriodSeconds"]
        );
        // Two items under one key: item by item.
        let twice = json!([{ "containerPort": 5432, "protocol": "TCP" }, { "containerPort": 5432, "protocol": "UDP" }]);
        assert_eq!(
            changed("/spec/containers/0/ports", twice),
            ["containers[postgres].ports"]
        );
    }
}
