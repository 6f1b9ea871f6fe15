//! The races of `kube-leader-election` by itself, each run twice: unmodified, where it must happen (else the test shows
//! nothing), and under the layer, where it must not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Method, Request, Response};
use kube::client::Body;
use kube_leader_election::{Error, LeaseLock, LeaseLockParams, LeaseLockResult};
use pgbaton::core::types::Term;
use pgbaton::lease::{ClaimEvidence, LeaseSeen, SwapKind, SwapOutcome};
use serde_json::{Value, json};
use tower::BoxError;

use super::fake::Fake;
use super::member::{Member, TTL, done, held, held_spec, id, refused, shipped};

const EXPIRED: SwapKind = SwapKind::Claim(ClaimEvidence::Expired);
const LONG_AGO: Duration = Duration::from_secs(60);

fn parameters(number: u32) -> LeaseLockParams {
    LeaseLockParams {
        lease_name: "postgres".to_owned(),
        holder_id: id(number).to_string(),
        lease_ttl: TTL,
    }
}

fn bare(fake: &Fake, number: u32) -> LeaseLock {
    LeaseLock::new(fake.client(), "default", parameters(number))
}

/// Who the engine says holds the Lease after it said "acquired", and the term.
fn acquired(result: Result<LeaseLockResult, Error>) -> (String, i32) {
    match result.unwrap() {
        LeaseLockResult::Acquired(lease) => {
            let spec = lease.spec.unwrap();
            (spec.holder_identity.unwrap(), spec.lease_transitions.unwrap())
        }
        LeaseLockResult::NotAcquired(lease) => panic!("not acquired: {lease:?}"),
    }
}

async fn member_seeing(fake: &Fake, number: u32) -> (Member, Arc<LeaseSeen>) {
    let member = Member::new(fake, number);
    let seen = member.newest(fake).await;
    (member, seen)
}

#[tokio::test]
async fn two_claim_an_expired_lease() {
    let fake = Fake::with(held("postgres-1_gone", 3, LONG_AGO));
    let (arrived, go) = fake.hold();
    let second = bare(&fake, 2);
    let second = tokio::spawn(async move { second.try_acquire_or_renew().await });
    arrived.await.unwrap();
    let third = acquired(bare(&fake, 3).try_acquire_or_renew().await);
    go.send(()).unwrap();
    let second = acquired(second.await.unwrap());
    assert_eq!(
        (second, third),
        ((id(2).to_string(), 4), (id(3).to_string(), 4)),
        "both lead, in the same term"
    );

    let fake = Fake::with(held("postgres-1_gone", 3, LONG_AGO));
    let (second, seen_by_second) = member_seeing(&fake, 2).await;
    let (third, seen_by_third) = member_seeing(&fake, 3).await;
    second.live(TTL);
    third.live(TTL);
    let (arrived, go) = fake.hold();
    let held_up = second.swap(&seen_by_second, EXPIRED);
    let winner = async {
        arrived.await.unwrap();
        let winner = third.swap(&seen_by_third, EXPIRED).await;
        go.send(()).unwrap();
        winner
    };
    let (held_up, winner) = tokio::join!(held_up, winner);
    assert_eq!(held_up, SwapOutcome::Lost);
    assert_eq!(done(winner).transitions, Term(4));
    assert_eq!((fake.holder(), fake.term()), (id(3).to_string(), 4));
}

#[tokio::test]
async fn a_renewal_meets_a_theft() {
    let fake = Fake::with(held(&id(1).to_string(), 3, LONG_AGO));
    let (arrived, go) = fake.hold();
    let first = bare(&fake, 1);
    let first = tokio::spawn(async move { first.try_acquire_or_renew().await });
    arrived.await.unwrap();
    acquired(bare(&fake, 2).try_acquire_or_renew().await);
    go.send(()).unwrap();
    assert_eq!(
        acquired(first.await.unwrap()).0,
        id(2).to_string(),
        "\"acquired\", and another holds it"
    );

    let fake = Fake::with(held(&id(1).to_string(), 3, LONG_AGO));
    let (first, seen_by_first) = member_seeing(&fake, 1).await;
    let (second, seen_by_second) = member_seeing(&fake, 2).await;
    second.live(TTL);
    let (arrived, go) = fake.hold();
    let renewal = first.swap(&seen_by_first, SwapKind::Renew);
    let theft = async {
        arrived.await.unwrap();
        done(second.swap(&seen_by_second, EXPIRED).await);
        go.send(()).unwrap();
    };
    let (renewal, ()) = tokio::join!(renewal, theft);
    assert_eq!(renewal, SwapOutcome::Lost);
    assert_eq!(fake.holder(), id(2).to_string());
}

#[tokio::test]
async fn the_holders_clock_is_slow() {
    // Renewed a moment ago by a clock 16 s slow.
    let slow = Duration::from_secs(16);
    let fake = Fake::with(held(&id(1).to_string(), 3, slow));
    assert_eq!(
        acquired(bare(&fake, 2).try_acquire_or_renew().await),
        (id(2).to_string(), 4),
        "stolen at first sight"
    );

    let fake = Fake::with(held(&id(1).to_string(), 3, slow));
    let (second, seen) = member_seeing(&fake, 2).await;
    let why = refused(second.swap(&seen, EXPIRED).await);
    assert!(why.contains("has not expired"), "{why}");
    second.live(TTL - Duration::from_millis(100));
    refused(second.swap(&seen, EXPIRED).await);
    // Each renewal by that clock starts the wait again.
    fake.edit(&json!({"spec": held_spec(&id(1).to_string(), 3, slow)}));
    let seen = second.newest(&fake).await;
    second.live(Duration::from_secs(1));
    refused(second.swap(&seen, EXPIRED).await);
    second.live(TTL);
    assert_eq!(done(second.swap(&seen, EXPIRED).await).transitions, Term(4));
}

#[tokio::test]
async fn the_shipped_lease_has_no_spec() {
    let fake = Fake::with(shipped());
    let stuck = bare(&fake, 1).try_acquire_or_renew().await;
    assert!(matches!(stuck, Err(Error::TraverseLease { .. })), "{stuck:?}");

    let fake = Fake::with(shipped());
    let (first, seen) = member_seeing(&fake, 1).await;
    let free = seen.free(first.clock.now(), TTL);
    assert_eq!(free, Some(ClaimEvidence::NeverHeld));
    let lease = done(first.swap(&seen, SwapKind::Claim(ClaimEvidence::NeverHeld)).await);
    assert_eq!((lease.transitions, lease.holder_id()), (Term(1), Some(id(1))));
    assert_eq!(lease.duration, Some(TTL));
    done(first.swap(&lease, SwapKind::Renew).await);
}

/// The obvious layer: the version of the engine's own GET goes into its PATCH, and "expired" is what was judged before.
fn plain_compare_and_swap(fake: &Fake) -> kube::Client {
    let (client, version) = (fake.client(), Arc::new(Mutex::new(Value::Null)));
    let service = tower::service_fn(move |request: Request<Body>| {
        let (client, version) = (client.clone(), version.clone());
        async move {
            let reading = request.method() == Method::GET;
            let (head, body) = request.into_parts();
            let mut body = body.collect_bytes().await?.to_vec();
            if !reading {
                let mut patch: Value = serde_json::from_slice(&body)?;
                patch["metadata"]["resourceVersion"] = version.lock().unwrap().clone();
                body = serde_json::to_vec(&patch)?;
            }
            let answer = client.send(Request::from_parts(head, Body::from(body))).await?;
            let mut lease: Value = serde_json::from_slice(&answer.into_body().collect_bytes().await?)?;
            if reading {
                *version.lock().unwrap() = lease["metadata"]["resourceVersion"].clone();
                lease["spec"]["renewTime"] = json!("1970-01-01T00:00:00.000000Z");
            }
            Ok::<_, BoxError>(Response::new(Body::from(serde_json::to_vec(&lease)?)))
        }
    });
    kube::Client::new(service, "default")
}

/// Schedule 24: the evidence is older than the read that the engine patches on.
#[tokio::test]
async fn a_late_get_hides_a_renewal() {
    let fake = Fake::with(held(&id(1).to_string(), 3, LONG_AGO));
    // Judged here, expired; renewed; then the engine reads.
    fake.edit(&json!({"spec": held_spec(&id(1).to_string(), 3, Duration::ZERO)}));
    let stolen = LeaseLock::new(plain_compare_and_swap(&fake), "default", parameters(2));
    assert_eq!(
        acquired(stolen.try_acquire_or_renew().await).0,
        id(2).to_string(),
        "from a live holder"
    );

    let fake = Fake::with(held(&id(1).to_string(), 3, LONG_AGO));
    let (second, seen) = member_seeing(&fake, 2).await;
    second.live(TTL);
    fake.edit(&json!({"spec": held_spec(&id(1).to_string(), 3, Duration::ZERO)}));
    assert_eq!(second.swap(&seen, EXPIRED).await, SwapOutcome::Lost);
    assert_eq!((fake.holder(), fake.term()), (id(1).to_string(), 3));
    assert_eq!(
        fake.count("get"),
        0,
        "the engine's GET is answered from the evidence"
    );
}

#[tokio::test]
async fn a_renewal_is_one_request_with_version_and_record() {
    let fake = Fake::with(held(&id(1).to_string(), 3, LONG_AGO));
    let (first, seen) = member_seeing(&fake, 1).await;
    let before = fake.count("list") + fake.count("watch") + fake.count("get");
    let mut record = super::member::fresh_record();
    record.paused = true;
    let lease = done(first.swap_record(&seen, SwapKind::Renew, record.clone()).await);
    assert_eq!(
        fake.count("list") + fake.count("watch") + fake.count("get"),
        before
    );
    assert_eq!(fake.count("patch"), 1);
    let patch = fake.last_patch();
    assert_eq!(patch["metadata"]["resourceVersion"], json!(seen.resource_version));
    assert_eq!(fake.record(), record);
    assert_eq!(
        fake.lease().unwrap()["metadata"]["annotations"]["example.com/other"],
        "kept"
    );
    assert_eq!(lease.transitions, Term(3));
}
