//! The NetworkPolicy against the ports that are in use.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::clusters;
use super::render::{containers, pod};

fn ports(rules: &Value) -> BTreeSet<String> {
    let rules = rules.as_array().into_iter().flatten();
    let ports = rules.flat_map(|rule| rule["ports"].as_array().into_iter().flatten());
    ports
        .map(|p| format!("{} {}", p["protocol"].as_str().unwrap(), p["port"]))
        .collect()
}

#[test]
fn what_listens_is_let_in_and_what_is_asked_is_let_out() {
    for rendered in clusters() {
        let policies = rendered.all("NetworkPolicy");
        if rendered.folder.contains(super::ADOPTED) {
            assert!(
                policies.is_empty(),
                "it might cut clients off that were there before"
            );
            continue;
        }
        assert_eq!(policies.len(), 1);
        let spec = &policies[0]["spec"];
        let members = &spec["podSelector"];
        for set in rendered.all("StatefulSet") {
            let labels = &set["spec"]["template"]["metadata"]["labels"];
            let wanted = members["matchLabels"].as_object().unwrap();
            assert!(wanted.iter().all(|(k, v)| labels[k] == *v));
            let mut listening = BTreeSet::new();
            for container in containers(pod(set)) {
                for port in container["ports"].as_array().into_iter().flatten() {
                    listening.insert(format!("TCP {}", port["containerPort"]));
                }
            }
            assert_eq!(ports(&spec["ingress"]), listening, "{}", rendered.folder);
        }
        for rule in spec["ingress"].as_array().unwrap() {
            let database = rule["ports"][0]["port"] == 5432;
            let from = if database { json!({}) } else { members.clone() };
            assert_eq!(rule["from"], json!([{ "podSelector": from }]));
        }
        let out = ["TCP 443", "TCP 53", "TCP 5432", "TCP 6443", "TCP 8008", "UDP 53"];
        assert_eq!(ports(&spec["egress"]), out.map(str::to_owned).into());
        assert_eq!(spec["egress"][0]["to"], json!([{ "podSelector": members }]));
        assert_eq!(spec["policyTypes"], json!(["Ingress", "Egress"]));
    }
}
