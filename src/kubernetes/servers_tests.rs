//! Who is there: by the variables, wherever they stand; and what is said when nobody may ask.

use serde_json::{Value, json};

use super::*;
use crate::kubernetes::fake::FakeApi;

const PATH: &str = "default/statefulsets";

fn set(name: &str, replicas: Option<u32>, list: &str, variable: &str) -> Value {
    let mut set = json!({
        "metadata": { "name": name },
        "spec": { "selector": {}, "serviceName": name, "template": { "spec": { "containers": [{ "name": "postgres" }] } } },
    });
    set["spec"]["template"]["spec"][list] =
        json!([{ "name": "x", "env": [{ "name": variable, "value": "on" }] }]);
    if let Some(replicas) = replicas {
        set["spec"]["replicas"] = json!(replicas);
    }
    set
}

fn list(items: &[Value]) -> Value {
    json!({ "kind": "StatefulSetList", "apiVersion": "apps/v1", "metadata": {}, "items": items })
}

#[tokio::test]
async fn servers_are_found_by_their_variables_wherever_they_stand() {
    let api = FakeApi::default();
    let sets = [
        set("postgres-1", None, "initContainers", "STANDBY_MODE"),
        set("postgres-2", Some(0), "containers", "PRIMARY_SERVER_ADDRESS"),
        set("web", Some(3), "containers", "PORT"),
        set("postgres-3", Some(2), "initContainers", "STANDBY_MODE"),
    ];
    api.put(PATH, list(&sets));
    let found = list_servers(&api.client(), "default").await.unwrap();
    let found: Vec<(String, u32)> = found
        .into_iter()
        .map(|f| (f.member.to_string(), f.replicas))
        .collect();
    let expected = [("postgres-1", 1), ("postgres-2", 0), ("postgres-3", 2)];
    assert_eq!(
        found,
        expected.map(|(name, replicas)| (name.to_owned(), replicas))
    );
}

#[tokio::test]
async fn a_missing_right_is_told_with_its_rule() {
    let api = FakeApi::default();
    api.forbid("GET", "statefulsets");
    let error = list_servers(&api.client(), "default").await.unwrap_err();
    assert!(error.is_forbidden());
    let text = error.to_string();
    for word in [
        "namespace default",
        "\"apps\"",
        "\"statefulsets\"",
        "\"list\"",
        "deploy/adopt",
    ] {
        assert!(text.contains(word), "{text} lacks {word}");
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_asked_is_not_left_out() {
    let api = FakeApi::default();
    let long = "a".repeat(60);
    api.put(PATH, list(&[set(&long, None, "containers", "STANDBY_MODE")]));
    let error = list_servers(&api.client(), "default").await.unwrap_err();
    assert!(
        matches!(&error, ListError::Unnameable { name, .. } if *name == long),
        "{error}"
    );
    assert!(!error.is_forbidden());
}
