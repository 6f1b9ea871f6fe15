//! What pgbaton relies on in an API server: what it refuses, and in which words. Runs against the
//! embedded one, and with `PGBATON_CONTRACT_KUBECONFIG` against a real one (`contract/mod.rs` has the command).

use crate::contract::{Ground, leases_with_one, merge, message, object, raw, refusal, statefulset};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use serde_json::{Value, json};

const JSON: &str = "application/json";
const OPERATIONS: &str = "application/json-patch+json";
const INVALID: &str = "Invalid";

fn path(ground: &Ground, group: &str, rest: &str) -> String {
    format!("/{group}/namespaces/{}/{rest}", ground.namespace)
}

#[tokio::test]
async fn times_have_six_digits() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    for time in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123Z"] {
        for field in ["renewTime", "acquireTime"] {
            let result = merge(&leases, "postgres", json!({"spec": {field: time}})).await;
            assert_eq!(refusal(result), (422, INVALID.to_owned()), "{field} {time}");
        }
    }
    let text = message(
        merge(
            &leases,
            "postgres",
            json!({"spec": {"renewTime": "2026-01-01T00:00:00.123Z"}}),
        )
        .await,
    );
    assert!(text.contains("cannot parse \".123Z\" as \".000000\""), "{text}");
    let all = path(&ground, "apis/coordination.k8s.io/v1", "leases");
    let body = json!({"metadata": {"name": "other"}, "spec": {"renewTime": "2026-01-01T00:00:00Z"}});
    let told = raw(&ground.admin, "POST", &all, JSON, &body.to_string()).await;
    assert_eq!((told.0, told.1.as_str()), (400, "BadRequest"), "{told:?}");
    assert_eq!(leases.get("postgres").await.unwrap(), lease);
    ground.end().await;
}

#[tokio::test]
async fn a_json_patch_is_a_list_of_operations() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    let one = path(&ground, "apis/coordination.k8s.io/v1", "leases/postgres");
    let send = async |body: Value| raw(&ground.admin, "PATCH", &one, OPERATIONS, &body.to_string()).await;
    for (operations, code, reason) in [
        (
            json!([{"op": "test", "path": "/spec/holderIdentity", "value": "b"}]),
            422,
            INVALID,
        ),
        (json!([{"op": "remove", "path": "/spec/none"}]), 422, INVALID),
        (
            json!([{"op": "add", "path": "/metadata/annotations/a", "value": "b"}]),
            422,
            INVALID,
        ),
        (json!([{"op": "nonsense", "path": "/spec"}]), 422, INVALID),
        (
            json!([{"op": "replace", "path": "/spec/renewTime", "value": "x"}]),
            422,
            INVALID,
        ),
        (
            json!([{"op": "replace", "path": "/metadata/resourceVersion", "value": "1"}]),
            409,
            "Conflict",
        ),
        (
            json!([{"op": "replace", "path": "/metadata/name", "value": "b"}]),
            400,
            "BadRequest",
        ),
        (json!({"op": "test"}), 400, "BadRequest"),
    ] {
        let told = send(operations.clone()).await;
        assert_eq!(
            (told.0, told.1.as_str()),
            (code, reason),
            "{operations}: {told:?}"
        );
    }
    let version = lease.resource_version().unwrap();
    let told = send(json!([
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
        {"op": "test", "path": "/spec/holderIdentity", "value": "a"},
        {"op": "replace", "path": "/spec/holderIdentity", "value": "b"},
        {"op": "add", "path": "/metadata/annotations", "value": {"k/v": "1"}},
        {"op": "copy", "from": "/metadata/annotations/k~1v", "path": "/metadata/annotations/copied"},
        {"op": "remove", "path": "/spec/leaseDurationSeconds"},
    ]))
    .await;
    assert_eq!(told.0, 200, "{told:?}");
    let after = leases.get("postgres").await.unwrap();
    assert_eq!(after.annotations().get("copied").map(String::as_str), Some("1"));
    let spec = after.spec.unwrap();
    assert_eq!(
        (spec.holder_identity.as_deref(), spec.lease_duration_seconds),
        (Some("b"), None)
    );
    ground.end().await;
}

#[tokio::test]
async fn a_lease_is_written_on_a_version() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    let text = "leases.coordination.k8s.io \"postgres\" is invalid: metadata.resourceVersion: Invalid value: 0: must be \
                specified for an update";
    for version in [json!("0"), json!(""), Value::Null] {
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": "b"}});
        let result = merge(&leases, "postgres", patch).await;
        assert_eq!(message(result), text, "{version}");
    }
    let mut whole = lease.clone();
    whole.metadata.resource_version = None;
    assert_eq!(
        message(leases.replace("postgres", &PostParams::default(), &whole).await),
        text
    );
    let patch = json!({"metadata": {"resourceVersion": "abc"}});
    assert_eq!(refusal(merge(&leases, "postgres", patch).await).0, 500);
    let patch = json!({"metadata": {"resourceVersion": "5"}});
    assert_eq!(
        refusal(merge(&leases, "gone", patch).await),
        (404, "NotFound".to_owned())
    );

    // Of a Service the last writer wins when it names no version.
    let services: Api<Service> = ground.api(&ground.admin);
    let service = object(json!({"metadata": {"name": "postgres"}, "spec": {"ports": [{"port": 5432}]}}));
    services.create(&PostParams::default(), &service).await.unwrap();
    let patch = json!({"metadata": {"resourceVersion": "0"}, "spec": {"selector": {"app": "b"}}});
    merge(&services, "postgres", patch).await.unwrap();
    ground.end().await;
}

#[tokio::test]
async fn identities_are_not_changed() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    let text = message(merge(&leases, "postgres", json!({"metadata": {"uid": "1"}})).await);
    assert_eq!(
        text,
        "Lease.coordination.k8s.io \"postgres\" is invalid: metadata.uid: Invalid value: \"1\": field is immutable"
    );
    let mut whole = lease.clone();
    whole.metadata.uid = Some("1".to_owned());
    let result = leases.replace("postgres", &PostParams::default(), &whole).await;
    assert_eq!(refusal(result), (409, "Conflict".to_owned()));
    let patch = json!({"metadata": {"namespace": "elsewhere"}});
    assert_eq!(refusal(merge(&leases, "postgres", patch).await).0, 400);
    let own = json!({"metadata": {"generation": 77, "creationTimestamp": null, "uid": null}});
    let same = merge(&leases, "postgres", own).await.unwrap();
    assert_eq!(same, lease, "the server's own fields are not a client's to write");

    for (preconditions, end) in [
        (
            Preconditions {
                uid: Some("1".to_owned()),
                resource_version: None,
            },
            "deleted and then recreated",
        ),
        (
            Preconditions {
                uid: None,
                resource_version: Some("1".to_owned()),
            },
            "modified",
        ),
    ] {
        let wrong = DeleteParams::default().preconditions(preconditions);
        let text = message(leases.delete("postgres", &wrong).await);
        assert!(
            text.starts_with("Operation cannot be fulfilled on Lease.coordination.k8s.io \"postgres\": the ")
                && text.ends_with(&format!("The object might have been {end}")),
            "{text}"
        );
    }
    ground.end().await;
}

#[tokio::test]
async fn names_and_labels_have_forms() {
    let ground = Ground::new().await;
    let (leases, _) = leases_with_one(&ground).await;
    for metadata in [
        json!({"labels": {"l": "bad value"}}),
        json!({"labels": {"Bad Key": "v"}}),
        json!({"labels": {"l": "v".repeat(64)}}),
        json!({"annotations": {"Bad/Prefix/x": "v"}}),
        json!({"annotations": {"number": 5}}),
    ] {
        let result = merge(&leases, "postgres", json!({ "metadata": metadata })).await;
        assert_eq!(refusal(result), (422, INVALID.to_owned()), "{metadata}");
    }
    let text = message(
        merge(
            &leases,
            "postgres",
            json!({"metadata": {"labels": {"l": "bad value"}}}),
        )
        .await,
    );
    let start = "Lease.coordination.k8s.io \"postgres\" is invalid: metadata.labels: Invalid value: \"bad value\": a \
                 valid label must be an empty string or consist of alphanumeric characters";
    assert!(text.starts_with(start), "{text}");
    let good = json!({"metadata": {"labels": {"pgbaton.dev/role": "", "l": "a_b.C"}, "annotations": {"x": "any text"}}});
    merge(&leases, "postgres", good).await.unwrap();
    for (name, good) in [("A_b", false), ("a.b-1", true)] {
        let lease = object(json!({"metadata": {"name": name}}));
        assert_eq!(
            leases.create(&PostParams::default(), &lease).await.is_ok(),
            good,
            "{name}"
        );
    }
    let services: Api<Service> = ground.api(&ground.admin);
    for (name, ports, good) in [
        ("a.b", json!([{"port": 1}]), false),
        ("1a", json!([{"port": 1}]), false),
        ("a", json!([{"port": 1}, {"port": 2}]), false),
        ("b", json!([]), false),
        (
            "c",
            json!([{"port": 1, "name": "x"}, {"port": 2, "name": "y"}]),
            true,
        ),
    ] {
        let service = object(json!({"metadata": {"name": name}, "spec": {"ports": ports}}));
        let result = services.create(&PostParams::default(), &service).await;
        assert_eq!(result.is_ok(), good, "{name} {ports}: {result:?}");
    }
    ground.end().await;
}

/// method | path below the namespace | media type | body | code | part of the message
const WRONG: &str = r#"
POST | L | json | {} | 422 | name or generateName is required
POST | L | json | {"kind":"Pod","metadata":{"name":"x"}} | 400 |
POST | L | json | {"apiVersion":"v2","metadata":{"name":"x"}} | 400 |
POST | L | json | {"metadata":{"name":"x","namespace":"elsewhere"}} | 400 | does not match the namespace
POST | L | json | {"metadata":{"name":"x","resourceVersion":"5"}} | 500 | should not be set on objects to be created
POST | L?dryRun=x | json | {"metadata":{"name":"x"}} | 422 | CreateOptions.meta.k8s.io "" is invalid: dryRun
PATCH | L/postgres?dryRun=x | merge-patch+json | {} | 422 | PatchOptions.meta.k8s.io "" is invalid: dryRun
PATCH | L/postgres | merge-patch+json | [] | 400 |
PATCH | L/postgres | merge-patch+json | "x" | 400 |
PATCH | L/postgres | strategic-merge-patch+json | [] | 400 |
PATCH | L/none | merge-patch+json | [] | 404 | not found
PATCH | L | merge-patch+json | {} | 405 |
PATCH | L/postgres/status | merge-patch+json | {} | 404 |
PATCH | S/s | strategic-merge-patch+json | {"spec":{"template":{"spec":{"initContainers":[{"name":"init","env":[{"value":"1"}]}]}}}} | 500 | does not contain declared merge key: name
PATCH | S/s | strategic-merge-patch+json | {"spec":{"template":{"spec":{"containers":[{"name":"c","env":[{"value":"1"}]}]}}}} | 422 | spec.template.spec.containers[0].env[0].name: Required value
PUT | L/postgres | json | {"metadata":{"name":"x"}} | 400 | does not match the name on the URL
DELETE | L/postgres?propagationPolicy=x | json | | 422 | DeleteOptions.meta.k8s.io "" is invalid: propagationPolicy
DELETE | L/none | json | | 404 | leases.coordination.k8s.io "none" not found
GET | L?watch=1&resourceVersion=x | json | | 500 | strconv.ParseUint: parsing "x": invalid syntax
GET | L?watch=1&timeoutSeconds=x | json | | 400 |
GET | L?fieldSelector=spec.x%3D1 | json | | 400 | "spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"
GET | S?fieldSelector=spec.x%3D1 | json | | 400 | "spec.x" is not a known field selector: only "metadata.name", "metadata.namespace"
GET | P?fieldSelector=spec.x%3D1 | json | | 400 | field label not supported: spec.x
GET | V?fieldSelector=spec.x%3D1 | json | | 400 | field label not supported: spec.x
GET | L?labelSelector=a%20b | json | | 400 | unable to parse requirement
"#;

#[tokio::test]
async fn requests_with_wrong_values() {
    let ground = Ground::new().await;
    let (leases, lease) = leases_with_one(&ground).await;
    let sets: Api<StatefulSet> = ground.api(&ground.admin);
    sets.create(&PostParams::default(), &statefulset("s"))
        .await
        .unwrap();
    for line in WRONG.lines().filter(|line| !line.is_empty()) {
        let [method, place, media, body, code, part] = line
            .split('|')
            .map(str::trim)
            .collect::<Vec<_>>()
            .try_into()
            .unwrap();
        let (group, plural) = match &place[..1] {
            "L" => ("apis/coordination.k8s.io/v1", "leases"),
            "S" => ("apis/apps/v1", "statefulsets"),
            "P" => ("api/v1", "pods"),
            _ => ("api/v1", "services"),
        };
        let at = path(&ground, group, &format!("{plural}{}", &place[1..]));
        let told = raw(&ground.admin, method, &at, &format!("application/{media}"), body).await;
        assert_eq!(told.0.to_string(), code, "{line}: {told:?}");
        assert!(told.2.contains(part), "{line}: {told:?}");
    }
    assert_eq!(
        leases.get("postgres").await.unwrap(),
        lease,
        "a refused request changes nothing"
    );
    ground.end().await;
}
