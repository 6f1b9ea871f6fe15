//! The component over people's own manifests: it adds what a shipped member has, and takes nothing away.

use serde_json::{Value, json};

use super::ADOPTED;
use super::render::{Rendered, container, name_of, pod, variable};

/// The manifests as people have them.
const BEFORE: &str = "chaos/tests/deploy/tutorial";

/// Everything in `before` is in `after`: lists by the names of their items, or as they are.
fn kept(path: &str, before: &Value, after: &Value, changed: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(b), Value::Object(a)) => {
            for (key, value) in b {
                let after = a.get(key).unwrap_or(&Value::Null);
                kept(&format!("{path}/{key}"), value, after, changed);
            }
        }
        (Value::Array(b), Value::Array(a)) => {
            let key = |item: &Value| {
                let by = ["mountPath", "name", "containerPort"];
                by.iter().find(|k| !item[**k].is_null()).map(|k| item[*k].clone())
            };
            for item in b {
                let same = a.iter().find(|other| match key(item) {
                    Some(name) => key(other) == Some(name),
                    None => *other == item,
                });
                let name = key(item).unwrap_or_default();
                kept(
                    &format!("{path}/{name}"),
                    item,
                    same.unwrap_or(&Value::Null),
                    changed,
                );
            }
        }
        _ if before == after => {}
        _ => changed.push(path.to_owned()),
    }
}

#[test]
fn nothing_that_was_there_is_lost() {
    let (before, adopted) = (Rendered::of(BEFORE), Rendered::of(ADOPTED));
    assert_eq!(before.objects.len(), 9);
    for object in &before.objects {
        let (kind, name) = (object["kind"].as_str().unwrap(), name_of(object));
        let mut changed = Vec::new();
        kept("", object, adopted.one(kind, name), &mut changed);
        let wanted: &[&str] = match kind {
            // What `init` did is pgbaton's now, and a handover takes time.
            "StatefulSet" => &[
                "/spec/template/spec/initContainers/\"init\"/args",
                "/spec/template/spec/initContainers/\"init\"/command/null",
                "/spec/template/spec/initContainers/\"init\"/command/null",
                "/spec/template/spec/terminationGracePeriodSeconds",
            ],
            _ => &[],
        };
        changed.sort();
        assert_eq!(changed, wanted, "{kind} {name}");
    }
}

#[test]
fn the_init_container_only_prepares() {
    let adopted = Rendered::of(ADOPTED);
    for set in adopted.all("StatefulSet") {
        let init = container(pod(set), "init");
        assert_eq!(init["command"], json!(["/pgbaton-bin/pgbaton", "prepare"]));
        assert!(init["args"].is_null());
        assert_eq!(variable(init, "PGDATA").unwrap()["value"], "/data/pgdata");
        assert_eq!(
            &pod(set)["initContainers"][1],
            init,
            "the sidecar has installed pgbaton"
        );
    }
}

/// The two files say the same of what both have.
#[test]
fn an_adopted_member_has_a_shipped_members_sidecar() {
    let own = |variable: &Value| {
        let of_each = ["PGBATON_MEMBER", "STANDBY_MODE", "PRIMARY_SERVER_ADDRESS"];
        of_each.iter().any(|name| variable["name"] == *name)
    };
    let sidecar = |rendered: &Rendered| {
        let mut sidecar = container(pod(rendered.one("StatefulSet", "postgres-2")), "sidecar").clone();
        sidecar["env"].as_array_mut().unwrap().retain(|v| !own(v));
        sidecar
    };
    let (adopted, shipped) = (Rendered::of(ADOPTED), Rendered::of("deploy/overlays/tutorial"));
    assert_eq!(sidecar(&adopted), sidecar(&shipped));
    for set in adopted.all("StatefulSet") {
        let theirs = shipped.one("StatefulSet", name_of(set));
        let member = variable(container(pod(set), "sidecar"), "PGBATON_MEMBER").unwrap();
        assert_eq!(
            member["valueFrom"]["fieldRef"]["fieldPath"],
            "metadata.labels['app']"
        );
        for volume in ["pgbaton-bin", "pgbaton-run", "pgbaton-token"] {
            let find = |set: &Value| {
                let volumes = pod(set)["volumes"].as_array().unwrap();
                volumes.iter().find(|v| v["name"] == volume).cloned()
            };
            assert!(find(set).is_some());
            assert_eq!(find(set), find(theirs));
        }
        for key in ["serviceAccountName", "terminationGracePeriodSeconds"] {
            assert_eq!(pod(set)[key], pod(theirs)[key]);
        }
        // A volume claim cannot be changed in a StatefulSet that is there.
        assert_eq!(
            set["spec"]["volumeClaimTemplates"],
            theirs["spec"]["volumeClaimTemplates"]
        );
    }
    assert!(
        adopted
            .all("ConfigMap")
            .iter()
            .all(|c| name_of(c) != "postgres-config")
    );
}
