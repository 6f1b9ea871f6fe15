//! What a person reads.

use serde_json::json;

use super::*;
use crate::cli::history;
use crate::core::record::{Availability, HistoryEntry, Step, SyncSet};
use crate::core::report::CouldFailOver;
use crate::core::types::{Address, Lsn, SystemId, Term, Timeline};
use crate::kubernetes::fake::FakeApi;

pub(crate) const LEASE: &str = "leases/postgres";

/// Two members, led by postgres-1 in term 7.
pub(crate) fn record() -> Record {
    let member = |name: &str, digit: char, ip: &str| Member {
        member: name.parse().unwrap(),
        data_id: digit.to_string().repeat(16).parse().unwrap(),
        address: Address {
            ip: ip.into(),
            postgres_port: 5432,
            sidecar_port: 8008,
        },
    };
    let (first, second) = (
        member("postgres-1", 'a', "127.0.0.11"),
        member("postgres-2", 'b', "fd00::2"),
    );
    let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
    record.system_identifier = Some(SystemId(7));
    record.term = Term(7);
    record.timeline = Some(Timeline(2));
    record.sync_sets = vec![SyncSet {
        k: 1,
        standbys: [second.data()].into(),
    }];
    record.members = vec![first.clone(), second];
    record.primary = Some(first);
    record
}

pub(crate) fn report() -> Report {
    Report {
        at: "2026-01-02T03:04:05Z".into(),
        why: "postgres-1 leads and renews".into(),
        could_fail_over: CouldFailOver {
            yes: true,
            to: Some("postgres-2".parse().unwrap()),
            about_ms: Some(400),
            missing: String::new(),
        },
        members: vec![MemberReport {
            member: "postgres-2".parse().unwrap(),
            role: "standby".into(),
            lag_bytes: Some(1500),
            sync: "quorum".into(),
            timeline: Some(Timeline(2)),
            state: "streaming".into(),
        }],
        warnings: vec!["postgres-3 does not answer".into()],
    }
}

/// A Lease with these annotations, held by postgres-1 and renewed just now.
pub(crate) fn lease(annotations: &Value) -> Value {
    json!({
        "metadata": { "annotations": annotations },
        "spec": {
            "holderIdentity": "postgres-1_5f0c", "leaseTransitions": 7, "leaseDurationSeconds": 10,
            "renewTime": format!("{:.6}", jiff::Timestamp::now()),
        },
    })
}

pub(crate) fn cluster(api: &FakeApi) -> Cluster {
    Cluster::new(api.client(), "default".into(), "postgres".into())
}

async fn seen(object: Value) -> LeaseSeen {
    let api = FakeApi::default();
    api.put(LEASE, object);
    cluster(&api).read().await.unwrap()
}

#[tokio::test]
async fn a_healthy_cluster_at_a_glance() {
    let seen = seen(lease(&json!({
        "pgbaton.dev/cluster-state": record().render(),
        "pgbaton.dev/report": report().render(),
    })))
    .await;
    let page = page("default/postgres", &seen);
    let lines: Vec<&str> = page.lines().collect();
    assert!(
        lines[0].starts_with("cluster default/postgres: sync, term 7, led by postgres-1 (renewed 0."),
        "{page}"
    );
    assert_eq!(
        lines[1..],
        [
            "MEMBER      ROLE     TERM/TIMELINE  SYNC    LAG     ADDRESS          DATA              STATE",
            "postgres-1  primary  7/2            -       -       127.0.0.11:5432  aaaaaaaaaaaaaaaa",
            "postgres-2  standby  -/2            quorum  1.5 kB  [fd00::2]:5432   bbbbbbbbbbbbbbbb  streaming",
            "why: postgres-1 leads and renews",
            "could fail over now: yes, to postgres-2, about 0.4 s",
            "warning: postgres-3 does not answer",
        ]
    );
    let json = json_page("default/postgres", &seen);
    assert_eq!(json["record"]["term"], 7);
    assert_eq!(json["report"]["could_fail_over"]["to"], "postgres-2");
    assert_eq!(json["record_error"], Value::Null);
}

#[tokio::test]
async fn what_is_not_as_usual_is_said() {
    let mut record = record();
    record.paused = true;
    record.step = Some(Step::Promoting {
        member: "postgres-2".parse().unwrap(),
    });
    let mut told = report();
    told.could_fail_over = CouldFailOver {
        missing: "postgres-2 does not answer".into(),
        ..CouldFailOver::default()
    };
    let mut object = lease(&json!({
        "pgbaton.dev/cluster-state": record.render(),
        "pgbaton.dev/report": told.render(),
        "pgbaton.dev/order": r#"{"id":"0123456789abcdef","order":"switchover","to":"postgres-2","at":"2026-01-02T03:04:05Z"}"#,
    }));
    object["spec"]["renewTime"] = json!("2026-01-02T03:04:05.000000Z");
    let page = page("default/postgres", &seen(object).await);
    for part in [
        "postgres-1 held the Lease and has not renewed it for ",
        "paused: no takeover until 'pgbaton resume'",
        "in progress: promoting postgres-2",
        "could fail over, as of 2026-01-02T03:04:05Z (the last leader's word): no: postgres-2 does not answer",
        "ordered: switchover to postgres-2, since 2026-01-02T03:04:05Z: not taken up yet",
    ] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

#[tokio::test]
async fn without_a_report_the_record_alone_is_shown() {
    let seen = seen(lease(&json!({ "pgbaton.dev/cluster-state": record().render() }))).await;
    let page = page("default/postgres", &seen);
    assert!(
        page.contains("postgres-2  unknown  -/?            sync  ?"),
        "{page}"
    );
    assert!(
        page.contains("why: not known: no leader has reported yet"),
        "{page}"
    );
}

#[tokio::test]
async fn a_damaged_lease_comes_with_the_command_for_a_person() {
    for annotations in [json!({}), json!({ "pgbaton.dev/cluster-state": "nonsense" })] {
        let seen = seen(lease(&annotations)).await;
        let page = page("default/postgres", &seen);
        assert!(page.contains("Lease default/postgres is damaged: "), "{page}");
        assert!(
            page.contains("pgbaton adopt -n default --lease postgres --to MEMBER"),
            "{page}"
        );
        assert!(json_page("default/postgres", &seen)["record_error"].is_string());
    }
}

#[tokio::test]
async fn a_lease_that_is_not_there_or_not_allowed_is_named() {
    let api = FakeApi::default();
    let error = cluster(&api).read().await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("there is no Lease postgres in namespace default"),
        "{error}"
    );
    api.forbid("GET", LEASE);
    let error = cluster(&api).read().await.unwrap_err();
    assert!(
        error.to_string().starts_with("the right to get Lease postgres"),
        "{error}"
    );
}

#[tokio::test]
async fn a_never_initialised_cluster_says_what_it_waits_for() {
    let record = Record::never_initialised(Durability::Async, Availability::Available);
    let mut object = lease(&json!({ "pgbaton.dev/cluster-state": record.render() }));
    object["spec"] = json!({});
    let page = page("default/postgres", &seen(object).await);
    assert!(
        page.starts_with(
            "cluster default/postgres: async, term 0, nobody holds the Lease\nnever initialised"
        ),
        "{page}"
    );
}

#[test]
fn history_has_a_line_a_term() {
    let mut record = record();
    assert_eq!(history::page(&record), "no term yet\n");
    record.add_history(HistoryEntry {
        term: Term(7),
        member: "postgres-1".parse().unwrap(),
        why: "postgres-2 did not answer".into(),
        at_unix_ms: 1_767_323_045_000,
        lsn: Lsn(0x0300_0060),
        phases: vec![("pledges".into(), 40), ("promote".into(), 180)],
    });
    let page = history::page(&record);
    assert!(
        page.ends_with("7     2026-01-02T03:04:05Z  postgres-1  0/3000060  postgres-2 did not answer  pledges 40 ms, promote 180 ms\n"),
        "{page}"
    );
}
