//! The Service, and the order of the whole round.

use serde_json::{Value, json};

use super::*;
use crate::core::types::MemberName;
use crate::kubernetes::fake::FakeApi;
use crate::kubernetes::{EffectsReport, point_service, reconcile};

fn desired(term: u64, primary: &str) -> Desired {
    Desired {
        namespace: "default".into(),
        term: Term(term),
        primary: primary.parse().unwrap(),
        open: true,
        members: ["postgres-1", "postgres-2", "postgres-3"]
            .map(|m| m.parse().unwrap())
            .to_vec(),
        not_for_reading: vec!["postgres-3".parse().unwrap()],
        service: "postgres".into(),
        patch_env: true,
    }
}

const PATH: &str = "services/postgres";

fn service(term: Option<&str>, selector: &Value) -> Value {
    let annotations = term.map_or(json!({}), |t| json!({ TERM_ANNOTATION: t }));
    json!({ "metadata": { "annotations": annotations }, "spec": { "selector": selector } })
}

fn statefulset() -> Value {
    json!({ "spec": { "template": { "spec": { "containers": [
        { "name": "postgres", "env": [{ "name": "STANDBY_MODE", "value": "on" }, { "name": "PRIMARY_SERVER_ADDRESS" }] }
    ] } } } })
}

fn whole_cluster() -> FakeApi {
    let api = FakeApi::default();
    api.put(
        PATH,
        service(Some("6"), &json!({ "app": "postgres-1", "role": "x" })),
    );
    for member in ["postgres-1", "postgres-2", "postgres-3"] {
        api.put(&format!("statefulsets/{member}"), statefulset());
        api.put(
            &format!("pods/{member}-0"),
            json!({ "metadata": { "labels": { "app": member } } }),
        );
    }
    api
}

#[tokio::test]
async fn the_selector_becomes_exactly_the_primary() {
    let api = whole_cluster();
    let change = point_service(&api.client(), &desired(7, "postgres-2"))
        .await
        .unwrap();
    let text = change.unwrap().to_string();
    assert_eq!(
        text,
        "Service postgres: selector app=postgres-1,role=x -> app=postgres-2"
    );
    let object = api.object(PATH);
    assert_eq!(object["spec"]["selector"], json!({ "app": "postgres-2" }));
    assert_eq!(object["spec"]["publishNotReadyAddresses"], true);
    assert_eq!(object["metadata"]["annotations"][TERM_ANNOTATION], "7");
    assert_eq!(
        service_term(&api.client(), "default", "postgres").await,
        Ok(Some(Term(7)))
    );
    assert_eq!(
        point_service(&api.client(), &desired(7, "postgres-2")).await,
        Ok(None)
    );
    assert_eq!(api.writes().len(), 1);
}

#[tokio::test]
async fn a_closed_service_selects_no_pod_until_it_is_opened() {
    let api = whole_cluster();
    let closed = Desired {
        open: false,
        ..desired(7, "postgres-1")
    };
    point_service(&api.client(), &closed).await.unwrap();
    let selector = json!({ "app": "postgres-1", CLOSED_KEY: "true" });
    assert_eq!(api.object(PATH)["spec"]["selector"], selector);
    assert_eq!(point_service(&api.client(), &closed).await, Ok(None));
    point_service(&api.client(), &desired(7, "postgres-1"))
        .await
        .unwrap();
    assert_eq!(
        api.object(PATH)["spec"]["selector"],
        json!({ "app": "postgres-1" })
    );
}

#[tokio::test]
async fn a_service_without_selector_or_with_a_nonsense_term_is_put_right() {
    let api = FakeApi::default();
    api.put(
        PATH,
        json!({ "metadata": { "annotations": { TERM_ANNOTATION: "seven" } }, "spec": {} }),
    );
    point_service(&api.client(), &desired(7, "postgres-2"))
        .await
        .unwrap();
    assert_eq!(
        api.object(PATH)["spec"]["selector"],
        json!({ "app": "postgres-2" })
    );
    api.put(PATH, service(Some("7"), &json!({ "app": "postgres-2" })));
    let change = point_service(&api.client(), &desired(7, "postgres-2"))
        .await
        .unwrap();
    assert!(
        matches!(change, Some(Change::ServiceDetails { .. })),
        "{change:?}"
    );
}

#[tokio::test]
async fn a_lower_term_changes_nothing_anywhere() {
    let api = whole_cluster();
    api.put(PATH, service(Some("8"), &json!({ "app": "postgres-3" })));
    let report = reconcile(&api.client(), &desired(7, "postgres-2")).await;
    assert!(report.is_outranked() && report.changes.is_empty(), "{report:?}");
    assert!(api.writes().is_empty());
    assert_eq!(
        api.object(PATH)["spec"]["selector"],
        json!({ "app": "postgres-3" })
    );
}

#[tokio::test]
async fn a_higher_term_that_comes_between_read_and_write_wins() {
    let api = whole_cluster();
    api.interlope(|path, objects| {
        if path == PATH
            && let Some(object) = objects.get_mut(path)
        {
            object["metadata"]["resourceVersion"] = json!("999");
            object["metadata"]["annotations"][TERM_ANNOTATION] = json!("8");
            object["spec"]["selector"] = json!({ "app": "postgres-3" });
        }
    });
    let error = point_service(&api.client(), &desired(7, "postgres-2"))
        .await
        .unwrap_err();
    assert!(error.is_outranked(), "{error}");
    assert_eq!(
        api.object(PATH)["spec"]["selector"],
        json!({ "app": "postgres-3" })
    );
}

#[tokio::test]
async fn a_service_that_others_change_all_the_time_is_given_up_for_this_round() {
    let api = whole_cluster();
    let mut version = 1000;
    api.interlope(move |path, objects| {
        version += 1;
        if let Some(object) = objects.get_mut(path) {
            object["metadata"]["resourceVersion"] = json!(version.to_string());
        }
    });
    let error = point_service(&api.client(), &desired(7, "postgres-2"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, EffectError::Conflict { .. }) && error.is_transient(),
        "{error}"
    );
    assert_eq!(api.writes().len(), 5);
}

#[tokio::test]
async fn a_round_that_finds_all_right_writes_nothing() {
    let api = whole_cluster();
    let first = reconcile(&api.client(), &desired(7, "postgres-2")).await;
    assert!(first.is_complete(), "{first:?}");
    let lines: Vec<String> = first.changes.iter().map(ToString::to_string).collect();
    assert!(lines[0].starts_with("Service postgres"), "{lines:?}");
    assert_eq!(
        lines.last().map(String::as_str),
        Some("Pod postgres-3-0: pgbaton.dev/role=lagging")
    );
    let before = api.requests().len();
    let second = reconcile(&api.client(), &desired(7, "postgres-2")).await;
    assert_eq!(second, EffectsReport::default());
    let steady: Vec<String> = api
        .requests()
        .split_off(before)
        .into_iter()
        .map(|(line, _)| line)
        .collect();
    assert_eq!(steady.len(), 7, "{steady:?}");
    assert!(steady.iter().all(|line| line.starts_with("GET ")), "{steady:?}");
}

#[tokio::test]
async fn what_is_missing_or_forbidden_is_named_and_the_rest_is_done() {
    let api = FakeApi::default();
    for member in ["postgres-1", "postgres-2"] {
        api.put(&format!("statefulsets/{member}"), statefulset());
    }
    api.put("pods/postgres-1-0", json!({ "metadata": {} }));
    api.forbid("PATCH", "statefulsets/postgres-1");
    let report = reconcile(&api.client(), &desired(7, "postgres-2")).await;
    let warnings: Vec<String> = report.warnings.iter().map(ToString::to_string).collect();
    assert!(
        warnings[0].starts_with("Service postgres does not exist"),
        "{warnings:?}"
    );
    assert!(
        warnings[1].starts_with("the right to patch StatefulSet postgres-1 is missing"),
        "{warnings:?}"
    );
    assert!(
        warnings[2].starts_with("StatefulSet postgres-3 does not exist"),
        "{warnings:?}"
    );
    assert_eq!(report.warnings.len(), 3);
    let absent: Vec<&str> = report.pods_absent.iter().map(MemberName::as_str).collect();
    assert_eq!(absent, ["postgres-2", "postgres-3"]);
    let label = &api.object("pods/postgres-1-0")["metadata"]["labels"]["pgbaton.dev/role"];
    assert_eq!(*label, "standby");
    let env = &api.object("statefulsets/postgres-2")["spec"]["template"]["spec"]["containers"][0]["env"];
    assert_eq!(env[0]["value"], "off");
}

#[tokio::test(start_paused = true)]
async fn a_silent_api_server_is_waited_for_within_bounds() {
    let api = whole_cluster();
    api.hang(true);
    let error = point_service(&api.client(), &desired(7, "postgres-2"))
        .await
        .unwrap_err();
    assert!(
        matches!(error, EffectError::TimedOut { .. }) && error.is_transient(),
        "{error}"
    );
}
