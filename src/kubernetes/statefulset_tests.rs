//! One StatefulSet: wherever the variables stand, and never a restart.

use serde_json::{Value, json};

use super::*;
use crate::core::types::Term;
use crate::kubernetes::fake::FakeApi;

const PATH: &str = "statefulsets/postgres-1";

fn desired(term: u64, primary: &str) -> Desired {
    Desired {
        namespace: "default".into(),
        term: Term(term),
        primary: primary.parse().unwrap(),
        open: true,
        members: vec!["postgres-1".parse().unwrap()],
        not_for_reading: Vec::new(),
        service: "postgres".into(),
        patch_env: true,
    }
}

/// As the tutorial has it: the variables in the init container, other env around them, default strategy.
fn tutorial() -> Value {
    json!({
        "metadata": {},
        "spec": {
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            "template": { "spec": {
                "initContainers": [{ "name": "init", "image": "postgres:15", "env": [
                    { "name": "REPLICATION_USER", "valueFrom": { "secretKeyRef": { "name": "postgresql", "key": "REPLICATION_USER" } } },
                    { "name": "STANDBY_MODE", "value": "off" },
                    { "name": "PRIMARY_SERVER_ADDRESS", "value": "" },
                    { "name": "PGDATA", "value": "/data/pgdata" },
                ] }],
                "containers": [
                    { "name": "postgres", "image": "postgres:15", "env": [{ "name": "PGDATA", "value": "/data/pgdata" }] },
                    { "name": "pgbaton", "env": [{ "name": "STANDBY_MODE", "valueFrom": { "configMapKeyRef": { "name": "m", "key": "k" } } }] },
                ],
            } },
        },
    })
}

async fn run(api: &FakeApi, desired: &Desired) -> (Vec<Change>, Option<EffectError>) {
    set_role(&api.client(), desired, &"postgres-1".parse().unwrap()).await
}

#[tokio::test]
async fn the_strategy_changes_first_and_alone_then_only_the_variables() {
    let api = FakeApi::default();
    api.put(PATH, tutorial());
    let (changes, error) = run(&api, &desired(3, "postgres-2")).await;
    assert_eq!(error, None);
    let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "StatefulSet postgres-1: updateStrategy RollingUpdate -> OnDelete",
            "StatefulSet postgres-1: STANDBY_MODE=on"
        ]
    );
    let writes = api.writes();
    assert_eq!(writes.len(), 2);
    assert_eq!(
        writes[0]["spec"],
        json!({ "updateStrategy": { "type": "OnDelete", "rollingUpdate": null } })
    );
    let mut expected = tutorial()["spec"]["template"].clone();
    expected["spec"]["initContainers"][0]["env"][1]["value"] = json!("on");
    expected["spec"]["initContainers"][0]["env"][2]["value"] = json!("postgres-2");
    expected["spec"]["containers"][1]["env"] = json!([{ "name": "STANDBY_MODE", "value": "on" }]);
    let object = api.object(PATH);
    assert_eq!(object["spec"]["template"], expected);
    assert_eq!(object["metadata"]["annotations"][TERM_ANNOTATION], "3");
    assert_eq!(run(&api, &desired(3, "postgres-2")).await, (vec![], None));
    assert_eq!(api.writes().len(), 2);
}

#[tokio::test]
async fn the_primary_gets_off_and_an_empty_address() {
    let api = FakeApi::default();
    api.put(PATH, tutorial());
    run(&api, &desired(3, "postgres-2")).await;
    run(&api, &desired(4, "postgres-1")).await;
    let env = &api.object(PATH)["spec"]["template"]["spec"]["initContainers"][0]["env"];
    assert_eq!((&env[1]["value"], &env[2]["value"]), (&json!("off"), &json!("")));
    // The API server leaves an empty value out: still right.
    let mut stored = api.object(PATH);
    let variable = &mut stored["spec"]["template"]["spec"]["initContainers"][0]["env"][2];
    *variable = json!({ "name": "PRIMARY_SERVER_ADDRESS" });
    api.put(PATH, stored);
    assert_eq!(run(&api, &desired(4, "postgres-1")).await, (vec![], None));
}

#[tokio::test]
async fn a_new_term_with_the_same_env_touches_the_annotation_only() {
    let api = FakeApi::default();
    api.put(PATH, tutorial());
    run(&api, &desired(3, "postgres-2")).await;
    let (changes, error) = run(&api, &desired(4, "postgres-2")).await;
    assert_eq!((changes.len(), error), (1, None));
    assert_eq!(api.writes()[2].get("spec"), None);
    assert_eq!(api.object(PATH)["metadata"]["annotations"][TERM_ANNOTATION], "4");
    let (changes, error) = run(&api, &desired(3, "postgres-1")).await;
    assert!(changes.is_empty() && error.is_some_and(|e| e.is_outranked()));
    assert_eq!(api.writes().len(), 3);
}

#[tokio::test]
async fn the_template_is_not_touched_when_the_strategy_cannot_be_changed() {
    let api = FakeApi::default();
    api.put(PATH, tutorial());
    api.forbid("PATCH", PATH);
    let (changes, error) = run(&api, &desired(3, "postgres-2")).await;
    assert!(changes.is_empty() && matches!(error, Some(EffectError::Forbidden { .. })));
    assert_eq!(api.writes().len(), 1);
}

#[tokio::test]
async fn the_template_is_not_touched_when_somebody_puts_the_strategy_back() {
    let api = FakeApi::default();
    api.put(PATH, tutorial());
    run(&api, &desired(3, "postgres-2")).await;
    api.interlope(|path, objects| {
        if let Some(object) = objects.get_mut(path) {
            object["metadata"]["resourceVersion"] = json!("1000");
            object["spec"]["updateStrategy"] = json!({ "type": "RollingUpdate" });
        }
    });
    let (changes, error) = run(&api, &desired(4, "postgres-1")).await;
    assert!(
        changes.is_empty() && matches!(error, Some(EffectError::Conflict { .. })),
        "{error:?}"
    );
    let env = &api.object(PATH)["spec"]["template"]["spec"]["initContainers"][0]["env"];
    assert_eq!(env[1]["value"], "on");
}

#[tokio::test]
async fn a_variable_set_twice_is_reported_and_not_patched_for_ever_in_silence() {
    let api = FakeApi::default();
    let mut object = tutorial();
    let twice =
        json!([{ "name": "STANDBY_MODE", "value": "off" }, { "name": "STANDBY_MODE", "value": "off" }]);
    object["spec"]["template"]["spec"]["containers"][1]["env"] = twice;
    api.put(PATH, object);
    let (_, error) = run(&api, &desired(3, "postgres-2")).await;
    assert!(matches!(error, Some(EffectError::NotApplied { .. })), "{error:?}");
}

#[tokio::test]
async fn a_statefulset_without_the_variables_is_left_alone() {
    let api = FakeApi::default();
    api.put(
        PATH,
        json!({ "spec": { "template": { "spec": { "containers": [{ "name": "postgres" }] } } } }),
    );
    let (changes, error) = run(&api, &desired(3, "postgres-2")).await;
    assert!(changes.is_empty() && matches!(error, Some(EffectError::NoVariables { .. })));
    assert!(api.writes().is_empty());
}

#[tokio::test]
async fn more_than_one_replica_is_told_and_none_is_not() {
    let api = FakeApi::default();
    for (replicas, told) in [(0, false), (1, false), (2, true)] {
        let mut object = tutorial();
        object["spec"]["replicas"] = json!(replicas);
        api.put(PATH, object);
        let (changes, error) = run(&api, &desired(3, "postgres-2")).await;
        assert_eq!(changes.len(), 2, "the env is kept: {changes:?}");
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(text.contains("has 2 replicas"), told, "{replicas}: {text}");
    }
}
