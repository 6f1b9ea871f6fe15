//! What becomes of a swap: lost answers, late landings, refusals, and the layer by itself.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, Request, Response};
use kube::client::Body;
use pgbaton::core::types::Term;
use pgbaton::lease::layer::{GuardLayer, Order, Progress};
use pgbaton::lease::{ClaimEvidence, LeaseState, RECORD_ANNOTATION, Swap, SwapKind, SwapOutcome, boottime};
use serde_json::json;
use tokio::sync::oneshot;
use tower::{BoxError, Layer, ServiceExt};

use super::fake::{Fake, Fault};
use super::member::{Member, SOON, TTL, done, fresh_record, held, id, refused, released, shipped};

const AGO: Duration = Duration::from_secs(1);
const SHORT: Duration = Duration::from_millis(50);
const NEVER_HELD: SwapKind = SwapKind::Claim(ClaimEvidence::NeverHeld);

fn is_unknown(outcome: &SwapOutcome) -> bool {
    matches!(outcome, SwapOutcome::Unknown { .. })
}

fn is_mine(member: &Member) -> impl Fn(&pgbaton::lease::LeaseView) -> bool {
    let me = member.baton.me().clone();
    move |v| v.state.seen().is_some_and(|s| s.is_held_by(&me))
}

#[tokio::test]
async fn the_answer_to_a_claim_is_lost() {
    for fault in [Fault::LoseReply, Fault::BreakAfter] {
        let fake = Fake::with(shipped());
        let member = Member::new(&fake, 1);
        let seen = member.newest(&fake).await;
        fake.fault(fault);
        let outcome = member.swap_in(&seen, NEVER_HELD, fresh_record(), SHORT).await;
        assert!(is_unknown(&outcome), "{outcome:?}");
        // The truth comes by the watch, and the old version is of no use any more.
        member.until("my claim", is_mine(&member)).await;
        let again = member.swap(&seen, NEVER_HELD).await;
        assert_eq!(again, SwapOutcome::Lost);
        let lease = done(member.swap(&member.newest(&fake).await, SwapKind::Renew).await);
        assert_eq!(lease.transitions, Term(1));
    }
}

#[tokio::test]
async fn the_answer_to_a_renewal_is_lost() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    fake.fault(Fault::LoseReply);
    let outcome = member
        .swap_in(&seen, SwapKind::Renew, fresh_record(), SHORT)
        .await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    let newest = member.newest(&fake).await;
    assert_ne!(newest.resource_version, seen.resource_version);
    assert_eq!(
        done(member.swap(&newest, SwapKind::Renew).await).transitions,
        Term(3)
    );
}

#[tokio::test]
async fn the_answer_to_a_release_is_lost() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    fake.fault(Fault::BreakAfter);
    let outcome = member.swap_in(&seen, SwapKind::Release, released(3), SHORT).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    let newest = member.newest(&fake).await;
    assert!(newest.is_released());
    let why = refused(member.swap(&newest, SwapKind::Renew).await);
    assert!(why.contains("does not hold"), "{why}");
}

/// A request that timed out lands later: it can lengthen its sender's hold or fail, never overwrite another's.
#[tokio::test]
async fn a_timed_out_renewal_lands_after_a_takeover() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let (first, second) = (Member::new(&fake, 1), Member::new(&fake, 2));
    let seen = first.newest(&fake).await;
    second.newest(&fake).await;
    let (go, wait) = oneshot::channel();
    let (landed, has_landed) = oneshot::channel();
    fake.fault(Fault::LandLate { go: wait, landed });
    let outcome = first.swap_in(&seen, SwapKind::Renew, fresh_record(), SHORT).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    second.live(TTL);
    done(second.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    let taken = fake.lease();
    go.send(()).unwrap();
    has_landed.await.unwrap();
    assert_eq!(fake.lease(), taken);
    assert_eq!((fake.holder(), fake.term()), (id(2).to_string(), 4));
}

#[tokio::test]
async fn a_request_that_never_arrives_is_unknown_and_changes_nothing() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    fake.fault(Fault::Swallow);
    let outcome = member
        .swap_in(&seen, SwapKind::Renew, fresh_record(), SHORT)
        .await;
    assert!(is_unknown(&outcome), "{outcome:?}");
    done(member.swap(&seen, SwapKind::Renew).await);
}

#[tokio::test]
async fn the_servers_answers_are_told_apart() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    for code in [401, 403, 404, 422, 429] {
        fake.fault(Fault::Status(code));
        let outcome = member.swap(&seen, SwapKind::Renew).await;
        let SwapOutcome::Refused { code: got, message } = outcome else {
            panic!("{code}: {outcome:?}")
        };
        assert_eq!(got, Some(code));
        assert!(
            message.contains("the server said no") && message.contains("default/postgres"),
            "{message}"
        );
    }
    for code in [408, 500, 503, 504] {
        fake.fault(Fault::Status(code));
        let outcome = member.swap(&seen, SwapKind::Renew).await;
        assert!(is_unknown(&outcome), "{code}: {outcome:?}");
    }
    fake.fault(Fault::Status(409));
    assert_eq!(member.swap(&seen, SwapKind::Renew).await, SwapOutcome::Lost);
    assert_eq!(fake.count("patch"), 10, "nothing is sent twice");
    fake.fault(Fault::Meddle);
    let outcome = member.swap(&seen, SwapKind::Renew).await;
    assert!(is_unknown(&outcome), "{outcome:?}");
}

/// Invariant 1: a permit counts from before its request was sent, however long the answer took.
#[tokio::test]
async fn the_time_of_sending_is_from_before_the_request() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    let (arrived, go) = fake.hold();
    let live = member.clock.now();
    let slow = async {
        arrived.await.unwrap();
        member.live(Duration::from_secs(3));
        let reached = boottime();
        go.send(()).unwrap();
        reached
    };
    let (outcome, reached) = tokio::join!(member.swap(&seen, SwapKind::Renew), slow);
    let SwapOutcome::Done {
        lease,
        sent_boot,
        sent_live,
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert!(sent_boot <= reached);
    assert_eq!(sent_live, live);
    assert_eq!(lease.seen_at, live, "an answer is not younger than its question");
}

#[tokio::test]
async fn a_process_that_stood_still_does_not_judge() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::new(&fake, 2);
    let seen = member.newest(&fake).await;
    member.freeze(Duration::from_secs(3600));
    let why = refused(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    assert!(why.contains("200 ms of 10000 ms"), "{why}");
    member.live(TTL);
    done(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
}

#[tokio::test]
async fn a_longer_duration_of_the_holder_counts() {
    let mut lease = held("postgres-1_other", 3, AGO);
    lease["spec"]["leaseDurationSeconds"] = json!(30);
    let fake = Fake::with(lease);
    let member = Member::new(&fake, 2);
    let seen = member.newest(&fake).await;
    member.live(TTL * 2);
    refused(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    member.live(TTL);
    done(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
}

#[tokio::test]
async fn a_release_that_says_so_is_free_at_once() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let (first, second) = (Member::new(&fake, 1), Member::new(&fake, 2));
    let lease = done(
        first
            .swap_record(&first.newest(&fake).await, SwapKind::Release, released(3))
            .await,
    );
    assert_eq!((lease.holder.clone(), lease.transitions), (None, Term(3)));
    let seen = second.newest(&fake).await;
    assert_eq!(seen.free(second.clock.now(), TTL), Some(ClaimEvidence::Released));
    let lease = done(
        second
            .swap_record(&seen, SwapKind::Claim(ClaimEvidence::Released), fresh_record())
            .await,
    );
    assert_eq!((lease.holder_id(), lease.transitions), (Some(id(2)), Term(4)));
    assert_eq!(lease.duration, Some(TTL));
}

#[tokio::test]
async fn a_release_that_does_not_say_so_is_free_once_expired() {
    // 2: released in an earlier term, and forgotten there.
    for record in [fresh_record(), released(2)] {
        let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
        let (first, second) = (Member::new(&fake, 1), Member::new(&fake, 2));
        done(
            first
                .swap_record(&first.newest(&fake).await, SwapKind::Release, record)
                .await,
        );
        let seen = second.newest(&fake).await;
        for evidence in [
            ClaimEvidence::Released,
            ClaimEvidence::NeverHeld,
            ClaimEvidence::Early,
            ClaimEvidence::Expired,
        ] {
            refused(second.swap(&seen, SwapKind::Claim(evidence)).await);
        }
        second.live(Duration::from_secs(5));
        refused(second.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
        second.live(TTL);
        done(second.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    }
}

#[tokio::test]
async fn a_decision_that_contradicts_the_object_is_not_sent() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let (first, second) = (Member::new(&fake, 1), Member::new(&fake, 2));
    let seen = second.newest(&fake).await;
    refused(second.swap(&seen, SwapKind::Renew).await);
    refused(second.swap(&seen, SwapKind::Release).await);
    refused(second.swap(&seen, SwapKind::Claim(ClaimEvidence::Released)).await);
    refused(second.swap(&seen, SwapKind::Repair { term: Term(3) }).await);
    refused(second.swap(&seen, SwapKind::Repair { term: Term(1 << 31) }).await);
    refused(first.swap(&seen, SwapKind::Claim(ClaimEvidence::Early)).await);
    let mut foreign = BTreeMap::new();
    for name in ["example.com/other", RECORD_ANNOTATION] {
        foreign.insert(name.to_owned(), Some("x".to_owned()));
        let swap = Swap {
            based_on: seen.clone(),
            kind: SwapKind::Renew,
            record: fresh_record(),
            annotations: std::mem::take(&mut foreign),
            timeout: SOON,
        };
        refused(first.baton.swap(swap).await);
    }
    assert_eq!(fake.count("patch"), 0);
    done(second.swap(&seen, SwapKind::Claim(ClaimEvidence::Early)).await);
}

#[tokio::test]
async fn the_last_term_is_an_error_and_no_panic() {
    let fake = Fake::with(held("postgres-1_other", 0x7FFF_FFFF, AGO));
    let member = Member::new(&fake, 2);
    let seen = member.newest(&fake).await;
    member.live(TTL);
    let why = refused(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    assert!(why.contains("the last"), "{why}");
}

#[tokio::test]
async fn orders_by_people_are_carried() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    fake.edit(&json!({"metadata": {"annotations": {"pgbaton.dev/switchover": "postgres-2", "pgbaton.dev/old": "1"}}}));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    assert_eq!(seen.annotations["pgbaton.dev/switchover"], "postgres-2");
    assert!(!seen.annotations.contains_key("example.com/other"));
    let annotations = BTreeMap::from([
        ("pgbaton.dev/switchover".to_owned(), None),
        ("pgbaton.dev/done".to_owned(), Some("x".into())),
    ]);
    let swap = Swap {
        based_on: seen,
        kind: SwapKind::Renew,
        record: fresh_record(),
        annotations,
        timeout: SOON,
    };
    let lease = done(member.baton.swap(swap).await);
    let names: Vec<&str> = lease.annotations.keys().map(String::as_str).collect();
    assert_eq!(names, ["pgbaton.dev/done", "pgbaton.dev/old"]);
}

/// The layer by itself: one GET of the one path, one PATCH after it, and nothing else gets through.
#[tokio::test]
async fn the_layer_lets_nothing_else_through() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let based_on = member.newest(&fake).await;
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/postgres";
    let other = "/apis/coordination.k8s.io/v1/namespaces/default/leases/other";
    let collection = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let order = Order {
        path: path.to_owned(),
        me: id(1),
        kind: SwapKind::Renew,
        based_on,
        annotations: BTreeMap::new(),
    };
    let renewal = json!({"metadata": {}, "spec": {"renewTime": "x"}}).to_string();
    let claim = json!({"metadata": {}, "spec": {"holderIdentity": "a", "leaseTransitions": 4}}).to_string();
    let attempts: [&[(Method, &str, &str)]; 7] = [
        &[(Method::GET, other, "")],
        &[(Method::POST, collection, "{}")],
        &[(Method::PUT, path, "{}")],
        &[(Method::DELETE, path, "")],
        &[(Method::PATCH, path, &renewal)],
        &[(Method::GET, path, ""), (Method::GET, path, "")],
        &[(Method::GET, path, ""), (Method::PATCH, path, &claim)],
    ];
    for attempt in attempts {
        let layer = GuardLayer::new(order.clone());
        let api = tower::service_fn(|_: Request<Body>| async {
            panic!("it was sent");
            #[allow(unreachable_code)]
            Ok::<Response<Body>, BoxError>(Response::new(Body::empty()))
        });
        let service = layer.layer(api);
        for (number, (method, path, body)) in attempt.iter().enumerate() {
            let body = Body::from(body.as_bytes().to_vec());
            let request = Request::builder().method(method).uri(*path).body(body).unwrap();
            let answer = service.clone().oneshot(request).await;
            assert_eq!(answer.is_ok(), number + 1 < attempt.len(), "{attempt:?}");
        }
        assert!(matches!(layer.progress(), Progress::Refused(_)), "{attempt:?}");
    }
}

#[tokio::test]
async fn a_swap_tells_the_view_at_once() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    fake.stall_watches();
    let lease = done(member.swap(&seen, SwapKind::Renew).await);
    let view = member.view.borrow().state.clone();
    let LeaseState::Present(known) = view else {
        panic!("{view:?}")
    };
    assert_eq!(known.resource_version, lease.resource_version);
}

/// The loser of a race hears of the winner even when its watch has stalled.
#[tokio::test]
async fn a_lost_swap_asks_who_won() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    fake.stall_watches();
    fake.edit(&json!({"spec": {"holderIdentity": "postgres-2_other", "leaseTransitions": 4}}));
    assert_eq!(member.swap(&seen, SwapKind::Renew).await, SwapOutcome::Lost);
    assert_eq!(member.newest(&fake).await.transitions, Term(4));
}
