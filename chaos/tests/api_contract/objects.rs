//! What pgbaton relies on in an API server. Runs against the embedded one, and with
//! `PGBATON_CONTRACT_KUBECONFIG` against a real one.

use crate::contract::{Ground, leases_with_one, merge, message, number, object, raw, refusal};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod, Service};
use k8s_openapi::api::events::v1::Event as NewEvent;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::json;

fn statefulset(name: &str) -> StatefulSet {
    object(json!({"metadata": {"name": name}, "spec": {
        "serviceName": name, "replicas": 1, "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {
            "initContainers": [{"name": "init", "image": "i", "env": [
                {"name": "STANDBY_MODE", "value": "off"}, {"name": "PRIMARY_SERVER_ADDRESS", "value": ""}]}],
            "containers": [{"name": "postgres", "image": "postgres:15", "ports": [{"containerPort": 5432}]}]}}}}))
}

#[tokio::test]
async fn created_once_and_known_by_name() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    assert!(lease.uid().is_some_and(|u| u.len() == 36));
    assert!(lease.creation_timestamp().is_some());
    assert!(number(&lease) > 0);
    let again = object(json!({"metadata": {"name": "postgres"}}));
    let result = leases.create(&PostParams::default(), &again).await;
    assert_eq!(refusal(result), (409, "AlreadyExists".to_owned()));
    assert_eq!(leases.get("postgres").await.unwrap(), lease);
    assert_eq!(refusal(leases.get("other").await), (404, "NotFound".to_owned()));
    assert_eq!(
        message(leases.get("other").await),
        "leases.coordination.k8s.io \"other\" not found"
    );
    assert!(leases.get_opt("other").await.unwrap().is_none());
    ground.end().await;
}

#[tokio::test]
async fn a_version_in_a_patch_is_a_compare_and_swap() {
    let ground = Ground::new().await;
    let (leases, seen) = leases_with_one(&ground).await;
    let swap = |holder: &str| {
        json!({"metadata": {"resourceVersion": seen.resource_version(), "annotations": {"record": holder}},
               "spec": {"holderIdentity": holder}})
    };
    let won = merge(&leases, "postgres", swap("b")).await.unwrap();
    assert!(number(&won) > number(&seen));
    assert_eq!(
        refusal(merge(&leases, "postgres", swap("c")).await),
        (409, "Conflict".to_owned())
    );
    let text = message(merge(&leases, "postgres", swap("c")).await);
    assert!(
        text.starts_with(
            "Operation cannot be fulfilled on leases.coordination.k8s.io \"postgres\": the object has"
        ),
        "{text}"
    );
    let strategic = Patch::Strategic(swap("c"));
    let result = leases
        .patch("postgres", &PatchParams::default(), &strategic)
        .await;
    assert_eq!(refusal(result), (409, "Conflict".to_owned()));
    assert_eq!(
        leases.get("postgres").await.unwrap(),
        won,
        "a lost swap changes nothing"
    );

    let mut old = seen.clone();
    old.spec.as_mut().unwrap().holder_identity = Some("d".to_owned());
    let result = leases.replace("postgres", &PostParams::default(), &old).await;
    assert_eq!(refusal(result), (409, "Conflict".to_owned()));
    old.metadata.resource_version = None;
    let result = leases.replace("postgres", &PostParams::default(), &old).await;
    assert_eq!(refusal(result), (422, "Invalid".to_owned()));
    old.metadata.resource_version = won.resource_version();
    leases
        .replace("postgres", &PostParams::default(), &old)
        .await
        .unwrap();
    ground.end().await;
}

#[tokio::test]
async fn a_patch_without_effect_keeps_the_version() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    for patch in [
        json!({}),
        json!({"spec": {"holderIdentity": "a"}}),
        json!({"metadata": {"annotations": {"x": null}}}),
    ] {
        let same = merge(&leases, "postgres", patch).await.unwrap();
        assert_eq!(number(&same), number(&lease));
    }
    ground.end().await;
}

#[tokio::test]
async fn a_merge_patch_merges_and_removes() {
    let ground = Ground::new().await;
    let (leases, _) = leases_with_one(&ground).await;
    merge(
        &leases,
        "postgres",
        json!({"metadata": {"annotations": {"x": "1", "y": "2"}}}),
    )
    .await
    .unwrap();
    let patch =
        json!({"metadata": {"annotations": {"x": null}}, "spec": {"holderIdentity": "", "renewTime": null}});
    let lease = merge(&leases, "postgres", patch).await.unwrap();
    assert_eq!(
        lease
            .annotations()
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect::<Vec<_>>(),
        ["y=2"]
    );
    let spec = lease.spec.unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.renew_time),
        (Some(""), None)
    );
    assert_eq!(spec.lease_duration_seconds, Some(10));
    ground.end().await;
}

#[tokio::test]
async fn leases_that_break_the_rules() {
    let ground = Ground::new().await;
    let (leases, _) = leases_with_one(&ground).await;
    for (field, value) in [
        ("leaseDurationSeconds", 0),
        ("leaseDurationSeconds", -1),
        ("leaseTransitions", -1),
    ] {
        let result = merge(&leases, "postgres", json!({"spec": {field: value}})).await;
        assert_eq!(refusal(result), (422, "Invalid".to_owned()), "{field} {value}");
    }
    let text = message(merge(&leases, "postgres", json!({"spec": {"leaseDurationSeconds": 0}})).await);
    assert_eq!(
        text,
        "Lease.coordination.k8s.io \"postgres\" is invalid: spec.leaseDurationSeconds: Invalid value: 0: must be \
         greater than 0"
    );
    let result = merge(&leases, "postgres", json!({"spec": {"leaseTransitions": "x"}})).await;
    assert_eq!(refusal(result).0, 422);
    assert_eq!(
        refusal(merge(&leases, "postgres", json!({"metadata": {"name": "b"}})).await).0,
        400
    );
    ground.end().await;
}

#[tokio::test]
async fn the_update_strategy_needs_its_null() {
    let ground = Ground::new().await;
    let sets: Api<StatefulSet> = ground.api(&ground.admin);
    let made = sets
        .create(&PostParams::default(), &statefulset("postgres-1"))
        .await
        .unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let bare = json!({"spec": {"updateStrategy": {"type": "OnDelete"}}});
    assert_eq!(
        refusal(merge(&sets, "postgres-1", bare).await),
        (422, "Invalid".to_owned())
    );
    let with_null = json!({"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}});
    let set = merge(&sets, "postgres-1", with_null).await.unwrap();
    let strategy = set.spec.unwrap().update_strategy.unwrap();
    assert_eq!(
        (strategy.type_.as_deref(), strategy.rolling_update),
        (Some("OnDelete"), None)
    );
    assert_eq!(set.metadata.generation, Some(2));
    for fixed in [
        json!({"serviceName": "x"}),
        json!({"selector": {"matchLabels": {"b": "c"}}}),
    ] {
        let result = merge(&sets, "postgres-1", json!({"spec": fixed})).await;
        assert_eq!(refusal(result), (422, "Invalid".to_owned()));
    }
    ground.end().await;
}

#[tokio::test]
async fn env_is_patched_by_name() {
    let ground = Ground::new().await;
    let sets: Api<StatefulSet> = ground.api(&ground.admin);
    sets.create(&PostParams::default(), &statefulset("postgres-2"))
        .await
        .unwrap();
    let patch = json!({"spec": {"template": {"spec": {"initContainers": [{"name": "init", "env": [
        {"name": "STANDBY_MODE", "value": "on"}, {"name": "MORE", "value": "1"}]}]}}}});
    let set: StatefulSet = sets
        .patch("postgres-2", &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .unwrap();
    let pod = set.spec.unwrap().template.spec.unwrap();
    let init = &pod.init_containers.unwrap()[0];
    assert_eq!(init.image.as_deref(), Some("i"));
    // Where the server puts a new variable is its own business; that the others stay is not. An empty value is none.
    let mut env: Vec<(String, Option<String>)> = init
        .env
        .clone()
        .unwrap()
        .into_iter()
        .map(|e| (e.name, e.value))
        .collect();
    env.sort();
    let expected = [
        ("MORE", Some("1")),
        ("PRIMARY_SERVER_ADDRESS", None),
        ("STANDBY_MODE", Some("on")),
    ]
    .map(|(n, v)| (n.to_owned(), v.map(str::to_owned)));
    assert_eq!(env, expected);
    assert_eq!(pod.containers.len(), 1);
    ground.end().await;
}

/// The controllers that make revisions of StatefulSets are no part of either server here.
#[tokio::test]
async fn a_revision_keeps_its_template_as_it_was_made() {
    let ground = Ground::new().await;
    let revisions: Api<ControllerRevision> = ground.api(&ground.admin);
    let data = json!({"spec": {"template": {"$patch": "replace", "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "postgres", "image": "postgres:15", "resources": {}, "unknown": [1]}]}}}});
    let revision = json!({"metadata": {"name": "postgres-1-0123456789"}, "revision": 1, "data": data});
    revisions
        .create(&PostParams::default(), &object(revision))
        .await
        .unwrap();
    let got = revisions.get("postgres-1-0123456789").await.unwrap();
    assert_eq!((got.revision, got.data.map(|data| data.0)), (1, Some(data)));
    let newer = merge(&revisions, "postgres-1-0123456789", json!({"revision": 2}))
        .await
        .unwrap();
    assert_eq!(newer.revision, 2);
    let other = json!({"data": {"spec": {"template": {"metadata": {"labels": {"app": "b"}}}}}});
    let result = merge(&revisions, "postgres-1-0123456789", other).await;
    assert_eq!(refusal(result), (422, "Invalid".to_owned()));
    let result = revisions
        .create(
            &PostParams::default(),
            &object(json!({"metadata": {"name": "empty"}, "revision": 1})),
        )
        .await;
    assert_eq!(refusal(result), (422, "Invalid".to_owned()));
    let text = message(revisions.get("other").await);
    assert_eq!(text, "controllerrevisions.apps \"other\" not found");
    ground.end().await;
}

#[tokio::test]
async fn a_selector_is_switched_by_a_merge_patch() {
    let ground = Ground::new().await;
    let services: Api<Service> = ground.api(&ground.admin);
    let service = object(json!({"metadata": {"name": "postgres"},
        "spec": {"selector": {"app": "postgres-1", "old": "x"}, "ports": [{"port": 5432}]}}));
    services.create(&PostParams::default(), &service).await.unwrap();
    let patch = json!({"spec": {"selector": {"app": "postgres-2", "old": null}}});
    let service = merge(&services, "postgres", patch).await.unwrap();
    let selector = service.spec.unwrap().selector.unwrap();
    assert_eq!(
        selector.into_iter().collect::<Vec<_>>(),
        [("app".to_owned(), "postgres-2".to_owned())]
    );
    ground.end().await;
}

#[tokio::test]
async fn lists_are_narrowed() {
    let ground = Ground::new().await;
    let leases: Api<Lease> = ground.api(&ground.admin);
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let lease = object(json!({"metadata": {"name": name, "labels": {"l": label}}}));
        leases.create(&PostParams::default(), &lease).await.unwrap();
    }
    let names = async |parameters: ListParams| -> Vec<String> {
        let list = leases.list(&parameters).await.unwrap();
        assert!(list.metadata.resource_version.is_some());
        list.items.iter().map(ResourceExt::name_any).collect()
    };
    assert_eq!(names(ListParams::default()).await, ["a", "b", "c"]);
    assert_eq!(names(ListParams::default().labels("l=x")).await, ["a", "b"]);
    assert_eq!(names(ListParams::default().labels("l!=x")).await, ["c"]);
    assert_eq!(
        names(ListParams::default().fields("metadata.name=b")).await,
        ["b"]
    );
    let result = leases
        .list(&ListParams::default().fields("spec.holderIdentity=b"))
        .await;
    assert_eq!(refusal(result).0, 400);
    ground.end().await;
}

#[tokio::test]
async fn requests_that_cannot_be_understood() {
    let ground = Ground::new().await;
    let _ = leases_with_one(&ground).await;
    let base = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
        ground.namespace
    );
    let one = format!("{base}/postgres");
    let json_type = "application/json";
    let merge_type = "application/merge-patch+json";
    for (method, path, media, body, code) in [
        ("PATCH", one.as_str(), "text/plain", "{}", 415),
        ("PATCH", one.as_str(), json_type, "{}", 415),
        ("PATCH", one.as_str(), merge_type, "{", 400),
        ("POST", base.as_str(), json_type, "nonsense", 400),
        (
            "POST",
            base.as_str(),
            json_type,
            "{\"metadata\":{\"name\":5}}",
            400,
        ),
        ("PUT", base.as_str(), json_type, "{}", 405),
        ("POST", one.as_str(), json_type, "{}", 405),
        (
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/x/nonsense",
            json_type,
            "",
            404,
        ),
    ] {
        assert_eq!(
            raw(&ground.admin, method, path, media, body).await.0,
            code,
            "{method} {path} {media} {body}"
        );
    }
    ground.end().await;
}

#[tokio::test]
async fn events_have_two_forms_and_rules() {
    let ground = Ground::new().await;
    let events: Api<NewEvent> = ground.api(&ground.member);
    let event = json!({"metadata": {"generateName": "postgres-"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal", "reason": "Promoted", "action": "Promote", "note": "hello",
        "reportingController": "pgbaton.dev/sidecar", "reportingInstance": "postgres-1-0",
        "regarding": {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "name": "postgres",
                      "namespace": ground.namespace}});
    let made = events
        .create(&PostParams::default(), &object(event.clone()))
        .await
        .unwrap();
    let old_form: Api<CoreEvent> = ground.api(&ground.admin);
    let same = old_form.get(&made.name_any()).await.unwrap();
    assert_eq!(same.message.as_deref(), Some("hello"));
    assert_eq!(same.involved_object.name.as_deref(), Some("postgres"));
    let found = old_form
        .list(&ListParams::default().fields("involvedObject.name=postgres"))
        .await
        .unwrap();
    assert_eq!(found.items.len(), 1);
    for missing in [
        "action",
        "reportingController",
        "reportingInstance",
        "reason",
        "eventTime",
    ] {
        let mut wrong = event.clone();
        wrong.as_object_mut().unwrap().remove(missing);
        let result = events.create(&PostParams::default(), &object(wrong)).await;
        assert_eq!(refusal(result), (422, "Invalid".to_owned()), "{missing}");
    }
    ground.end().await;
}

#[tokio::test]
async fn a_pod_ends_in_two_steps_and_keeps_its_spec() {
    let ground = Ground::new().await;
    let pods: Api<Pod> = ground.api(&ground.admin);
    let pod = object(json!({"metadata": {"name": "p", "labels": {"a": "b"}},
        "spec": {"nodeName": "no-such-node", "terminationGracePeriodSeconds": 60,
                 "containers": [{"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}]}]}}));
    let pod = pods.create(&PostParams::default(), &pod).await.unwrap();
    merge(
        &pods,
        "p",
        json!({"metadata": {"labels": {"pgbaton.dev/role": "primary"}}}),
    )
    .await
    .unwrap();
    let result = merge(
        &pods,
        "p",
        json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
    )
    .await;
    assert_eq!(refusal(result), (422, "Invalid".to_owned()));
    let patched = merge(&pods, "p", json!({"status": {"podIP": "10.0.0.1"}}))
        .await
        .unwrap();
    assert_eq!(
        patched.status.and_then(|s| s.pod_ip),
        None,
        "status has a path of its own"
    );
    let patch = Patch::Strategic(json!({"status": {"message": "hello"}}));
    let patched = pods
        .patch_status("p", &PatchParams::default(), &patch)
        .await
        .unwrap();
    assert_eq!(patched.status.and_then(|s| s.message).as_deref(), Some("hello"));

    let wrong = DeleteParams::default().preconditions(Preconditions {
        uid: Some("another".to_owned()),
        resource_version: None,
    });
    assert_eq!(
        refusal(pods.delete("p", &wrong).await),
        (409, "Conflict".to_owned())
    );
    pods.delete("p", &DeleteParams::default()).await.unwrap();
    let ending = pods.get("p").await.unwrap();
    assert!(ending.metadata.deletion_timestamp.is_some());
    assert_eq!(ending.metadata.deletion_grace_period_seconds, Some(60));
    assert_eq!(ending.uid(), pod.uid());
    pods.delete("p", &DeleteParams::default().grace_period(0))
        .await
        .unwrap();
    assert!(pods.get_opt("p").await.unwrap().is_none());
    ground.end().await;
}
