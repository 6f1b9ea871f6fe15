//! The sidecars' rights: exactly what they use, by name.

use std::collections::BTreeSet;

use pgbaton::core::preflight::{self, Right, Scope};
use pgbaton::core::types::MemberName;
use pgbaton_chaos::names::CLUSTER;
use serde_json::{Value, json};

use super::render::{Rendered, name_of};
use super::{ADOPTED, clusters};

/// Every right as `verb group/resource name`; `*`: any name.
fn granted(rendered: &Rendered) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for role in rendered.all("Role") {
        for rule in role["rules"].as_array().unwrap() {
            assert!(rule["nonResourceURLs"].is_null());
            let words = |key: &str| -> Vec<&str> {
                let list = rule[key].as_array().into_iter().flatten();
                list.map(|w| w.as_str().unwrap()).collect()
            };
            let mut names = words("resourceNames");
            if names.is_empty() {
                names.push("*");
            }
            for verb in words("verbs") {
                for group in words("apiGroups") {
                    for resource in words("resources") {
                        for name in &names {
                            let new = all.insert(format!("{verb} {group}/{resource} {name}"));
                            assert!(new, "{} is given twice: {verb} {resource} {name}", name_of(role));
                        }
                    }
                }
            }
        }
    }
    all
}

/// What the sidecars of these members use: what each of them asks the API server for at its start.
fn needed(members: &[&str]) -> BTreeSet<String> {
    let members: BTreeSet<MemberName> = members.iter().map(|name| name.parse().unwrap()).collect();
    let rights = preflight::needed(&Scope {
        lease: CLUSTER,
        service: CLUSTER,
        me: members.first().unwrap(),
        recorded: &members,
        patch_env: true,
    });
    let text = |right: &Right| {
        let name = right.name.as_deref().unwrap_or("*");
        format!("{} {}/{} {name}", right.verb, right.group, right.resource)
    };
    rights.iter().map(text).collect()
}

/// The rights of what was rendered are those of its members, and these.
pub fn are_exactly(rendered: &Rendered, more: &[&str]) {
    let mut wanted = needed(&rendered.members());
    wanted.extend(more.iter().map(|&right| right.to_owned()));
    assert_eq!(granted(rendered), wanted, "{}", rendered.folder);
}

#[test]
fn rights_are_exactly_what_is_used() {
    for rendered in clusters() {
        // Until the cluster is adopted, servers that are not guarded yet must be found.
        let more: &[&str] = if rendered.folder.contains(ADOPTED) {
            &["list apps/statefulsets *"]
        } else {
            &[]
        };
        are_exactly(&rendered, more);
    }
    let adopted = Rendered::of(ADOPTED);
    let rules = &adopted.one("Role", "pgbaton-adopt")["rules"];
    let alone = json!([{ "apiGroups": ["apps"], "resources": ["statefulsets"], "verbs": ["list"] }]);
    assert_eq!(
        rules, &alone,
        "it is deleted after the adoption, so nothing else may be in it"
    );
}

#[test]
fn each_role_is_bound_to_the_sidecars_account_alone() {
    for rendered in clusters() {
        assert!(rendered.all("ClusterRole").is_empty() && rendered.all("ClusterRoleBinding").is_empty());
        let bindings = rendered.all("RoleBinding");
        let account = json!([{ "kind": "ServiceAccount", "name": "pgbaton", "namespace": "psql-namespace" }]);
        let mut bound: Vec<&Value> = Vec::new();
        for binding in bindings {
            assert_eq!(binding["subjects"], account, "{}", name_of(binding));
            assert_eq!(binding["roleRef"]["kind"], "Role");
            bound.push(&binding["roleRef"]["name"]);
        }
        let roles: Vec<&str> = rendered.all("Role").into_iter().map(name_of).collect();
        assert_eq!(bound, roles, "{}", rendered.folder);
    }
}
