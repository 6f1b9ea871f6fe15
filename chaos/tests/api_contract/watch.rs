//! What pgbaton relies on in an API server: watches and rights. Runs against the embedded one, and with
//! `PGBATON_CONTRACT_KUBECONFIG` against a real one.

use crate::contract::{Ground, leases_with_one, merge, message, number, object, refusal};
use futures_util::{Stream, StreamExt};
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube::api::{Api, DeleteParams, ListParams, PostParams, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
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
    // From nothing with bookmarks is a streamed list, which needs an etcd of 3.4.25 at least; pgbaton asks without.
    let from_nothing = only.clone().disable_bookmarks();
    let mut from_now = leases.watch(&from_nothing, "0").await.unwrap().boxed();
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
    let by_name = WatchParams::default()
        .fields("metadata.name=postgres")
        .timeout(5)
        .disable_bookmarks();
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
    let (ns, user) = (&ground.namespace, &ground.user);
    assert_eq!(
        text,
        format!(
            "leases.coordination.k8s.io \"other\" is forbidden: User \"{user}\" cannot patch resource \"leases\" in \
             API group \"coordination.k8s.io\" in the namespace \"{ns}\""
        )
    );
    let services: Api<Service> = ground.api(&ground.member);
    let text = message(services.list(&ListParams::default()).await);
    assert_eq!(
        text,
        format!(
            "services is forbidden: User \"{user}\" cannot list resource \"services\" in API group \"\" in the \
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

/// A question about a right as it is sent.
fn question(attributes: &Value) -> SelfSubjectAccessReview {
    object(json!({ "spec": { "resourceAttributes": attributes } }))
}

#[tokio::test]
async fn one_can_ask_for_ones_rights() {
    let ground = Ground::new().await;
    let reviews: Api<SelfSubjectAccessReview> = Api::all(ground.member.clone());
    let own = ground.namespace.as_str();
    let (leases, events) = (("coordination.k8s.io", "leases"), ("events.k8s.io", "events"));
    for (verb, (group, resource), name, namespace, allowed) in [
        ("patch", leases, "postgres", own, true),
        ("list", leases, "postgres", own, true),
        ("watch", leases, "postgres", own, true),
        ("patch", leases, "other", own, false),
        ("delete", leases, "postgres", own, false),
        ("*", leases, "postgres", own, false),
        ("patch", leases, "postgres", "elsewhere", false),
        // Without a name it is about all of them; without a namespace, too.
        ("patch", leases, "", own, false),
        ("watch", leases, "", own, false),
        ("patch", leases, "postgres", "", false),
        ("create", leases, "", own, false),
        ("create", events, "", own, true),
        ("create", ("", "events"), "", own, false),
        (
            "patch",
            ("coordination.k8s.io", "leases/status"),
            "postgres",
            own,
            false,
        ),
        (
            "patch",
            ("coordination.k8s.io", "unheard-of"),
            "postgres",
            own,
            false,
        ),
    ] {
        let attributes = json!({ "namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name });
        let asked = question(&attributes);
        let answer = reviews.create(&PostParams::default(), &asked).await.unwrap();
        let at = format!("{verb} {resource} {name} in {namespace}");
        let status = answer.status.unwrap();
        assert_eq!(status.allowed, allowed, "{at}");
        assert_ne!(status.denied, Some(true), "{at}: not allowed is not denied");
        assert_eq!(status.evaluation_error, None, "{at}");
        let reason = status.reason.unwrap_or_default();
        assert_eq!(
            reason.starts_with("RBAC: allowed by RoleBinding \""),
            allowed,
            "{at}: {reason}"
        );
        let repeated = answer.spec.resource_attributes.unwrap();
        assert_eq!(repeated.verb.as_deref(), Some(verb));
    }
    // With a subresource of its own name.
    let status = json!({ "namespace": own, "verb": "patch", "group": "coordination.k8s.io", "resource": "leases",
        "subresource": "status", "name": "postgres" });
    let answer = reviews
        .create(&PostParams::default(), &question(&status))
        .await
        .unwrap();
    assert!(!answer.status.unwrap().allowed);
    ground.end().await;
}

#[tokio::test]
async fn an_administrator_has_every_right_and_a_question_is_not_stored() {
    let ground = Ground::new().await;
    // An administrator may everything, also what no rule names.
    let reviews: Api<SelfSubjectAccessReview> = Api::all(ground.admin.clone());
    let all = question(&json!({ "verb": "delete", "resource": "secrets" }));
    let answer = reviews.create(&PostParams::default(), &all).await.unwrap();
    assert!(answer.status.unwrap().allowed);
    assert_eq!(answer.metadata.name, None);
    assert_eq!(answer.metadata.uid, None);
    ground.end().await;
}

#[tokio::test]
async fn questions_about_rights_that_are_refused() {
    let ground = Ground::new().await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let send = async |client: &Client, method: &str, media: &str, body: &str| {
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media);
        let request = request.body(body.as_bytes().to_vec()).unwrap();
        refusal(client.request_text(request).await)
    };
    let both =
        r#"{"spec":{"resourceAttributes":{"verb":"get"},"nonResourceAttributes":{"path":"/","verb":"get"}}}"#;
    let typed = |rest: &str| {
        let kind = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SelfSubjectAccessReview","#;
        format!("{kind}{}", &rest[1..])
    };
    let json_type = "application/json";
    for (method, media, body, code) in [
        ("POST", json_type, typed(r#"{"spec":{}}"#), 422),
        ("POST", json_type, typed(both), 422),
        ("POST", json_type, "nonsense".to_owned(), 400),
        ("POST", "text/plain", typed(r#"{"spec":{}}"#), 415),
        // Rights come before the question whether the method exists.
        ("GET", json_type, String::new(), 403),
    ] {
        let told = send(&ground.member, method, media, &body).await;
        assert_eq!(told.0, code, "{method} {media} {body}: {told:?}");
    }
    assert_eq!(send(&ground.admin, "GET", json_type, "").await.0, 405);
    let reviews: Api<SelfSubjectAccessReview> = Api::all(ground.member.clone());
    let empty = object(json!({ "spec": {} }));
    let text = message(reviews.create(&PostParams::default(), &empty).await);
    assert!(
        text.contains("exactly one of nonResourceAttributes or resourceAttributes must be specified"),
        "{text}"
    );
    let one = typed(r#"{"spec":{"resourceAttributes":{"verb":"get","resource":"pods"}}}"#);
    let told = send(&ground.stranger, "POST", json_type, &one).await;
    assert_eq!(told, (401, "Unauthorized".to_owned()));
    // Where nobody may come without a token, that is 401 already.
    let told = send(&ground.anonymous, "POST", json_type, &one).await;
    assert!([401, 403].contains(&told.0), "{told:?}");
    ground.end().await;
}
