//! What only the embedded API server has: faults on order, counters, the rig's own access.

#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]

mod contract;

use contract::{client_for, object, refusal};
use futures_util::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use pgbaton_chaos::local::api::{
    ADMIN, ApiServer, ChangeType, Cut, DeleteOptions, Kind, Options, PatchType, Propagation, Rule,
};
use serde_json::{Value, json};
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(30);

async fn server() -> (ApiServer, Api<Lease>) {
    let server = ApiServer::start("127.0.0.1:0".parse().unwrap(), Options::default())
        .await
        .unwrap();
    server
        .create(Kind::Lease, "contract", json!({"metadata": {"name": "postgres"}}))
        .unwrap();
    let leases = leases(&server, ADMIN).await;
    (server, leases)
}

async fn leases(server: &ApiServer, user: &str) -> Api<Lease> {
    let client: Client = client_for(server, user).await;
    Api::namespaced(client, "contract")
}

async fn hold(leases: &Api<Lease>, holder: &str) -> kube::Result<Lease> {
    let patch = Patch::Merge(json!({"spec": {"holderIdentity": holder}}));
    leases.patch("postgres", &PatchParams::default(), &patch).await
}

fn holder(server: &ApiServer) -> Value {
    server.get(Kind::Lease, "contract", "postgres").unwrap()["spec"]["holderIdentity"].clone()
}

#[tokio::test]
async fn down_refuses_and_keeps_everything() {
    let (server, leases) = server().await;
    hold(&leases, "a").await.unwrap();
    let mut events = leases.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))));
    server.down().await;
    let end = async { while let Some(Ok(_)) = events.next().await {} };
    tokio::time::timeout(BOUND, end).await.unwrap();
    assert!(tokio::net::TcpStream::connect(server.address()).await.is_err());
    assert!(leases.get("postgres").await.is_err());
    server
        .patch(
            Kind::Lease,
            "contract",
            "postgres",
            PatchType::Merge,
            &json!({"spec": {"holderIdentity": "b"}}),
        )
        .unwrap();
    server.up().await.unwrap();
    server.up().await.unwrap();
    assert_eq!(
        leases
            .get("postgres")
            .await
            .unwrap()
            .spec
            .unwrap()
            .holder_identity
            .as_deref(),
        Some("b")
    );
    assert_eq!(server.requests().watches_of(ADMIN).open, 0);
}

#[tokio::test]
async fn a_restart_makes_old_versions_expire() {
    let (server, leases) = server().await;
    let before = leases
        .get("postgres")
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    hold(&leases, "a").await.unwrap();
    server.restart().await.unwrap();
    let mut events = leases
        .watch(&WatchParams::default(), &before)
        .await
        .unwrap()
        .boxed();
    let first = events.next().await.unwrap().unwrap();
    assert!(
        matches!(&first, WatchEvent::Error(s) if s.code == 410),
        "{first:?}"
    );
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn failures_are_counted_down_and_change_nothing() {
    let (server, leases) = server().await;
    server.fail_next(2, 503);
    assert_eq!(
        refusal(hold(&leases, "a").await),
        (503, "ServiceUnavailable".to_owned())
    );
    assert_eq!(refusal(hold(&leases, "a").await).0, 503);
    assert_eq!(holder(&server), Value::Null);
    hold(&leases, "a").await.unwrap();
}

#[tokio::test]
async fn a_lost_answer_has_had_its_effect() {
    let (server, leases) = server().await;
    let mut changes = server.subscribe();
    server.drop_reply_next("patch", "Lease");
    leases.get("postgres").await.unwrap();
    let patch = hold(&leases, "a");
    tokio::pin!(patch);
    // The change comes; the answer does not, for as long as the change is on its way and a little after.
    tokio::select! {
        answer = &mut patch => panic!("answered: {answer:?}"),
        change = changes.recv() => assert_eq!(change.unwrap().object["spec"]["holderIdentity"], "a"),
    }
    assert!(
        tokio::time::timeout(Duration::from_millis(200), patch)
            .await
            .is_err()
    );
    assert_eq!(
        hold(&leases, "b")
            .await
            .unwrap()
            .spec
            .unwrap()
            .holder_identity
            .as_deref(),
        Some("b")
    );
}

#[tokio::test]
async fn a_silent_cut_stands_still_for_one_user_only() {
    let (server, leases_of_admin) = server().await;
    server.add_user("m1", "t1", vec![Rule::new(&["*"], "*", &["*"])]);
    let member = leases(&server, "m1").await;
    let mut events = member
        .watch(&WatchParams::default().disable_bookmarks(), "0")
        .await
        .unwrap()
        .boxed();
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))));
    server.cut_user("m1", true);
    let waiting = hold(&member, "m1");
    tokio::pin!(waiting);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), &mut waiting)
            .await
            .is_err()
    );
    assert_eq!(holder(&server), Value::Null, "a request in the cut has no effect");
    hold(&leases_of_admin, "admin").await.unwrap();
    assert!(
        tokio::time::timeout(Duration::from_millis(200), events.next())
            .await
            .is_err()
    );
    server.cut_user("m1", false);
    tokio::time::timeout(BOUND, waiting).await.unwrap().unwrap();
    let event = tokio::time::timeout(BOUND, events.next()).await.unwrap();
    assert!(matches!(event, Some(Ok(WatchEvent::Modified(_)))), "{event:?}");
}

#[tokio::test]
async fn a_request_given_up_in_a_cut_never_lands() {
    let (server, leases_of_admin) = server().await;
    server.add_user("m1", "t1", vec![Rule::new(&["*"], "*", &["*"])]);
    let member = leases(&server, "m1").await;
    server.cut_user("m1", true);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), hold(&member, "m1"))
            .await
            .is_err()
    );
    drop(member);
    // The admin's connection being served shows that the server has had its turn to see the other one close.
    for n in 0..20 {
        hold(&leases_of_admin, &format!("admin-{n}")).await.unwrap();
    }
    let mut changes = server.subscribe();
    server.cut_user("m1", false);
    hold(&leases_of_admin, "last").await.unwrap();
    assert_eq!(
        changes.recv().await.unwrap().object["spec"]["holderIdentity"],
        "last"
    );
}

#[tokio::test]
async fn a_closing_cut_ends_connections() {
    let (server, _) = server().await;
    server.add_user("m1", "t1", vec![Rule::new(&["*"], "*", &["*"])]);
    let member = leases(&server, "m1").await;
    let mut events = member.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(events.next().await, Some(Ok(WatchEvent::Added(_)))));
    server.cut_user_as("m1", Some(Cut::Closed));
    let end = async { while let Some(Ok(_)) = events.next().await {} };
    tokio::time::timeout(BOUND, end).await.unwrap();
    let answer = tokio::time::timeout(BOUND, hold(&member, "m1")).await.unwrap();
    assert!(!matches!(answer, Ok(_) | Err(kube::Error::Api(_))), "{answer:?}");
    server.cut_user_as("m1", None);
    hold(&member, "m1").await.unwrap();
}

#[tokio::test]
async fn latency_delays_and_everybody_can_be_cut() {
    let (server, leases) = server().await;
    server.latency(Duration::from_millis(300));
    let started = std::time::Instant::now();
    hold(&leases, "a").await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_millis(300),
        "it waited at least as long as ordered"
    );
    server.latency(Duration::ZERO);
    server.cut_everyone(Some(Cut::Silent));
    assert!(
        tokio::time::timeout(Duration::from_millis(200), hold(&leases, "b"))
            .await
            .is_err()
    );
    server.cut_everyone(None);
    hold(&leases, "c").await.unwrap();
}

#[tokio::test]
async fn requests_are_counted_by_user_verb_and_kind() {
    let (server, leases_of_admin) = server().await;
    server.add_user("m1", "t1", Vec::new());
    let before = server.requests();
    let member = leases(&server, "m1").await;
    assert_eq!(refusal(member.get("postgres").await).0, 403);
    hold(&leases_of_admin, "a").await.unwrap();
    hold(&leases_of_admin, "b").await.unwrap();
    let mut events = leases_of_admin
        .watch(&WatchParams::default(), "0")
        .await
        .unwrap()
        .boxed();
    assert!(events.next().await.is_some());
    let now = server.requests().since(&before);
    assert_eq!(now.count(ADMIN, "patch", "leases"), 2);
    assert_eq!(now.of(ADMIN), 2, "a watch is no request");
    assert_eq!((now.watches_of(ADMIN).opened, now.watches_of(ADMIN).open), (1, 1));
    assert_eq!(now.count("m1", "get", "leases"), 1, "a refused request counts");
}

#[tokio::test]
async fn the_rig_sees_every_change() {
    let (server, leases) = server().await;
    let mut changes = server.subscribe();
    let lease = object(json!({"metadata": {"name": "x"}}));
    leases.create(&PostParams::default(), &lease).await.unwrap();
    leases.delete("x", &DeleteParams::orphan()).await.unwrap();
    let added = changes.recv().await.unwrap();
    assert_eq!(
        (added.change, added.kind, &added.object["metadata"]["name"]),
        (ChangeType::Added, Kind::Lease, &json!("x"))
    );
    let deleted = changes.recv().await.unwrap();
    assert_eq!(
        (deleted.change, deleted.propagation),
        (ChangeType::Deleted, Some(Propagation::Orphan))
    );
    server
        .delete(Kind::Lease, "contract", "postgres", &DeleteOptions::default())
        .unwrap();
    assert!(server.list(Kind::Lease, "contract").is_empty());
    assert_eq!(refusal(hold(&leases, "a").await).0, 404);
}

#[tokio::test]
async fn patches_that_are_not_served_say_so() {
    let (_server, leases) = server().await;
    let apply = Patch::Apply(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {}}));
    let result = leases
        .patch("postgres", &PatchParams::apply("test"), &apply)
        .await;
    assert_eq!(refusal(result), (415, "UnsupportedMediaType".to_owned()));
}

#[tokio::test]
async fn the_server_is_for_this_machine_only() {
    let result = ApiServer::start("0.0.0.0:0".parse().unwrap(), Options::default()).await;
    assert!(result.unwrap_err().to_string().contains("no loopback address"));
}
