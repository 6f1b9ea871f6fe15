//! Each class of probe, as a table and on real servers.

use std::time::Duration;

use crate::pg::{BUDGET, Server, login, superuser};
use nix::sys::signal::Signal;
use pgbaton::core::probe::{Failure, Probe, classify};
use pgbaton::postgres::remote::{Identified, Identity, Reach, identify, reach};
use pgbaton::postgres::{Credentials, Health, Prober, ServerAt};

const SHORT: Duration = Duration::from_millis(700);

#[test]
fn each_failure_has_its_class() {
    let server = |code: &str| Failure::Server {
        sqlstate: code.to_owned(),
        detail: "text".to_owned(),
    };
    let class = |failure| match classify(failure) {
        Probe::Down { .. } => "down",
        Probe::Starting { .. } => "starting",
        Probe::ShuttingDown { .. } => "shutting down",
        Probe::Full { .. } => "full",
        Probe::AuthFailed { .. } => "auth",
        Probe::Hung { .. } => "hung",
        Probe::Broken { .. } => "broken",
        Probe::Standby(_) | Probe::Primary(_) => "answers",
    };
    let detail = || "text".to_owned();
    let table = [
        (Failure::Refused { detail: detail() }, "down", false),
        (Failure::TimedOut { after_ms: 5 }, "hung", false),
        (Failure::Login { detail: detail() }, "auth", true),
        (Failure::Other { detail: detail() }, "broken", false),
        (server("57P03"), "starting", true),
        (server("57P01"), "shutting down", true),
        (server("57P02"), "shutting down", true),
        (server("53300"), "full", true),
        (server("28P01"), "auth", true),
        (server("28000"), "auth", true),
        (server("3D000"), "auth", true),
        (server("42501"), "auth", true),
        (server("53100"), "broken", true),
        (server("58030"), "broken", true),
        (server("XX001"), "broken", true),
    ];
    for (failure, expected, answered) in table {
        assert_eq!(class(failure.clone()), expected, "{failure:?}");
        assert_eq!(classify(failure.clone()).answered(), answered, "{failure:?}");
    }
}

/// One server through its life: what each look says.
#[tokio::test]
async fn a_server_through_its_life() {
    let mut server = Server::new(
        "max_connections = 8\nsuperuser_reserved_connections = 1\nmax_wal_senders = 0\nwal_level = replica",
    );
    let primary = server.primary().await;
    let mut prober = server.prober();

    // A primary: healthy only with a write that reached its disk, and WAL moves by it.
    let Probe::Primary(healthy) = prober.probe_fresh(BUDGET, Health::Write).await else {
        panic!("no primary")
    };
    assert!(healthy.health_write_ms.is_some() && primary.health_write_ms.is_none());
    assert!(healthy.flush_lsn > primary.flush_lsn, "the write was flushed");
    assert_eq!(healthy.server.timeline.0, 1);
    assert!(healthy.server.server_version_num >= 130_000);
    assert_eq!(
        healthy.server.postmaster_start_unix_ms,
        primary.server.postmaster_start_unix_ms
    );
    assert!(
        healthy
            .server
            .warnings
            .iter()
            .any(|w| w.contains("wal_log_hints")),
        "{:?}",
        healthy.server.warnings
    );
    assert!(prober.verify_writable(BUDGET).await.is_ok());
    let json = serde_json::to_string(&Probe::Primary(healthy.clone())).unwrap();
    assert_eq!(
        serde_json::from_str::<Probe>(&json).unwrap(),
        Probe::Primary(healthy),
        "{json}"
    );

    // Read-only by default is not writable, though out of recovery.
    server
        .sql("ALTER SYSTEM SET default_transaction_read_only = on; SELECT pg_reload_conf()")
        .await;
    server.primary_when("read-only", |view| view.read_only).await;
    assert!(
        prober
            .verify_writable(BUDGET)
            .await
            .unwrap_err()
            .contains("default_transaction_read_only")
    );
    let client = server.client().await;
    client
        .batch_execute("SET default_transaction_read_only = off")
        .await
        .unwrap();
    client
        .batch_execute("ALTER SYSTEM RESET default_transaction_read_only")
        .await
        .unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    drop(client);
    server.primary_when("read-write", |view| !view.read_only).await;

    // Not let in, which is not death.
    let as_whom = |credentials: Credentials| Prober::new(server.at(), credentials);
    for credentials in [
        login("nobody", "wrong"),
        Credentials {
            password: None,
            ..login("nobody", "")
        },
        Credentials {
            database: "missing".to_owned(),
            ..superuser()
        },
    ] {
        let probe = as_whom(credentials).probe_fresh(BUDGET, Health::Read).await;
        assert!(
            matches!(&probe, Probe::AuthFailed { .. }) && probe.answered(),
            "{probe:?}"
        );
        assert!(
            !format!("{probe:?} {probe}").contains("wrong"),
            "the password is told: {probe:?}"
        );
    }

    full_is_alive(&server).await;
    hung_is_seen_by_a_fresh_look_only(&server, &mut prober).await;

    // A fast stop is told to the kept connection; then nothing listens.
    assert!(matches!(
        prober.probe_kept(BUDGET, Health::Read).await,
        Probe::Primary(_)
    ));
    server.end(Signal::SIGINT);
    let last = prober.probe_kept(BUDGET, Health::Read).await;
    assert!(
        matches!(last, Probe::ShuttingDown { .. } | Probe::Down { .. }),
        "{last:?}"
    );
    let down = prober.probe_fresh(BUDGET, Health::Write).await;
    assert!(matches!(down, Probe::Down { .. }) && !down.answered(), "{down:?}");
    assert_eq!(
        reach(([127, 0, 0, 1], server.port).into(), BUDGET).await,
        Reach::Refused
    );

    // Back again: another start, same system; the kept connection is made anew.
    server.start();
    let back = server.primary().await;
    assert_ne!(
        back.server.postmaster_start_unix_ms,
        primary.server.postmaster_start_unix_ms
    );
    assert_eq!(back.server.system_identifier, primary.server.system_identifier);
    assert!(matches!(prober.probe_kept(BUDGET, Health::Write).await, Probe::Primary(v) if !v.server.fresh));
}

async fn full_is_alive(server: &Server) {
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.client().await);
    }
    let probe = server.prober().probe_fresh(BUDGET, Health::Write).await;
    assert!(
        matches!(probe, Probe::Full { .. }) && probe.answered(),
        "{probe:?}"
    );
    assert_eq!(
        reach(([127, 0, 0, 1], server.port).into(), BUDGET).await,
        Reach::Alive
    );
    drop(clients);
    server.primary().await;
}

async fn hung_is_seen_by_a_fresh_look_only(server: &Server, prober: &mut Prober) {
    let address = ([127, 0, 0, 1], server.port).into();
    assert!(matches!(
        prober.probe_kept(BUDGET, Health::Read).await,
        Probe::Primary(_)
    ));
    server.signal(Signal::SIGSTOP);
    let hung = prober.probe_fresh(SHORT, Health::Write).await;
    assert!(
        matches!(hung, Probe::Hung { after_ms } if after_ms >= 700) && !hung.answered(),
        "{hung:?}"
    );
    assert!(matches!(reach(address, SHORT).await, Reach::Silent { .. }));
    let kept = prober.probe_kept(BUDGET, Health::Read).await;
    assert!(
        matches!(kept, Probe::Primary(_)),
        "a kept connection cannot see it: {kept:?}"
    );
    server.signal(Signal::SIGCONT);
    server.primary().await;
    assert_eq!(reach(address, BUDGET).await, Reach::Alive);

    // A backend that hangs: the kept look ends in time and the next one uses another connection.
    let client = server.client().await;
    let stopped = crate::pg::Stopped::new(only_look(&client).await);
    let hung = prober.probe_kept(SHORT, Health::Read).await;
    assert!(matches!(hung, Probe::Hung { .. }), "{hung:?}");
    assert!(matches!(
        prober.probe_kept(BUDGET, Health::Read).await,
        Probe::Primary(_)
    ));
    drop(stopped);
}

/// The backend of the kept connection. One of a look that was given up while the server stood still may end a little later.
async fn only_look(client: &tokio_postgres::Client) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbaton'";
    for _ in 0..200 {
        let rows = client.query(sql, &[]).await.unwrap();
        if let [row] = rows.as_slice() {
            return row.get(0);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no single connection of pgbaton's is left");
}

/// Without hot_standby a standby answers 57P03 for ever, as a server in crash recovery does for a while.
#[tokio::test]
async fn a_server_that_takes_no_connections_is_starting() {
    let primary = Server::new("");
    primary.primary().await;
    let standby = Server::standby_of(&primary, "cold", "hot_standby = off");
    let probe = standby
        .until("starting", |p| matches!(p, Probe::Starting { .. }))
        .await;
    assert!(probe.answered());
    assert_eq!(
        reach(([127, 0, 0, 1], standby.port).into(), BUDGET).await,
        Reach::Alive
    );
    let identity = identify(&standby.at(), &superuser(), BUDGET).await;
    assert!(matches!(identity, Identity::Unknown { .. }), "{identity:?}");

    // A listener that is no postmaster, and one that hangs up.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let hang_up = tokio::spawn(async move { listener.accept().await.map(drop) });
    assert_eq!(reach(address, BUDGET).await, Reach::Closed);
    hang_up.await.unwrap().unwrap();

    // Crash recovery: the postmaster is killed, its successor answers in the end as the same system.
    let before = primary.primary().await;
    let mut primary = primary;
    primary
        .sql("CREATE TABLE t AS SELECT generate_series(1, 10000)")
        .await;
    primary.end(Signal::SIGKILL);
    primary.start();
    let after = primary.primary().await;
    assert_eq!(before.server.system_identifier, after.server.system_identifier);
    let here = ServerAt {
        host: "127.0.0.1".to_owned(),
        port: primary.port,
    };
    assert_eq!(
        identify(&here, &superuser(), BUDGET).await,
        Identity::Server(Identified {
            system_identifier: after.server.system_identifier,
            in_recovery: false,
            guarded: false,
        })
    );
}
