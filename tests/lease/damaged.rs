//! Damaged Leases (DESIGN.md section 3). Which disks hold what is the core's to judge; shown here is that the state arrives
//! as it is, that nothing but a repair touches it, and that a repair makes it whole.

use std::sync::Arc;
use std::time::Duration;

use pgbaton::core::record::{BadRecord, Record};
use pgbaton::core::types::{SystemId, Term};
use pgbaton::lease::{
    ClaimEvidence, LeaseSeen, LeaseState, RECORD_ANNOTATION, RecordState, SwapKind, SwapOutcome,
};
use serde_json::{Value, json};

use super::fake::Fake;
use super::member::{Member, TTL, done, fresh_record, held, held_spec, id, lease, refused, shipped};

const AGO: Duration = Duration::from_secs(1);
const ALL_CLAIMS: [ClaimEvidence; 4] = [
    ClaimEvidence::Expired,
    ClaimEvidence::Released,
    ClaimEvidence::NeverHeld,
    ClaimEvidence::Early,
];

/// Nobody may claim, renew or release it, however long one waits.
async fn only_repair_is_sent(fake: &Fake, seen: &Arc<LeaseSeen>) {
    let before = fake.lease();
    for number in [1, 2] {
        let member = Member::new(fake, number);
        member.newest(fake).await;
        member.live(TTL * 3);
        assert_eq!(seen.free(member.clock.now(), TTL), None);
        for kind in ALL_CLAIMS
            .map(SwapKind::Claim)
            .into_iter()
            .chain([SwapKind::Renew, SwapKind::Release])
        {
            refused(member.swap_record(seen, kind, fresh_record()).await);
        }
    }
    assert_eq!(fake.lease(), before);
}

async fn repair(fake: &Fake, number: u32, term: u64) {
    let member = Member::new(fake, number);
    let seen = member.newest(fake).await;
    let lease = done(
        member
            .swap_record(&seen, SwapKind::Repair { term: Term(term) }, fresh_record())
            .await,
    );
    assert_eq!(
        (lease.holder_id(), lease.transitions),
        (Some(id(number)), Term(term))
    );
    assert_eq!(lease.record, RecordState::Good(Box::new(fresh_record())));
    done(member.swap(&lease, SwapKind::Renew).await);
}

#[tokio::test]
async fn deleted_is_absent_and_never_created() {
    let fake = Fake::with(held(&id(1).to_string(), 7, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    fake.delete();
    member
        .until("absence", |v| matches!(v.state, LeaseState::Absent { .. }))
        .await;
    let outcome = member.swap(&seen, SwapKind::Renew).await;
    let SwapOutcome::Refused {
        code: Some(404),
        message,
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    assert!(message.contains("apply its manifest"), "{message}");
    assert_eq!((fake.lease(), fake.count("create")), (None, 0));
    assert!(
        member.view.borrow().contact.trouble.is_none(),
        "an absence is no outage"
    );

    // Applied again as shipped: "never initialised", in a new life of the object.
    fake.put(lease(&json!({}), &fresh_record()));
    let again = member.newest(&fake).await;
    assert_ne!(again.uid, seen.uid);
    assert_eq!((again.holder.clone(), again.transitions), (None, Term(0)));
    repair(&fake, 1, 8).await;
}

#[tokio::test]
async fn emptied() {
    for empty in [json!({}), json!(null)] {
        let mut object = held(&id(1).to_string(), 7, AGO);
        object["spec"] = empty;
        object["metadata"]["annotations"] = json!(null);
        let fake = Fake::with(object);
        let seen = Member::new(&fake, 1).newest(&fake).await;
        assert_eq!(seen.record, RecordState::Missing);
        assert_eq!(
            (seen.holder.clone(), seen.transitions, seen.duration),
            (None, Term(0), None)
        );
        only_repair_is_sent(&fake, &seen).await;
        repair(&fake, 1, 8).await;
    }
}

#[tokio::test]
async fn nonsense() {
    let mut newer: Value = serde_json::from_str(&fresh_record().render()).unwrap();
    newer["version"] = json!(99);
    let texts = [
        "",
        "nonsense",
        "[]",
        "{\"version\":1}",
        "{\"version\":-1}",
        &newer.to_string(),
    ];
    for text in texts {
        let mut object = held(&id(1).to_string(), 7, AGO);
        object["metadata"]["annotations"][RECORD_ANNOTATION] = json!(text);
        let fake = Fake::with(object);
        let seen = Member::new(&fake, 1).newest(&fake).await;
        assert!(matches!(seen.record, RecordState::Unreadable(_)), "{text}");
        assert_eq!(seen.record_text.as_deref(), Some(text));
        only_repair_is_sent(&fake, &seen).await;
        repair(&fake, 1, 8).await;
    }
    let mut object = held(&id(1).to_string(), 7, AGO);
    object["metadata"]["annotations"][RECORD_ANNOTATION] = newer.to_string().into();
    let fake = Fake::with(object);
    let seen = Member::new(&fake, 1).newest(&fake).await;
    assert_eq!(seen.record, RecordState::Unreadable(BadRecord::Version(99)));
}

/// A manifest carries the initial annotation: applied again it must put no record back.
#[tokio::test]
async fn the_initial_annotation_counts_on_a_lease_that_nobody_ever_held() {
    let mut shipped = shipped();
    let fake = Fake::with(shipped.clone());
    let seen = Member::new(&fake, 1).newest(&fake).await;
    assert_eq!(seen.record, RecordState::Good(Box::new(fresh_record())));
    assert!(
        seen.annotations.is_empty(),
        "it is no order: {:?}",
        seen.annotations
    );

    let mut recorded = shipped.clone();
    let mut paused = fresh_record();
    paused.paused = true;
    recorded["metadata"]["annotations"][RECORD_ANNOTATION] = json!(paused.render());
    let fake = Fake::with(recorded);
    let seen = Member::new(&fake, 1).newest(&fake).await;
    assert_eq!(seen.record.good(), Some(&paused));

    for spec in [
        json!({ "leaseTransitions": 1 }),
        json!({ "holderIdentity": "postgres-1_a" }),
    ] {
        shipped["spec"] = spec;
        let fake = Fake::with(shipped.clone());
        let seen = Member::new(&fake, 1).newest(&fake).await;
        assert_eq!(seen.record, RecordState::Missing);
    }
}

#[tokio::test]
async fn odd_numbers_do_no_harm() {
    let mut object = held(&id(1).to_string(), 7, AGO);
    object["spec"]["leaseTransitions"] = json!(-5);
    object["spec"]["leaseDurationSeconds"] = json!(-1);
    let fake = Fake::with(object);
    let member = Member::new(&fake, 2);
    let seen = member.newest(&fake).await;
    assert_eq!((seen.transitions, seen.duration), (Term(0), None));
    refused(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    member.live(TTL);
    assert_eq!(
        done(member.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await).transitions,
        Term(1)
    );
}

/// An etcd restore: an older version, with an older holder (the same pod) and a lower term.
#[tokio::test]
async fn restored_from_a_backup() {
    let backup = held(&id(1).to_string(), 2, Duration::from_secs(86_400));
    let fake = Fake::with(held(&id(2).to_string(), 9, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    assert_eq!(seen.transitions, Term(9));
    let mut restored = backup;
    restored["metadata"]["uid"] = json!(seen.uid);
    fake.restore(40, restored);
    // It goes back, because the API server says so when asked; the term below the disks' is for the core to see.
    let old = member
        .until("the backup", |v| {
            v.state.seen().is_some_and(|s| s.transitions == Term(2))
        })
        .await;
    let old = old.state.seen().cloned().unwrap();
    assert_eq!(
        (old.holder_id(), old.resource_version.as_str()),
        (Some(id(1)), "40")
    );
    assert_eq!(old.spec_changed_at, member.clock.now(), "a change, judged anew");
    repair(&fake, 2, 10).await;
}

#[tokio::test]
async fn of_another_cluster() {
    let foreign = Record {
        system_identifier: Some(SystemId(42)),
        ..super::member::released(3)
    };
    // Its check asks for a primary with the identifier; one that is being initialised needs none.
    let foreign = Record {
        step: Some(pgbaton::core::record::Step::Initialising { by: "uid".to_owned() }),
        ..foreign
    };
    let fake = Fake::with(lease(&held_spec(&id(2).to_string(), 3, AGO), &foreign));
    let seen = Member::new(&fake, 1).newest(&fake).await;
    assert_eq!(
        seen.record.good().and_then(|r| r.system_identifier),
        Some(SystemId(42))
    );
    repair(&fake, 1, 4).await;
    assert_eq!(fake.record().system_identifier, None);
}

/// A person clears `holderIdentity`: the Lease looks free and is not.
#[tokio::test]
async fn a_person_clears_the_holder() {
    for cleared in [json!(""), json!(null)] {
        let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
        let (first, second) = (Member::new(&fake, 1), Member::new(&fake, 2));
        first.newest(&fake).await;
        fake.edit(&json!({"spec": {"holderIdentity": cleared}}));
        let seen = second.newest(&fake).await;
        assert_eq!(seen.holder, None);
        for evidence in ALL_CLAIMS {
            refused(second.swap(&seen, SwapKind::Claim(evidence)).await);
        }
        second.live(TTL);
        assert_eq!(seen.free(second.clock.now(), TTL), Some(ClaimEvidence::Expired));
        done(second.swap(&seen, SwapKind::Claim(ClaimEvidence::Expired)).await);
    }
}

#[tokio::test]
async fn a_record_that_is_too_big_is_not_sent() {
    let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
    let member = Member::new(&fake, 1);
    let seen = member.newest(&fake).await;
    let step = pgbaton::core::record::Step::Initialising {
        by: "x".repeat(300_000),
    };
    let why = refused(
        member
            .swap_record(
                &seen,
                SwapKind::Renew,
                Record {
                    step: Some(step),
                    ..fresh_record()
                },
            )
            .await,
    );
    assert!(why.contains("262144"), "{why}");
}
