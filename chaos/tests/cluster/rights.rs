//! Every right of the shipped Roles is missed at the start of a sidecar that does not have it.

use std::collections::BTreeSet;

use pgbaton::core::preflight::{self, Scope};
use pgbaton::core::types::MemberName;
use pgbaton_chaos::names::CLUSTER;
use serde_json::Value;

use super::kubectl::{Kubectl, NAMESPACE, eventually, root};

/// A standby, whose pod is made anew without any right.
const MEMBER: &str = "postgres-3";

fn missing(kubectl: &Kubectl) -> Option<BTreeSet<String>> {
    let path = format!("/api/v1/namespaces/{NAMESPACE}/pods/{MEMBER}-0:8008/proxy/status");
    let status: Value = serde_json::from_str(&kubectl.run(&["get", "--raw", &path]).ok()?).ok()?;
    let rights = status.get("rights")?;
    // Asked one after the other: all must have been answered.
    if rights["unknown"].as_u64() != Some(0) {
        return None;
    }
    let text = |right: &Value| {
        let part = |key: &str| right[key].as_str().unwrap_or_default().to_owned();
        format!(
            "{} {}/{} {}",
            part("verb"),
            part("group"),
            part("resource"),
            part("name")
        )
    };
    Some(rights["missing"].as_array()?.iter().map(text).collect())
}

fn needed() -> BTreeSet<String> {
    let me: MemberName = MEMBER.parse().unwrap();
    let recorded = ["postgres-1", "postgres-2", MEMBER]
        .map(|name| name.parse().unwrap())
        .into();
    let rights = preflight::needed(&Scope {
        lease: CLUSTER,
        service: CLUSTER,
        me: &me,
        recorded: &recorded,
        patch_env: true,
    });
    rights
        .iter()
        .map(|right| {
            let name = right.name.as_deref().unwrap_or_default();
            format!("{} {}/{} {name}", right.verb, right.group, right.resource)
        })
        .collect()
}

#[test]
fn each_right_is_missed_at_the_start_and_found_again() {
    let kubectl = Kubectl::new();
    eventually("the shipped Roles lack nothing", || {
        missing(&kubectl).is_some_and(|m| m.is_empty())
    });
    // Without the Lease's rights a sidecar sees no record: it knows of itself only, until the others' rights are asked for too.
    let own: BTreeSet<String> = needed()
        .into_iter()
        .filter(|right| !right.contains("postgres-1") && !right.contains("postgres-2"))
        .collect();
    let bindings = kubectl.must(&["-n", NAMESPACE, "get", "rolebindings", "-o", "name"]);
    for binding in bindings.lines() {
        kubectl.must(&["-n", NAMESPACE, "delete", binding]);
    }
    let noticed = std::panic::catch_unwind(|| {
        kubectl.must(&[
            "-n",
            NAMESPACE,
            "delete",
            "pod",
            &format!("{MEMBER}-0"),
            "--wait=true",
        ]);
        eventually("every missing right is named", || {
            missing(&kubectl).is_some_and(|missing| missing == own)
        });
    });
    let overlay = root().join("deploy/overlays/tutorial");
    kubectl.must(&["apply", "-k", &overlay.to_string_lossy()]);
    noticed.unwrap_or_else(|_| panic!("missing: {:?}, expected: {own:?}", missing(&kubectl)));
    eventually("nothing is missing any more", || {
        missing(&kubectl).is_some_and(|m| m.is_empty())
    });
}
