//! What pgbaton relies on in an API server: watches and rights. Runs against the embedded one, and with
//! `PGBATON_CONTRACT_KUBECONFIG` against a real one.

#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]

mod contract;

use contract::{Ground, MEMBER, leases_with_one, merge, message, number, object, refusal};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use serde_json::json;
use std::time::Duration;

/// The next event that is no bookmark: its word, the holder or name it is about, and the object.
async fn next(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<Lease>>> + Unpin),
) -> (&'static str, Lease) {
    loop {
        let event = tokio::time::timeout(Duration::from_secs(30), events.next())
            .await
            .unwrap();
        return match event.unwrap().unwrap() {
            WatchEvent::Added(lease) => ("ADDED", lease),
            WatchEvent::Modified(lease) => ("MODIFIED", lease),
            WatchEvent::Deleted(lease) => ("DELETED", lease),
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => panic!("{status:?}"),
        };
    }
}

#[tokio::test]
async fn a_watch_tells_what_is_and_what_changes() {
    let ground = Ground::new().await;
    let (leases, made) = leases_with_one(&ground).await;
    let only = WatchParams::default()
        .fields("metadata.name=postgres")
        .timeout(60);
    let mut from_now = leases.watch(&only, "0").await.unwrap().boxed();
    let mut since = leases
        .watch(&only, &made.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    assert_eq!(next(&mut from_now).await, ("ADDED", made.clone()));

    let other = object(json!({"metadata": {"name": "other"}}));
    leases.create(&PostParams::default(), &other).await.unwrap();
    let changed = merge(&leases, "postgres", json!({"spec": {"holderIdentity": "b"}}))
        .await
        .unwrap();
    assert_eq!(next(&mut from_now).await, ("MODIFIED", changed.clone()));
    assert_eq!(
        next(&mut since).await,
        ("MODIFIED", changed.clone()),
        "nothing from before, nothing of others"
    );

    leases.delete("postgres", &DeleteParams::default()).await.unwrap();
    let (word, gone) = next(&mut since).await;
    assert_eq!((word, gone.uid()), ("DELETED", changed.uid()));
    assert!(
        number(&gone) > number(&changed),
        "a deletion has a version of its own"
    );
    let again = object(json!({"metadata": {"name": "postgres"}}));
    let again = leases.create(&PostParams::default(), &again).await.unwrap();
    assert_eq!(next(&mut since).await, ("ADDED", again.clone()));
    assert_ne!(again.uid(), made.uid());
    ground.end().await;
}

#[tokio::test]
async fn a_watch_by_label_sees_objects_come_and_go() {
    let ground = Ground::new().await;
    let (leases, made) = leases_with_one(&ground).await;
    let only = WatchParams::default().labels("role=leader").timeout(60);
    let mut events = leases
        .watch(&only, &made.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    for (value, word) in [(json!("leader"), "ADDED"), (json!("standby"), "DELETED")] {
        merge(
            &leases,
            "postgres",
            json!({"metadata": {"labels": {"role": value}}}),
        )
        .await
        .unwrap();
        assert_eq!(next(&mut events).await.0, word);
    }
    ground.end().await;
}

#[tokio::test]
async fn a_watch_ends_in_its_time_and_an_old_version_is_gone() {
    let ground = Ground::new().await;
    let (leases, made) = leases_with_one(&ground).await;
    let short = WatchParams::default().timeout(1);
    let mut events = leases
        .watch(&short, &made.resource_version().unwrap())
        .await
        .unwrap()
        .boxed();
    let end = async {
        while let Some(event) = events.next().await {
            assert!(matches!(event, Ok(WatchEvent::Bookmark(_))), "{event:?}");
        }
    };
    tokio::time::timeout(Duration::from_secs(30), end).await.unwrap();

    for n in 1..40 {
        merge(&leases, "postgres", json!({"spec": {"leaseTransitions": n}}))
            .await
            .unwrap();
    }
    let mut events = leases.watch(&WatchParams::default(), "1").await.unwrap().boxed();
    let first = tokio::time::timeout(Duration::from_secs(30), events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let WatchEvent::Error(status) = first else {
        panic!("{first:?}")
    };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    ground.end().await;
}

#[tokio::test]
async fn rights_by_name() {
    let ground = Ground::new().await;
    let _ = leases_with_one(&ground).await;
    let leases: Api<Lease> = ground.api(&ground.member);
    leases.get("postgres").await.unwrap();
    merge(&leases, "postgres", json!({"spec": {"holderIdentity": "m"}}))
        .await
        .unwrap();
    leases
        .list(&ListParams::default().fields("metadata.name=postgres"))
        .await
        .unwrap();
    let by_name = WatchParams::default().fields("metadata.name=postgres").timeout(5);
    let mut events = leases.watch(&by_name, "0").await.unwrap().boxed();
    assert_eq!(next(&mut events).await.0, "ADDED");
    let forbidden = |result: (u16, String)| assert_eq!(result, (403, "Forbidden".to_owned()));
    forbidden(refusal(leases.list(&ListParams::default()).await));
    forbidden(refusal(leases.get("other").await));
    // The client reads an answer to a watch as the stream, a refusal too.
    let mut refused = leases.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    forbidden(refusal(refused.next().await.unwrap()));
    forbidden(refusal(
        leases
            .create(
                &PostParams::default(),
                &object(json!({"metadata": {"name": "x"}})),
            )
            .await,
    ));
    forbidden(refusal(leases.delete("postgres", &DeleteParams::default()).await));
    let text = message(merge(&leases, "other", json!({})).await);
    let ns = &ground.namespace;
    assert_eq!(
        text,
        format!(
            "leases.coordination.k8s.io \"other\" is forbidden: User \"{MEMBER}\" cannot patch resource \"leases\" in \
             API group \"coordination.k8s.io\" in the namespace \"{ns}\""
        )
    );
    let services: Api<Service> = ground.api(&ground.member);
    let text = message(services.list(&ListParams::default()).await);
    assert_eq!(
        text,
        format!(
            "services is forbidden: User \"{MEMBER}\" cannot list resource \"services\" in API group \"\" in the \
             namespace \"{ns}\""
        )
    );
    let unknown: Api<Lease> = ground.api(&ground.stranger);
    assert_eq!(
        refusal(unknown.get("postgres").await),
        (401, "Unauthorized".to_owned())
    );
    ground.end().await;
}

#[tokio::test]
async fn one_can_ask_for_ones_rights() {
    let ground = Ground::new().await;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(ground.member.clone());
    for (verb, name, allowed) in [
        ("patch", "postgres", true),
        ("patch", "other", false),
        ("delete", "postgres", false),
        ("create", "", false),
    ] {
        let review = object(
            json!({"spec": {"resourceAttributes": {"namespace": ground.namespace, "verb": verb,
            "group": "coordination.k8s.io", "resource": "leases", "name": name}}}),
        );
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap();
        assert_eq!(answer.status.unwrap().allowed, allowed, "{verb} {name}");
    }
    ground.end().await;
}
