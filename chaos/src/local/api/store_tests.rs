//! The rules of the store, one by one.

use super::kinds::{self, Kind};
use super::patch::PatchType;
use super::selector::Selector;
use super::store::Store;
use super::types::{ChangeType, DeleteOptions, Deleted, Fresh, Part, Propagation, Target};
use jiff::Timestamp;
use serde_json::{Value, json};

fn fresh() -> Fresh {
    Fresh {
        now: Timestamp::UNIX_EPOCH,
        uid: "uid-1".to_owned(),
        suffix: "abcde".to_owned(),
    }
}

fn target(kind: Kind, name: &str) -> Target<'_> {
    Target {
        resource: kind.resource(),
        namespace: "db",
        name,
        part: Part::Object,
        dry_run: false,
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap()
}

fn store_with_lease() -> Store {
    let mut store = Store::new(100, 10);
    let body = json!({"metadata": {"name": "postgres"}, "spec": {"holderIdentity": "a", "leaseDurationSeconds": 10}});
    store.create(&target(Kind::Lease, ""), body, &fresh()).unwrap();
    store
}

fn merge(store: &mut Store, kind: Kind, name: &str, patch: &Value) -> Result<Value, u16> {
    store
        .patch(&target(kind, name), PatchType::Merge, patch)
        .map(|o| o.as_ref().clone())
        .map_err(|e| e.code)
}

fn statefulset() -> Value {
    json!({"metadata": {"name": "postgres-1"}, "spec": {
        "serviceName": "postgres-1", "selector": {"matchLabels": {"app": "p1"}},
        "template": {"metadata": {"labels": {"app": "p1"}}, "spec": {"containers": [{"name": "postgres"}]}}}})
}

#[test]
fn a_swap_on_an_old_version_is_refused_and_changes_nothing() {
    let mut store = store_with_lease();
    let seen = store.find(Kind::Lease, "db", "postgres").unwrap();
    let swap = |holder: &str| json!({"metadata": {"resourceVersion": seen["metadata"]["resourceVersion"]}, "spec": {"holderIdentity": holder}});
    let won = merge(&mut store, Kind::Lease, "postgres", &swap("b")).unwrap();
    assert!(version(&won) > version(&seen));
    assert_eq!(
        merge(&mut store, Kind::Lease, "postgres", &swap("c")).unwrap_err(),
        409
    );
    assert_eq!(*store.find(Kind::Lease, "db", "postgres").unwrap(), won);
    let other = json!({"metadata": {"uid": "another"}});
    assert_eq!(
        merge(&mut store, Kind::Lease, "postgres", &other).unwrap_err(),
        422
    );
    let nonsense = json!({"metadata": {"resourceVersion": "x"}});
    assert_eq!(
        merge(&mut store, Kind::Lease, "postgres", &nonsense).unwrap_err(),
        500
    );
}

#[test]
fn a_write_without_effect_keeps_the_version() {
    let mut store = store_with_lease();
    let before = store.version();
    for patch in [
        json!({}),
        json!({"spec": {"holderIdentity": "a"}}),
        json!({"metadata": {"annotations": {}}}),
        json!({"metadata": {"annotations": {"x": null}}}),
        json!({"unknown": 1}),
    ] {
        merge(&mut store, Kind::Lease, "postgres", &patch).unwrap();
        assert_eq!(store.version(), before, "{patch}");
    }
    let dry = Target {
        dry_run: true,
        ..target(Kind::Lease, "postgres")
    };
    let patch = json!({"spec": {"holderIdentity": "z"}});
    let shown = store.patch(&dry, PatchType::Merge, &patch).unwrap();
    assert_eq!(shown["spec"]["holderIdentity"], "z");
    assert_eq!(
        store.find(Kind::Lease, "db", "postgres").unwrap()["spec"]["holderIdentity"],
        "a"
    );
}

#[test]
fn clients_cannot_set_what_is_the_servers() {
    let mut store = store_with_lease();
    let patch = json!({"metadata": {"creationTimestamp": "2020-01-01T00:00:00Z", "generation": 7, "labels": {"a": "b"}}});
    let got = merge(&mut store, Kind::Lease, "postgres", &patch).unwrap();
    assert_eq!(got["metadata"]["creationTimestamp"], "1970-01-01T00:00:00Z");
    assert!(got["metadata"].get("generation").is_none());
    assert_eq!(got["metadata"]["uid"], "uid-1");
    assert_eq!(
        merge(
            &mut store,
            Kind::Lease,
            "postgres",
            &json!({"metadata": {"name": "b"}})
        ),
        Err(400)
    );
    assert_eq!(
        merge(
            &mut store,
            Kind::Lease,
            "postgres",
            &json!({"metadata": {"namespace": "b"}})
        ),
        Err(400)
    );
    assert_eq!(
        merge(
            &mut store,
            Kind::Lease,
            "postgres",
            &json!({"spec": {"leaseTransitions": "x"}})
        ),
        Err(422)
    );
    assert_eq!(merge(&mut store, Kind::Lease, "postgres", &json!([1])), Err(400));
}

#[test]
fn put_wants_a_version_for_a_lease() {
    let mut store = store_with_lease();
    let at = target(Kind::Lease, "postgres");
    let body = |v: &str| json!({"metadata": {"name": "postgres", "resourceVersion": v}, "spec": {"holderIdentity": "b"}});
    let code = |store: &mut Store, v: &str| store.replace(&at, body(v), &fresh()).map_err(|e| e.code);
    assert_eq!(code(&mut store, "").unwrap_err(), 422);
    assert_eq!(code(&mut store, "1").unwrap_err(), 409);
    let current = store.version().to_string();
    let (changed, created) = code(&mut store, &current).unwrap();
    assert!(!created);
    assert!(
        changed["spec"].get("leaseDurationSeconds").is_none(),
        "a PUT replaces the whole object"
    );
}

#[test]
fn statefulset_rules() {
    let mut store = Store::new(100, 10);
    let made = store
        .create(&target(Kind::StatefulSet, ""), statefulset(), &fresh())
        .unwrap();
    assert_eq!(
        made["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let patch = |store: &mut Store, spec: Value| {
        merge(store, Kind::StatefulSet, "postgres-1", &json!({"spec": spec}))
    };
    assert_eq!(
        patch(&mut store, json!({"updateStrategy": {"type": "OnDelete"}})),
        Err(422)
    );
    let switched = patch(
        &mut store,
        json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}),
    )
    .unwrap();
    assert_eq!(switched["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    assert_eq!(switched["metadata"]["generation"], 2);
    for fixed in [
        json!({"serviceName": "other"}),
        json!({"selector": {"matchLabels": {"b": "c"}}}),
        json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]}),
        json!({"template": {"metadata": {"labels": {"app": "else"}}}}),
    ] {
        assert_eq!(patch(&mut store, fixed.clone()), Err(422), "{fixed}");
    }
    let labelled = merge(
        &mut store,
        Kind::StatefulSet,
        "postgres-1",
        &json!({"metadata": {"labels": {"a": "b"}}}),
    )
    .unwrap();
    assert_eq!(
        labelled["metadata"]["generation"], 2,
        "only the spec counts as a generation"
    );
}

#[test]
fn status_and_the_rest_are_written_apart() {
    let mut store = Store::new(100, 10);
    store
        .create(&target(Kind::StatefulSet, ""), statefulset(), &fresh())
        .unwrap();
    let patch = json!({"status": {"replicas": 1}, "spec": {"replicas": 0}});
    let got = merge(&mut store, Kind::StatefulSet, "postgres-1", &patch).unwrap();
    assert_eq!(
        (got.pointer("/status/replicas"), &got["spec"]["replicas"]),
        (None, &json!(0))
    );
    let status = Target {
        part: Part::Status,
        ..target(Kind::StatefulSet, "postgres-1")
    };
    let patch = json!({"status": {"replicas": 1}, "spec": {"replicas": 5}});
    let got = store.patch(&status, PatchType::Merge, &patch).unwrap();
    assert_eq!(
        (&got["status"]["replicas"], &got["spec"]["replicas"]),
        (&json!(1), &json!(0))
    );
}

#[test]
fn a_pod_on_a_node_is_marked_first() {
    let mut store = Store::new(100, 10);
    let pod = |name: &str, node: Value| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c"}]}});
    store
        .create(&target(Kind::Pod, ""), pod("on", json!("n1")), &fresh())
        .unwrap();
    store
        .create(&target(Kind::Pod, ""), pod("off", Value::Null), &fresh())
        .unwrap();
    let delete = |store: &mut Store, name: &str, grace| {
        let options = DeleteOptions {
            grace_seconds: grace,
            ..DeleteOptions::default()
        };
        store
            .delete(&target(Kind::Pod, name), &options, &fresh())
            .unwrap()
    };
    let Deleted::Terminating(marked) = delete(&mut store, "on", None) else {
        panic!("gone at once")
    };
    assert_eq!(marked["metadata"]["deletionTimestamp"], "1970-01-01T00:00:30Z");
    let Deleted::Terminating(again) = delete(&mut store, "on", Some(60)) else {
        panic!("gone at once")
    };
    assert_eq!(version(&again), version(&marked), "a grace is never made longer");
    assert!(matches!(delete(&mut store, "on", Some(0)), Deleted::Gone(_)));
    assert!(matches!(delete(&mut store, "off", None), Deleted::Gone(_)));
    assert!(store.list(Kind::Pod, None, &Selector::default()).is_empty());
}

#[test]
fn deletion_checks_its_conditions_and_tells_what_becomes_of_the_owned() {
    let mut store = store_with_lease();
    let at = target(Kind::Lease, "postgres");
    let other = DeleteOptions {
        uid: Some("another".to_owned()),
        ..DeleteOptions::default()
    };
    assert_eq!(store.delete(&at, &other, &fresh()).unwrap_err().code, 409);
    let before = store.version();
    let orphan = DeleteOptions {
        propagation: Propagation::Orphan,
        ..DeleteOptions::default()
    };
    store.delete(&at, &orphan, &fresh()).unwrap();
    let changes = store.changes_after(Kind::Lease, before).unwrap();
    assert_eq!(
        (changes[0].change, changes[0].propagation),
        (ChangeType::Deleted, Some(Propagation::Orphan))
    );
    assert!(version(&changes[0].object) > before);
    assert_eq!(store.delete(&at, &orphan, &fresh()).unwrap_err().code, 404);
}

#[test]
fn the_log_of_changes_is_bounded_for_each_kind() {
    let mut store = Store::new(3, 10);
    let body = json!({"metadata": {"name": "postgres"}});
    store.create(&target(Kind::Lease, ""), body, &fresh()).unwrap();
    let start = store.version();
    for n in 0..5 {
        merge(
            &mut store,
            Kind::Lease,
            "postgres",
            &json!({"spec": {"leaseTransitions": n}}),
        )
        .unwrap();
    }
    let error = store.changes_after(Kind::Lease, start).unwrap_err();
    assert_eq!((error.code, error.reason), (410, "Expired"));
    assert_eq!(store.changes_after(Kind::Lease, start + 2).unwrap().len(), 3);
    assert!(
        store.changes_after(Kind::Service, 0).unwrap().is_empty(),
        "other kinds have logs of their own"
    );
    store.forget_changes();
    assert_eq!(store.changes_after(Kind::Lease, start + 2).unwrap_err().code, 410);
    assert!(
        store
            .changes_after(Kind::Lease, store.version())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn events_are_capped_and_their_rules_hold() {
    let mut store = Store::new(100, 3);
    let resource = kinds::find("events.k8s.io", "v1", "events").unwrap();
    let at = Target {
        resource,
        ..target(Kind::Event, "")
    };
    let event = |name: &str| {
        json!({"metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reason": "R", "action": "A", "reportingController": "c", "reportingInstance": "i",
            "regarding": {"kind": "Lease", "name": "postgres", "namespace": "db"}, "note": "hello"})
    };
    for name in ["z", "y", "x", "w"] {
        store.create(&at, event(name), &fresh()).unwrap();
    }
    let left = store.list(Kind::Event, None, &Selector::default());
    let names: Vec<_> = left
        .iter()
        .map(|e| e["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["w", "x", "y"], "the oldest went");
    for (field, value) in [
        ("action", Value::Null),
        ("eventTime", Value::Null),
        ("type", json!("Bad")),
        ("note", json!("x".repeat(1025))),
        ("regarding", json!({"kind": "Lease", "namespace": "other"})),
    ] {
        let mut wrong = event("wrong");
        wrong[field] = value;
        assert_eq!(
            store.create(&at, wrong, &fresh()).unwrap_err().code,
            422,
            "{field}"
        );
    }
}

#[test]
fn names_are_made_and_checked() {
    let mut store = Store::new(100, 10);
    let create = |store: &mut Store, metadata: Value| {
        store
            .create(&target(Kind::Lease, ""), json!({"metadata": metadata}), &fresh())
            .map_err(|e| e.code)
    };
    assert_eq!(
        create(&mut store, json!({"generateName": "a-"})).unwrap()["metadata"]["name"],
        "a-abcde"
    );
    assert_eq!(
        create(&mut store, json!({"generateName": "a-"})).unwrap_err(),
        409
    );
    assert_eq!(create(&mut store, json!({})).unwrap_err(), 422);
    assert_eq!(create(&mut store, json!({"name": "Bad_Name"})).unwrap_err(), 422);
    assert_eq!(
        create(&mut store, json!({"name": "x", "namespace": "other"})).unwrap_err(),
        400
    );
    assert_eq!(
        create(&mut store, json!({"name": "x", "resourceVersion": "5"})).unwrap_err(),
        500
    );
    assert_eq!(create(&mut store, json!("text")).unwrap_err(), 400);
}

#[test]
fn a_secrets_plain_data_is_encoded() {
    let mut store = Store::new(100, 10);
    let body = json!({"metadata": {"name": "s"}, "stringData": {"password": "secret"}});
    let secret = store.create(&target(Kind::Secret, ""), body, &fresh()).unwrap();
    assert_eq!(secret["data"], json!({"password": "c2VjcmV0"}));
    assert!(secret.get("stringData").is_none());
}
