//! What a leader keeps, on a real primary with real standbys: names in force, positions, slots, role, archive.

use std::collections::BTreeSet;

use crate::pg::{BUDGET, Server, Stopped, login};
use nix::sys::signal::Signal;
use pgbaton::core::in_force::{self, InForce, NamesChange};
use pgbaton::core::probe::{PrimaryView, Probe};
use pgbaton::core::record::SyncSet;
use pgbaton::core::types::{DataId, Lsn, MemberData, MemberName};
use pgbaton::guard::protocol::Secret;
use pgbaton::postgres::leader::{
    ArchiveKept, checkpoint, ensure_slots, keep_archive_directory, terminate_walsenders,
};
use pgbaton::postgres::remote::takes_password;
use pgbaton::postgres::role::{RoleChange, RoleKeeper};
use pgbaton::postgres::source::{read_size, read_source};
use pgbaton::postgres::{Health, Prober};

fn member(name: &str) -> MemberName {
    name.parse().unwrap()
}

fn data(name: &str, n: u8) -> MemberData {
    MemberData {
        member: member(name),
        data_id: DataId::from_random([n; 8]),
    }
}

fn set(k: u32, standbys: &[&MemberData]) -> SyncSet {
    SyncSet {
        k,
        standbys: standbys.iter().map(|&s| s.clone()).collect(),
    }
}

async fn use_names(primary: &Server, set: &SyncSet) -> PrimaryView {
    primary
        .sql(&format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{}'; SELECT pg_reload_conf()",
            set.names()
        ))
        .await;
    primary
        .primary_when("shows the names", |view| view.names == set.names())
        .await
}

fn streams(view: &PrimaryView, standby: &MemberData) -> bool {
    let name = standby.standby_name();
    view.replication
        .iter()
        .any(|r| r.application_name == name && r.state.as_deref() == Some("streaming"))
}

fn walsender_of(view: &PrimaryView, standby: &MemberData) -> i32 {
    let name = standby.standby_name();
    view.replication
        .iter()
        .find(|r| r.application_name == name)
        .unwrap()
        .walsender
        .pid
}

#[tokio::test]
async fn names_are_in_force_only_when_everybody_obeys_them() {
    let (m2, m3) = (data("postgres-2", 2), data("postgres-3", 3));
    let primary = Server::new("wal_log_hints = on\nmax_slot_wal_keep_size = 1GB");
    primary.primary().await;
    let two = Server::standby_of(&primary, &m2.standby_name(), "");
    let three = Server::standby_of(&primary, &m3.standby_name(), "");
    let view = primary
        .primary_when("both stream", |v| streams(v, &m2) && streams(v, &m3))
        .await;
    assert_eq!(view.server.warnings, Vec::<String>::new());
    let none = NamesChange::default();

    // From empty: a checkpoint is asked for besides.
    assert_eq!(in_force(&view, &SyncSet::empty(), &none), InForce::Yes);
    let both = set(1, &[&m2, &m3]);
    assert!(matches!(in_force(&view, &both, &none), InForce::OtherNames));
    let view = use_names(&primary, &both).await;
    let due = NamesChange {
        checkpoint_due: true,
        ..NamesChange::default()
    };
    assert_eq!(in_force(&view, &both, &due), InForce::CheckpointDue);
    let mut session = primary.session().await;
    checkpoint(&mut session, BUDGET).await.unwrap();
    assert_eq!(in_force(&primary.primary().await, &both, &none), InForce::Yes);
    let mut prober = primary.prober();
    let Probe::Primary(kept) = prober.probe_kept(BUDGET, Health::Read).await else {
        panic!("no primary")
    };
    assert!(
        !kept.server.fresh,
        "the core gets looks on fresh connections only"
    );

    // Who has flushed what: with m3's receiver stopped only m2 gets further.
    let standby = three.standby_when("streams", |v| v.receiver.is_some()).await;
    let receiver = Stopped::new(standby.receiver.unwrap().pid);
    prober.verify_writable(BUDGET).await.unwrap();
    let position = primary.primary().await.insert_lsn;
    let only_two = BTreeSet::from([m2.standby_name()]);
    primary
        .primary_when("m2 has it", |v| flushed(v, position) == only_two)
        .await;
    drop(receiver);
    let all = BTreeSet::from([m2.standby_name(), m3.standby_name()]);
    let view = primary
        .primary_when("m3 has it too", |v| flushed(v, position) == all)
        .await;

    // A stopped walsender keeps its priority after its name went.
    let walsender = Stopped::new(walsender_of(&view, &m3));
    let narrow = set(1, &[&m2]);
    let view = use_names(&primary, &narrow).await;
    let still = InForce::StillCounted {
        standbys: BTreeSet::from([m3.standby_name()]),
    };
    assert_eq!(in_force(&view, &narrow, &none), still);
    drop(walsender);
    primary
        .primary_when("in force", |v| in_force(v, &narrow, &none) == InForce::Yes)
        .await;

    // Raising k: every walsender ends once. A stopped one is told as left.
    let strict = set(2, &[&m2, &m3]);
    let view = use_names(&primary, &strict).await;
    let walsenders = view.walsenders();
    let raised = NamesChange {
        must_end: walsenders.iter().map(|w| w.pid).collect(),
        ..NamesChange::default()
    };
    assert!(matches!(in_force(&view, &strict, &raised), InForce::WalsendersLeft { pids } if pids.len() == 2));
    let walsender = Stopped::new(walsender_of(&view, &m3));
    let short = std::time::Duration::from_millis(500);
    let left = terminate_walsenders(&mut session, &walsenders, short)
        .await
        .unwrap();
    assert_eq!(
        left.iter().map(|w| w.pid).collect::<Vec<_>>(),
        [walsender_of(&view, &m3)]
    );
    drop(walsender);
    assert!(
        terminate_walsenders(&mut session, &walsenders, BUDGET)
            .await
            .unwrap()
            .is_empty()
    );
    primary
        .primary_when("in force", |v| in_force(v, &strict, &raised) == InForce::Yes)
        .await;
    primary
        .primary_when("both stream again", |v| streams(v, &m2) && streams(v, &m3))
        .await;
    writes_wait_but_ours_do_not(&primary, two).await;
}

fn in_force(view: &PrimaryView, set: &SyncSet, change: &NamesChange) -> InForce {
    in_force::judge(set, &view.names, &view.rows(), change)
}

/// Names of the standbys that have flushed everything before `position`.
fn flushed(view: &PrimaryView, position: Lsn) -> BTreeSet<String> {
    let rows = view.rows().into_iter();
    rows.filter(|row| row.flush.is_some_and(|flush| flush >= position))
        .map(|row| row.name)
        .collect()
}

/// With nobody to acknowledge, a client's commit hangs; health, role and slots do not.
async fn writes_wait_but_ours_do_not(primary: &Server, mut two: Server) {
    two.end(Signal::SIGINT);
    let client = primary.client().await;
    let hangs = client.batch_execute("SET statement_timeout = 0; CREATE TABLE waits ()");
    let waited = tokio::time::timeout(std::time::Duration::from_millis(500), hangs).await;
    assert!(waited.is_err(), "a commit was acknowledged without its quorum");
    let look = primary.prober().verify_writable(BUDGET).await.unwrap();
    assert!(look.health_write_ms.is_some());
    let mut session = primary.session().await;
    let secret = Secret("x".to_owned());
    let made = RoleKeeper::default()
        .ensure(&mut session, "waiting", &secret, BUDGET)
        .await
        .unwrap();
    assert_eq!(made, RoleChange::Created);
}

#[tokio::test]
async fn a_standby_tells_what_it_holds() {
    let m2 = data("postgres-2", 2);
    let primary = Server::new("");
    primary.primary().await;
    primary
        .sql("SELECT pg_create_physical_replication_slot('postgres_2', true)")
        .await;
    let standby = Server::standby_of(
        &primary,
        &m2.standby_name(),
        "primary_slot_name = postgres_2\nsynchronous_standby_names = '\"nobody\"'",
    );
    let streaming = |r: &pgbaton::core::probe::Receiver| r.status == "streaming" && r.slot.is_some();
    let view = standby
        .standby_when("streams", |v| v.receiver.as_ref().is_some_and(streaming))
        .await;
    let receiver = view.receiver.clone().unwrap();
    assert_eq!(receiver.slot.as_deref(), Some("postgres_2"));
    assert_eq!(
        (receiver.host.as_deref(), receiver.port),
        (Some("127.0.0.1"), Some(i32::from(primary.port)))
    );
    assert!(view.conninfo_set && !view.replay_paused && view.names == "\"nobody\"");
    assert_eq!(
        view.server.system_identifier,
        primary.primary().await.server.system_identifier
    );
    let json = serde_json::to_string(&Probe::Standby(view.clone())).unwrap();
    assert_eq!(
        serde_json::from_str::<Probe>(&json).unwrap(),
        Probe::Standby(view),
        "{json}"
    );

    // A health write asked of a standby does nothing; nor is it writable.
    let refused = standby.prober().verify_writable(BUDGET).await.unwrap_err();
    assert!(refused.starts_with("standby"), "{refused}");

    // Paused replay and a cleared conninfo are seen; received WAL stays ahead of replayed WAL.
    standby.sql("SELECT pg_wal_replay_pause()").await;
    standby.standby_when("paused", |v| v.replay_paused).await;
    primary
        .sql("CREATE TABLE t AS SELECT generate_series(1, 1000)")
        .await;
    let position = primary.primary().await.insert_lsn;
    standby
        .standby_when("received, not replayed", |v| {
            v.receive_lsn >= Some(position) && v.replay_lsn < v.receive_lsn
        })
        .await;
    standby
        .sql("ALTER SYSTEM SET primary_conninfo = ''; SELECT pg_reload_conf()")
        .await;
    standby
        .standby_when("conninfo cleared", |v| !v.conninfo_set)
        .await;

    // Promoted: another timeline, writable.
    standby
        .sql("SELECT pg_wal_replay_resume(); SELECT pg_promote()")
        .await;
    let promoted = standby.prober().verify_writable(BUDGET).await.unwrap();
    assert_eq!(promoted.server.timeline.0, 2);
}

/// While the password is rotated a member finds out which one an upstream takes; a server that does not answer says nothing.
async fn which_password_is_taken(server: &Server, user: &str, wrong: &str, right: &str) {
    for (password, taken) in [(wrong, Some(false)), (right, Some(true))] {
        let with = login(user, password);
        assert_eq!(takes_password(&server.at(), &with, BUDGET).await, taken);
    }
    let mut nowhere = server.at();
    nowhere.port = crate::pg::free_port();
    assert_eq!(takes_password(&nowhere, &login(user, right), BUDGET).await, None);
}

#[tokio::test]
async fn the_replication_role_follows_the_secret() {
    let server = Server::new("log_statement = all\nlog_min_duration_statement = 0");
    server.primary().await;
    let mut session = server.session().await;
    let mut keeper = RoleKeeper::default();
    let user = "repl\"i'cation\\user";
    let (first, second) = ("first 'sécret' \\ \"1\"", "hunter2");
    let mut ensure = async |password: &str| {
        keeper
            .ensure(&mut session, user, &Secret(password.to_owned()), BUDGET)
            .await
            .unwrap()
    };
    assert_eq!(ensure(first).await, RoleChange::Created);
    assert_eq!(ensure(first).await, RoleChange::Unchanged);
    let lets_in = async |password: &str| {
        let probe = Prober::new(server.at(), login(user, password))
            .probe_fresh(BUDGET, Health::Read)
            .await;
        match probe {
            Probe::AuthFailed { sqlstate, .. } if sqlstate.as_deref() == Some("28P01") => false,
            // Let in; an ordinary role may not read pg_control, which is another matter.
            Probe::AuthFailed { .. } | Probe::Broken { .. } | Probe::Primary(_) => true,
            other => panic!("{other:?}"),
        }
    };
    assert!(lets_in(first).await && !lets_in(second).await);
    assert_eq!(ensure(second).await, RoleChange::Altered);
    assert!(lets_in(second).await && !lets_in(first).await);
    which_password_is_taken(&server, user, first, second).await;

    // Changed behind our back (another password, no login, md5): put right.
    let quoted = "\"repl\"\"i'cation\\user\"";
    for change in [
        "PASSWORD 'theirs'",
        "NOLOGIN",
        "NOREPLICATION",
        "PASSWORD NULL",
        "PASSWORD 'md50123456789abcdef0123456789abcdef'",
    ] {
        server.sql(&format!("ALTER ROLE {quoted} {change}")).await;
        assert_eq!(ensure(second).await, RoleChange::Altered, "{change}");
        assert_eq!(ensure(second).await, RoleChange::Unchanged, "{change}");
    }
    // A new process finds the stored password good without changing it.
    let mut fresh = RoleKeeper::default();
    let again = fresh
        .ensure(
            &mut server.session().await,
            user,
            &Secret(second.to_owned()),
            BUDGET,
        )
        .await
        .unwrap();
    assert_eq!(again, RoleChange::Unchanged);
    let log = server.log();
    assert!(log.contains("theirs"), "the server logs statements");
    let secret = |line: &&str| {
        ["SCRAM-SHA-256$", "hunter2", "sécret"]
            .iter()
            .any(|s| line.contains(s))
    };
    assert_eq!(log.lines().find(secret), None, "a secret is logged");
}

#[tokio::test]
async fn slots_archive_and_source() {
    let server = Server::new("");
    let archive = server.dir().join("deep/archive");
    let path = archive.display();
    server.primary().await;
    let mut session = server.session().await;

    let (own, others) = (member("postgres-1"), [member("postgres-2"), member("postgres-3")]);
    server.sql("SELECT pg_create_physical_replication_slot('postgres_9'); SELECT pg_create_physical_replication_slot('barman')").await;
    let done = ensure_slots(&mut session, &own, &others, BUDGET).await.unwrap();
    assert_eq!(
        (done.create.len(), done.drop.as_slice()),
        (2, &["postgres_9".to_owned()][..])
    );
    let view = server.primary().await;
    let slots: BTreeSet<&str> = view.slots.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(slots, BTreeSet::from(["barman", "postgres_2", "postgres_3"]));
    let kept = view.slots.iter().find(|s| s.name == "postgres_2").unwrap();
    assert!(
        kept.restart_lsn > Some(Lsn(0)) && kept.wal_status.as_deref() == Some("reserved"),
        "{kept:?}"
    );
    assert_eq!(
        ensure_slots(&mut session, &own, &others, BUDGET).await.unwrap(),
        Default::default()
    );
    let done = ensure_slots(&mut session, &own, &[], BUDGET).await.unwrap();
    assert_eq!(done.drop.len(), 2, "as a standby: none is left");

    assert!(!view.archive.on);
    assert_eq!(
        keep_archive_directory(&mut session, &view.archive, BUDGET)
            .await
            .unwrap(),
        ArchiveKept::Fine
    );
    let source = read_source(&mut session, BUDGET).await.unwrap();
    assert_eq!(source.system_identifier, view.server.system_identifier);
    assert!(!source.in_recovery && source.timeline.is_some_and(|t| t.0 == 1));
    assert!(read_size(&mut session, BUDGET).await.unwrap() > 5_000_000);
    assert!(source.warnings().is_empty() && !source.rewindable);

    let mut server = server;
    server.sql(&format!(
        "ALTER SYSTEM SET archive_mode = on; ALTER SYSTEM SET archive_command = 'test ! -f {path}/%f && cp %p {path}/%f'"
    ))
    .await;
    server.end(Signal::SIGINT);
    server.start();
    server.primary().await;
    server.sql("CREATE TABLE t (); SELECT pg_switch_wal()").await;
    let failing = server
        .primary_when("archiving fails", |v| v.archive.failing())
        .await;
    let mut session = server.session().await;
    let created = keep_archive_directory(&mut session, &failing.archive, BUDGET)
        .await
        .unwrap();
    assert_eq!(
        created,
        ArchiveKept::Created {
            directory: path.to_string()
        },
        "{}",
        server.log()
    );
    server
        .primary_when("archiving works", |v| {
            v.archive.last_archived_unix_ms.is_some() && !v.archive.failing()
        })
        .await;
    // What failed before is archived now: there is nothing to mend in it.
    let again = keep_archive_directory(&mut session, &failing.archive, BUDGET)
        .await
        .unwrap();
    assert!(
        matches!(&again, ArchiveKept::Failing { advice } if advice.contains("exists")),
        "{again:?}"
    );
}

/// A server that was killed while it copied, or after the copy and before it noted it, archives again.
#[tokio::test]
async fn a_copy_from_before_a_crash_does_not_stop_the_archive() {
    let archive = tempfile::tempdir().unwrap();
    let path = archive.path().to_str().unwrap().to_owned();
    let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(archive.path(), everybody).unwrap();
    let server = Server::new(&format!(
        "archive_mode = on\narchive_command = 'test ! -f {path}/%f && cp %p {path}/%f'"
    ));
    server.primary().await;
    let mut session = server.session().await;
    let wal = server.data().join("pg_wal");
    for kind in ["whole", "in part", "another"] {
        server.sql("SELECT pg_logical_emit_message(true, '', 'x')").await;
        let client = server.client().await;
        let row = client
            .query_one("SELECT pg_walfile_name(pg_current_wal_insert_lsn())", &[])
            .await
            .unwrap();
        let segment: String = row.get(0);
        let copy = archive.path().join(&segment);
        let mut bytes = std::fs::read(wal.join(&segment)).unwrap();
        match kind {
            // The copy that the archiver will want to make, when the segment is full.
            "whole" => std::fs::write(&copy, b"").unwrap(),
            "in part" => std::fs::write(&copy, &bytes[..4096]).unwrap(),
            _ => {
                bytes[100] ^= 1;
                bytes.reverse();
                std::fs::write(&copy, &bytes).unwrap();
            }
        }
        server.sql("SELECT pg_switch_wal()").await;
        let failing = server
            .primary_when("archiving fails", |v| {
                v.archive.failing() && v.archive.last_failed_wal.as_ref() == Some(&segment)
            })
            .await;
        if kind == "whole" {
            bytes = std::fs::read(wal.join(&segment)).unwrap();
            std::fs::write(&copy, &bytes).unwrap();
        }
        let kept = keep_archive_directory(&mut session, &failing.archive, BUDGET)
            .await
            .unwrap();
        if kind == "another" {
            assert!(matches!(kept, ArchiveKept::Failing { .. }), "{kept:?}");
            assert_eq!(std::fs::read(&copy).unwrap(), bytes, "nobody's file is touched");
            continue;
        }
        assert!(matches!(kept, ArchiveKept::Mended { .. }), "{kind}: {kept:?}");
        let done = wal.join(format!("archive_status/{segment}.done"));
        server.primary_when("it goes on", |_| done.exists()).await;
        assert_eq!(
            std::fs::read(&copy).unwrap(),
            std::fs::read(wal.join(&segment)).unwrap()
        );
    }
}
