//! What pgbaton relies on in an API server: what it fills in and leaves out, and how things end. Runs against the
//! embedded one, and with `PGBATON_CONTRACT_KUBECONFIG` against a real one (`contract/mod.rs` has the command).

use crate::contract::{Ground, gated_pod, leases_with_one, merge, message, number, object, statefulset};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event as CoreEvent, Pod, Secret, Service};
use k8s_openapi::api::events::v1::Event as NewEvent;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let other = object(json!({"metadata": {"name": "other"}}));
    let answer = leases.create(&dry, &other).await.unwrap();
    assert!(answer.resource_version().is_none());
    assert!(leases.get_opt("other").await.unwrap().is_none());
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": "dry"}}));
    let dry = PatchParams {
        dry_run: true,
        ..PatchParams::default()
    };
    let answer = leases.patch("postgres", &dry, &patch).await.unwrap();
    assert_eq!(answer.spec.unwrap().holder_identity.as_deref(), Some("dry"));
    leases
        .delete("postgres", &DeleteParams::default().dry_run())
        .await
        .unwrap();
    assert_eq!(leases.get("postgres").await.unwrap(), lease);
    ground.end().await;
}

#[tokio::test]
async fn a_put_creates_what_is_not_there_for_some_kinds() {
    let ground = Ground::new().await;
    let leases: Api<Lease> = ground.api(&ground.admin);
    let lease: Lease = object(json!({"metadata": {"name": "new"}}));
    let made = leases
        .replace("new", &PostParams::default(), &lease)
        .await
        .unwrap();
    assert!(number(&made) > 0);
    assert!(made.spec.is_some(), "a Lease always has a spec");
    let sets: Api<StatefulSet> = ground.api(&ground.admin);
    let result = sets
        .replace("new", &PostParams::default(), &statefulset("new"))
        .await;
    assert_eq!(message(result), "statefulsets.apps \"new\" not found");
    ground.end().await;
}

/// What the server fills in, or leaves out, of a pod.
fn is_filled_in(pod: &Value) {
    let (init, container) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(init["env"], json!([{"name": "A", "value": "1"}, {"name": "B"}]));
    assert_eq!(init["imagePullPolicy"], "Always");
    assert_eq!(container["imagePullPolicy"], "IfNotPresent");
    assert_eq!(container["terminationMessagePath"], "/dev/termination-log");
    assert_eq!(container["terminationMessagePolicy"], "File");
    assert_eq!(container["resources"], json!({}));
    assert_eq!(
        container["ports"],
        json!([{"containerPort": 5432, "protocol": "TCP"}])
    );
    assert_eq!(
        container["readinessProbe"],
        json!({"httpGet": {"port": 8008, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1, "periodSeconds": 10,
               "successThreshold": 1, "failureThreshold": 3})
    );
    let secret = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .find(|v| v["name"] == "s")
        .unwrap();
    assert_eq!(secret["secret"], json!({"secretName": "x", "defaultMode": 420}));
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("schedulerName", json!("default-scheduler")),
        ("securityContext", json!({})),
    ] {
        assert_eq!(pod[field], value, "{field}");
    }
}

#[tokio::test]
async fn defaults_of_statefulsets() {
    let ground = Ground::new().await;
    let sets: Api<StatefulSet> = ground.api(&ground.admin);
    let set = sets
        .create(&PostParams::default(), &statefulset("s"))
        .await
        .unwrap();
    let spec = json!(set.spec);
    is_filled_in(&spec["template"]["spec"]);
    for (field, value) in [
        ("podManagementPolicy", json!("OrderedReady")),
        ("revisionHistoryLimit", json!(10)),
        (
            "updateStrategy",
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}),
        ),
        (
            "persistentVolumeClaimRetentionPolicy",
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        ),
    ] {
        assert_eq!(spec[field], value, "{field}");
    }
    let text = message(
        merge(
            &sets,
            "s",
            json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}),
        )
        .await,
    );
    assert_eq!(
        text,
        "StatefulSet.apps \"s\" is invalid: spec.updateStrategy.rollingUpdate: Invalid value: \
         {\"Partition\":0,\"MaxUnavailable\":null}: only allowed for updateStrategy 'RollingUpdate'"
    );
    let kept =
        Patch::Strategic(json!({"spec": {"updateStrategy": {"$retainKeys": ["type"], "type": "OnDelete"}}}));
    let set = sets.patch("s", &PatchParams::default(), &kept).await.unwrap();
    assert_eq!(set.metadata.generation, Some(2));
    let set = merge(&sets, "s", json!({"metadata": {"annotations": {"a": "b"}}}))
        .await
        .unwrap();
    assert_eq!(
        set.metadata.generation,
        Some(2),
        "an annotation is no change of the spec"
    );

    ground.end().await;
}

#[tokio::test]
async fn defaults_of_pods_services_and_secrets() {
    let ground = Ground::new().await;
    let pods: Api<Pod> = ground.api(&ground.admin);
    let pod = pods
        .create(&PostParams::default(), &gated_pod("p"))
        .await
        .unwrap();
    is_filled_in(&json!(pod.spec));
    assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"));
    let services: Api<Service> = ground.api(&ground.admin);
    let service = object(json!({"metadata": {"name": "p"}, "spec": {"ports": [{"port": 5432}]}}));
    let service = services.create(&PostParams::default(), &service).await.unwrap();
    let spec = json!(service.spec);
    assert_eq!(
        spec["ports"],
        json!([{"port": 5432, "protocol": "TCP", "targetPort": 5432}])
    );
    assert_eq!(
        (&spec["type"], &spec["internalTrafficPolicy"]),
        (&json!("ClusterIP"), &json!("Cluster"))
    );
    let secrets: Api<Secret> = ground.api(&ground.admin);
    let secret = object(json!({"metadata": {"name": "x"}, "stringData": {"a": "b"}}));
    let secret = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("Opaque"));
    assert_eq!(secret.data.unwrap()["a"].0, b"b");
    ground.end().await;
}

#[tokio::test]
async fn a_deletion_shows_what_is_gone_for_some_kinds() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    let status = leases
        .delete("postgres", &DeleteParams::default())
        .await
        .unwrap()
        .right()
        .unwrap();
    let details = status.details.unwrap();
    assert_eq!(
        (details.name.as_str(), details.kind.as_str()),
        ("postgres", "leases")
    );
    assert_eq!(Some(details.uid), lease.uid());
    let services: Api<Service> = ground.api(&ground.admin);
    let service = object(json!({"metadata": {"name": "p"}, "spec": {"ports": [{"port": 5432}]}}));
    services.create(&PostParams::default(), &service).await.unwrap();
    let gone = services
        .delete("p", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(gone.name_any(), "p");
    let sets: Api<StatefulSet> = ground.api(&ground.admin);
    sets.create(&PostParams::default(), &statefulset("s"))
        .await
        .unwrap();
    assert!(
        sets.delete("s", &DeleteParams::default())
            .await
            .unwrap()
            .is_right()
    );
    let pods: Api<Pod> = ground.api(&ground.admin);
    let pod = pods
        .create(&PostParams::default(), &gated_pod("p"))
        .await
        .unwrap();
    assert_eq!(pod.metadata.generation, Some(1));
    // It is on no node, so nobody has to end it first.
    let gone = pods
        .delete("p", &DeleteParams::default())
        .await
        .unwrap()
        .left()
        .unwrap();
    assert_eq!(gone.metadata.deletion_grace_period_seconds, Some(0));
    assert!(gone.metadata.deletion_timestamp.is_some());
    assert_eq!(gone.metadata.generation, Some(2));
    assert!(pods.get_opt("p").await.unwrap().is_none());
    ground.end().await;
}

fn good_event(namespace: &str) -> Value {
    json!({"metadata": {"name": "e"}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
        "reason": "R", "action": "A", "note": "n", "reportingController": "pgbaton.dev/sidecar",
        "reportingInstance": "i", "regarding": {"kind": "Lease", "name": "postgres", "uid": "u",
                                                "namespace": namespace}})
}

#[tokio::test]
async fn events_that_break_the_rules() {
    let ground = Ground::new().await;
    let events: Api<NewEvent> = ground.api(&ground.member);
    let good = good_event(&ground.namespace);
    events
        .create(&PostParams::default(), &object(good.clone()))
        .await
        .unwrap();
    for (field, value, text) in [
        (
            "type",
            json!("Other"),
            "type: Invalid value: \"\": has invalid value: Other",
        ),
        (
            "note",
            json!("n".repeat(1025)),
            "message: Invalid value: \"\": can have at most 1024 characters",
        ),
        (
            "reason",
            json!("r".repeat(129)),
            "reason: Invalid value: \"\": can have at most 128 characters",
        ),
        (
            "reportingController",
            json!("no name!"),
            "reportingController: Invalid value: \"no name!\": name part must",
        ),
        (
            "regarding",
            json!({"kind": "Lease", "name": "l"}),
            "involvedObject.namespace: Invalid value: \"\": does not",
        ),
    ] {
        let mut wrong = good.clone();
        wrong["metadata"]["name"] = "wrong".into();
        wrong[field] = value;
        let told = message(events.create(&PostParams::default(), &object(wrong)).await);
        let start = format!("Event \"wrong\" is invalid: {text}");
        assert!(told.starts_with(&start), "{told}");
    }
    let of_admin: Api<NewEvent> = ground.api(&ground.admin);
    let told = message(merge(&of_admin, "e", json!({"note": "other"})).await);
    assert_eq!(
        told,
        "Event \"e\" is invalid: message: Invalid value: \"other\": field is immutable"
    );
    let old_form: Api<CoreEvent> = ground.api(&ground.admin);
    for (fields, found) in [
        ("involvedObject.name=postgres,involvedObject.uid=u,reason=R", 1),
        (
            "involvedObject.kind=Lease,reportingComponent=pgbaton.dev/sidecar,type=Normal",
            1,
        ),
        ("involvedObject.uid=other", 0),
    ] {
        let list = old_form
            .list(&ListParams::default().fields(fields))
            .await
            .unwrap();
        assert_eq!(list.items.len(), found, "{fields}");
    }
    let list = of_admin
        .list(&ListParams::default().fields("regarding.name=postgres"))
        .await
        .unwrap();
    assert_eq!(list.items.len(), 1);
    ground.end().await;
}
