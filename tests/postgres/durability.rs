//! What makes a commit count without a standby, and is no setting of pgbaton's: people are told.

use crate::pg::Server;
use nix::sys::signal::Signal;
use pgbaton::core::probe::PrimaryView;

fn warned(view: &PrimaryView, about: &[&str]) -> bool {
    let says = |w: &String| about.iter().all(|part| w.contains(part));
    view.server.warnings.iter().any(says)
}

#[tokio::test]
async fn a_role_or_database_that_does_not_wait_for_standbys_is_named() {
    let server = Server::new("wal_log_hints = on\nmax_slot_wal_keep_size = 1GB");
    assert_eq!(server.primary().await.server.warnings, Vec::<String>::new());
    server
        .sql(
            "CREATE ROLE batch; CREATE ROLE slow; ALTER ROLE slow SET synchronous_commit = remote_apply; \
             ALTER ROLE batch SET synchronous_commit = off; ALTER DATABASE postgres SET synchronous_commit = remote_write",
        )
        .await;
    let view = server.primary().await;
    let both = [
        "synchronous_commit is lowered",
        "role batch",
        "every role in database postgres",
    ];
    assert!(warned(&view, &both), "{:?}", view.server.warnings);
    assert!(
        !warned(&view, &["slow"]),
        "remote_apply waits for more, not for less"
    );
    server
        .sql("ALTER ROLE batch RESET ALL; ALTER DATABASE postgres RESET synchronous_commit")
        .await;
    assert_eq!(server.primary().await.server.warnings, Vec::<String>::new());
    server
        .sql("ALTER SYSTEM SET synchronous_commit = remote_write; SELECT pg_reload_conf()")
        .await;
    let told = |v: &PrimaryView| warned(v, &["synchronous_commit is remote_write"]);
    server.primary_when("told", told).await;
}

/// Hole H8: whoever connects under a standby's name confirms commits for it.
#[tokio::test]
async fn two_connections_under_one_name_of_the_set_are_told() {
    let primary = Server::new(
        "wal_log_hints = on\nmax_slot_wal_keep_size = 1GB\nsynchronous_standby_names = 'ANY 1 (\"m2\")'",
    );
    primary.primary().await;
    let one = Server::standby_of(&primary, "m2", "");
    primary
        .primary_when("it streams", |v| {
            v.replication.iter().any(|r| r.sync_priority > 0)
        })
        .await;
    let twin = Server::standby_of(&primary, "m2", "");
    let told = |v: &PrimaryView| warned(v, &["several connections replicate as m2"]);
    primary.primary_when("told", told).await;
    twin.signal(Signal::SIGQUIT);
    primary.primary_when("gone", |v| !told(v)).await;
    drop((one, twin));
}
