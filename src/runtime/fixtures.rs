//! A small cluster as values, for the unit tests of this folder.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::settings::SidecarSettings;
use crate::core::observe::{LeaseView, Observation, PeerReport, RecordView, SeenLease, ServerView, Settings};
use crate::core::phase::Phase;
use crate::core::record::{Availability, Durability, Evidence, Member, Record, SyncSet};
use crate::core::state::State;
use crate::core::types::{Address, DataId, Lsn, MemberName, Millis, SystemId, Term, Timeline};
use crate::core::why::Why;
use crate::core::{decide::Decision, observe::GuardView, observe::Lanes};
use crate::guard::protocol::{Secret, Server, Status};
use crate::postgres::{Credentials, ServerAt};

pub(crate) const CLUSTER: SystemId = SystemId(7_300_000_000_000_000_001);

pub(crate) fn name(number: u8) -> MemberName {
    format!("postgres-{number}").parse().unwrap()
}

pub(crate) fn address(number: u8) -> Address {
    Address {
        ip: format!("127.0.0.{}", 10 + number),
        postgres_port: 5432,
        sidecar_port: 8008,
    }
}

pub(crate) fn member(number: u8) -> Member {
    Member {
        member: name(number),
        data_id: DataId::from_random([number; 8]),
        address: address(number),
    }
}

/// Of a member whose pod UID is `u<number>`.
pub(crate) fn settings(number: u8) -> SidecarSettings {
    let core = Settings {
        me: name(number),
        holder: format!("postgres-{number}_u{number}"),
        address: address(number),
        first_primary: false,
        lease_duration: Millis(10_000),
        renew_interval: Millis(1_000),
        permit: Millis(8_000),
        health_timeout: Millis(3_000),
        pledge_timeout: Millis(3_000),
        silence_timeout: Millis(1_500),
        standby_timeout: Millis(3_000),
        sync_standbys: 1,
        maximum_lag: 1_048_576,
    };
    SidecarSettings {
        core,
        namespace: "default".into(),
        pod_uid: format!("u{number}"),
        lease: "postgres".into(),
        service: "postgres".into(),
        listen: SocketAddr::from(([127, 0, 0, 10 + number], 8008)),
        allowed_hosts: [].into(),
        run_dir: PathBuf::from("/pgbaton"),
        kubeconfig: None,
        server: ServerAt {
            host: address(number).ip,
            port: 5432,
        },
        superuser: Credentials {
            user: "postgres".into(),
            password: Some(Secret("p".into())),
            database: "postgres".into(),
        },
        replication_user: "replicator".into(),
        replication_password: Secret("r".into()),
        replication_password_previous: None,
        patch_env: true,
        durability: "sync".into(),
        availability: "available".into(),
        maximum_read_lag: 16_777_216,
        replace_data: false,
        preflight_interval: Duration::from_secs(720),
        server_addresses: [].into(),
    }
}

/// Term 3, led by postgres-1, with `members` members and the others in the sync set.
pub(crate) fn record(members: u8) -> Record {
    let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
    record.system_identifier = Some(CLUSTER);
    record.term = Term(3);
    record.primary = Some(member(1));
    record.timeline = Some(Timeline(1));
    record.timelines_given = [Timeline(1)].into();
    record.members = (1..=members).map(member).collect();
    record.sync_sets = vec![SyncSet {
        k: 1,
        standbys: (2..=members).map(|n| member(n).data()).collect(),
    }];
    record
}

/// A Lease that postgres-1 holds.
pub(crate) fn lease(record: Record) -> SeenLease {
    SeenLease {
        version: "7".into(),
        holder: Some("postgres-1_u1".into()),
        term: record.term,
        duration: Millis(10_000),
        record: RecordView::Good(Box::new(record)),
        unchanged_for: Millis(300),
        order: None,
    }
}

pub(crate) fn status(number: u8, server: &Server) -> Status {
    serde_json::from_value(serde_json::json!({
        "boot_id": "b", "revision": 1, "now_boot_ms": 0, "data": "complete",
        "system_identifier": CLUSTER, "major_version": 15, "data_id": member(number).data_id,
        "highest_term": 3, "knows_term": true, "pledge": null, "permit": null, "server": server,
        "rest": null, "synchronous_standby_names": "", "following": null, "operation": null,
        "last_operation": null, "stopping": false, "disk_free": 1_u64 << 40, "disk_total": 1_u64 << 41, "warning": "",
    }))
    .unwrap()
}

pub(crate) const NOW: Millis = Millis(100_000);

pub(crate) fn heard<T>(value: T) -> Evidence<T> {
    Evidence { value, asked_at: NOW }
}

/// A member's answer: a running standby.
pub(crate) fn standby(number: u8) -> PeerReport {
    PeerReport {
        member: name(number),
        pod_uid: format!("u{number}"),
        address: address(number),
        guard: Some(status(number, &Server::Standby)),
        server: Some(ServerView::Standby {
            receive: Some(Lsn(0x300)),
            replay: Some(Lsn(0x300)),
            streaming: true,
            timeline: None,
        }),
        terminating: false,
        stepped_down_in_ms: None,
        wall_ms: None,
        missing_rights: 0,
    }
}

#[allow(clippy::needless_pass_by_value, reason = "shorter at each call")]
pub(crate) fn seen(number: u8, server: Server, lease: SeenLease) -> Observation {
    Observation {
        now: NOW,
        now_boot: NOW,
        unix_ms: 1,
        lease: LeaseView::Seen(Box::new(lease)),
        guard: GuardView::Heard(Box::new(heard(status(number, &server)))),
        server: None,
        peers: [].into(),
        survey: crate::core::adoption::Survey::NotYet,
        promises: [].into(),
        promised_until: None,
        holder: None,
        told_term: None,
        lanes: Lanes::default(),
        outcomes: Vec::new(),
        service_points_to: None,
        service_term: None,
        answered_orders: [].into(),
    }
}

pub(crate) fn decision(phase: Phase, why: Why) -> Decision {
    Decision {
        state: State::default(),
        phase,
        why,
        actions: Vec::new(),
        wake_at: NOW,
        ask_peers_every: Millis(500),
        probe_every: Millis(500),
        heartbeat: None,
        may_promise: None,
        listed: true,
    }
}
