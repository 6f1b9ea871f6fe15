//! The page against its schema. The checker knows the keywords that the schema uses and refuses any other, so that no rule in it is
//! silently without effect.

use serde_json::{Value, json};

use super::*;
use crate::core::record::{
    Availability, Durability, HistoryEntry, LeaderWal, Member, Promotion, Step, SyncSet,
};
use crate::core::types::Address;

fn record() -> Record {
    let member = |name: &str, digit: char| Member {
        member: name.parse().unwrap(),
        data_id: digit.to_string().repeat(16).parse().unwrap(),
        address: Address {
            ip: "127.0.0.12".into(),
            postgres_port: 5432,
            sidecar_port: 8008,
        },
    };
    let (first, second) = (member("postgres-1", 'a'), member("postgres-2", 'b'));
    let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
    record.system_identifier = Some(SystemId(7_300_000_000_000_000_001));
    record.term = Term(7);
    record.timeline = Some(Timeline(2));
    record.promotions = vec![Promotion {
        timeline: Timeline(2),
        parent: Timeline(1),
        switch_point: Lsn(0x0300_0060),
        term: Term(7),
    }];
    record.timelines_given = [Timeline(1), Timeline(2)].into();
    record.sync_sets = vec![SyncSet {
        k: 1,
        standbys: [second.data()].into(),
    }];
    record.members = vec![first.clone(), second];
    record.primary = Some(first);
    record.leader_wal = Some(LeaderWal {
        lsn: Lsn(0x0300_0100),
        at_unix_ms: 1_767_323_045_000,
        age_ms: 0,
    });
    record.step = Some(Step::Handover {
        from: "postgres-1".parse().unwrap(),
        to: "postgres-2".parse().unwrap(),
        why: "switchover ordered".into(),
        planned: true,
    });
    record.add_history(HistoryEntry {
        term: Term(7),
        member: "postgres-1".parse().unwrap(),
        why: "postgres-2 did not answer".into(),
        at_unix_ms: 1_767_323_045_000,
        lsn: Lsn(0x0300_0060),
        phases: vec![("promote".into(), 180)],
    });
    record
}

/// A page with a value everywhere.
pub(crate) fn example() -> StatusPage {
    let position = Position {
        timeline: Timeline(2),
        last_record: Lsn(0x0300_0060),
    };
    let data_id: DataId = "aaaaaaaaaaaaaaaa".parse().unwrap();
    StatusPage {
        version: STATUS_VERSION,
        at: "2026-01-02T03:04:05Z".into(),
        member: "postgres-1".parse().unwrap(),
        pod_uid: "5f0c".into(),
        role: Role::Primary,
        phase: "leading".into(),
        why: Why {
            code: "holds_lease".into(),
            text: "postgres-1 holds the Lease and its server takes writes".into(),
        },
        term: Term(7),
        lease: LeaseView {
            holder: Some("postgres-1_5f0c".into()),
            age_ms: Some(300),
            duration_ms: 10_000,
            transitions: Term(7),
            contact_age_ms: Some(20),
        },
        record: Some(record()),
        record_error: None,
        guard: Some(GuardView {
            server: "primary".into(),
            data_id: Some(data_id.clone()),
            system_identifier: Some(SystemId(7_300_000_000_000_000_001)),
            highest_term: Term(7),
            pledged_term: Some(Term(7)),
            pledged_position: Some(position),
            permit_left_ms: Some(9_100),
            operation: Some(OperationView {
                kind: "clone".into(),
                bytes_done: 10,
                bytes_total: Some(40),
                percent: Some(25.0),
                running_ms: 1200,
            }),
            rest: Some(position),
            disk_free_bytes: 1 << 30,
            disk_total_bytes: 1 << 34,
            warning: String::new(),
        }),
        postgres: PostgresView {
            answers: true,
            error: None,
            age_ms: Some(120),
            timeline: Some(Timeline(2)),
            lsn: Some(Lsn(0x0300_0100)),
            lag_bytes: Some(0),
            diverged: false,
            replication: vec![ReplicationView {
                name: "postgres_2_bbbbbbbbbbbbbbbb".into(),
                state: "streaming".into(),
                sync_state: "quorum".into(),
                flush_lsn: Some(Lsn(0x0300_0100)),
                lag_bytes: Some(0),
            }],
        },
        peers: vec![PeerView {
            member: "postgres-2".parse().unwrap(),
            age_ms: Some(90),
            role: Some(Role::Standby),
            data_id: Some(data_id),
            pledged_term: Some(Term(7)),
            position: Some(position),
            error: None,
        }],
        could_fail_over: CouldFailOverView {
            answer: CouldFailOver {
                yes: true,
                to: Some("postgres-2".parse().unwrap()),
                about_ms: Some(400),
                missing: String::new(),
            },
            told_by: Some("postgres-1".parse().unwrap()),
            age_ms: Some(300),
            stale: false,
        },
        warnings: vec!["postgres-3 does not answer".into()],
        rights: RightsView {
            checked_at: Some("2026-01-02T03:00:00Z".into()),
            unknown: 0,
            missing: vec![MissingRight {
                verb: "patch".into(),
                group: "apps".into(),
                resource: "statefulsets".into(),
                name: Some("postgres-2".into()),
                text: "its env stays as it is".into(),
            }],
        },
        settings: SettingsView {
            lease: "postgres".into(),
            service: "postgres".into(),
            lease_duration_ms: 10_000,
            renew_interval_ms: 1_000,
            silence_timeout_ms: 1_500,
            durability: "sync".into(),
            availability: "available".into(),
            maximum_lag_bytes: 1 << 20,
            maximum_read_lag_bytes: 1 << 24,
            patch_env: true,
        },
        build: Build::this(),
    }
}

/// A page of which nothing is known yet.
fn bare() -> StatusPage {
    let mut page = example();
    page.role = Role::Unknown;
    page.record = None;
    page.record_error = Some("the Lease has no record".into());
    page.guard = None;
    page.lease.holder = None;
    page.lease.age_ms = None;
    page.lease.contact_age_ms = None;
    page.postgres = PostgresView {
        answers: false,
        error: Some("connection refused".into()),
        age_ms: None,
        timeline: None,
        lsn: None,
        lag_bytes: None,
        diverged: false,
        replication: Vec::new(),
    };
    page.peers[0] = PeerView {
        member: "postgres-2".parse().unwrap(),
        age_ms: None,
        role: None,
        data_id: None,
        pledged_term: None,
        position: None,
        error: Some("timed out".into()),
    };
    page.rights.checked_at = None;
    page.rights.missing[0].name = None;
    page.could_fail_over = CouldFailOverView {
        answer: CouldFailOver {
            missing: "no standby answers".into(),
            ..CouldFailOver::default()
        },
        ..CouldFailOverView::default()
    };
    page
}

struct Checker {
    root: Value,
}

impl Checker {
    fn check(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        for (keyword, rule) in schema.as_object().unwrap() {
            let good = match keyword.as_str() {
                "$schema" | "$defs" | "title" | "description" => true,
                "$ref" => {
                    let target = self.root.pointer(&rule.as_str().unwrap()[1..]).unwrap();
                    self.check(target, value, at, wrong);
                    true
                }
                "anyOf" => rule.as_array().unwrap().iter().any(|option| {
                    let mut inner = Vec::new();
                    self.check(option, value, at, &mut inner);
                    inner.is_empty()
                }),
                "type" => is_a(value, rule.as_str().unwrap()),
                "const" => value == rule,
                "enum" => rule.as_array().unwrap().contains(value),
                "minimum" => value.as_f64() >= rule.as_f64(),
                "maximum" => value.as_f64() <= rule.as_f64(),
                "pattern" => value
                    .as_str()
                    .is_some_and(|text| matches(rule.as_str().unwrap(), text)),
                "required" => rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|key| value.get(key.as_str().unwrap()).is_some()),
                "properties" => {
                    self.properties(schema, value, at, wrong);
                    true
                }
                "items" => {
                    for (n, item) in value.as_array().unwrap_or(&vec![]).iter().enumerate() {
                        self.check(rule, item, &format!("{at}/{n}"), wrong);
                    }
                    true
                }
                other => panic!("the schema uses '{other}', which this test does not know"),
            };
            if !good {
                wrong.push(format!("{at}: {keyword} {rule} does not hold for {value}"));
            }
        }
    }

    fn properties(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        let known = schema["properties"].as_object().unwrap();
        for (key, item) in value.as_object().into_iter().flatten() {
            match known.get(key) {
                Some(rule) => self.check(rule, item, &format!("{at}/{key}"), wrong),
                // Readers tolerate unknown fields; here each one is to be described.
                None => wrong.push(format!("{at}: unknown field {key}")),
            }
        }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the schema uses type '{other}', which this test does not know"),
    }
}

/// The patterns of the schema, by hand: no engine for five of them.
fn matches(pattern: &str, text: &str) -> bool {
    let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    match pattern {
        "^[0-9]+$" => digits(text),
        "^[0-9a-f]{16}$" => text.len() == 16 && text.bytes().all(lower_hex),
        "^[a-z0-9_]+$" => {
            let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !text.is_empty() && text.bytes().all(word)
        }
        "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$" => text.parse::<Lsn>().is_ok() && text.to_ascii_uppercase() == text,
        "^[a-z0-9]([a-z0-9-]*[a-z0-9])?$" => text.parse::<MemberName>().is_ok(),
        other => panic!("the schema uses pattern '{other}', which this test does not know"),
    }
}

fn wrong(page: &Value) -> Vec<String> {
    let text = include_str!("../../docs/status.schema.json");
    let root: Value = serde_json::from_str(text).unwrap();
    let checker = Checker { root };
    let mut wrong = Vec::new();
    checker.check(&checker.root, page, "", &mut wrong);
    wrong
}

#[test]
fn the_page_is_as_its_schema_says() {
    for page in [example(), bare()] {
        assert_eq!(wrong(&serde_json::to_value(page).unwrap()), Vec::<String>::new());
    }
    for role in Role::ALL {
        assert_eq!(json!(role), json!(role.as_str()));
        let page = StatusPage { role, ..example() };
        assert_eq!(wrong(&serde_json::to_value(page).unwrap()), Vec::<String>::new());
    }
}

#[test]
fn the_check_sees_what_is_wrong() {
    let good = serde_json::to_value(example()).unwrap();
    let broken = |pointer: &str, value: Value| {
        let mut page = good.clone();
        *page.pointer_mut(pointer).unwrap() = value;
        wrong(&page)
    };
    assert!(!broken("/role", json!("boss")).is_empty());
    assert!(!broken("/term", json!(-1)).is_empty());
    assert!(!broken("/guard/data_id", json!("xyz")).is_empty());
    assert!(!broken("/record/primary/address", json!({})).is_empty());
    assert!(!broken("/postgres/replication/0", json!({})).is_empty());
    let mut page = good.clone();
    page["postgres"]["surprise"] = json!(1);
    assert_eq!(wrong(&page), ["/postgres: unknown field surprise"]);
    page["postgres"].as_object_mut().unwrap().remove("surprise");
    page.as_object_mut().unwrap().remove("phase");
    assert_eq!(wrong(&page).len(), 1);
}

#[test]
fn the_page_is_read_back_as_written() {
    for page in [example(), bare()] {
        let text = serde_json::to_string(&page).unwrap();
        assert_eq!(serde_json::from_str::<StatusPage>(&text).unwrap(), page);
    }
}

#[test]
fn ready_is_what_answers_and_has_not_diverged() {
    let mut page = example();
    assert_eq!(page.not_ready(), None);
    // An outage of the API server, or a damaged record, takes no reader away.
    page.record = None;
    page.lease.contact_age_ms = None;
    assert_eq!(page.not_ready(), None);
    page.postgres.diverged = true;
    assert!(page.not_ready().is_some_and(|why| why.contains("diverged")));
    let why = bare().not_ready().unwrap();
    assert!(why.contains("connection refused"), "{why}");
}
