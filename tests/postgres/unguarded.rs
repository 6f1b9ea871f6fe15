//! Servers that no guard holds, found by a real login on a real PostgreSQL.

use std::time::{Duration, Instant};

use crate::pg::{Server, superuser};
use pgbaton::core::types::{Address, SystemId};
use pgbaton::runtime::brain::Input;
use pgbaton::runtime::unguarded::{Suspects, Unguarded, Unheld, look};
use tokio::sync::{mpsc, watch};

/// People must know within this time.
const AT_ONCE: Duration = Duration::from_secs(2);

fn plan(cluster: SystemId, servers: &[(&str, &Server)]) -> Suspects {
    let at = |server: &Server| Address {
        ip: server.at().host,
        postgres_port: server.port,
        sidecar_port: 1,
    };
    Suspects {
        cluster: Some(cluster),
        whom: servers
            .iter()
            .map(|(name, server)| (name.parse().unwrap(), at(server)))
            .collect(),
        ..Suspects::default()
    }
}

async fn told(queue: &mut mpsc::Receiver<Input>, within: Duration) -> Option<Vec<Unguarded>> {
    let input = tokio::time::timeout(within, queue.recv()).await.ok()??;
    match input {
        Input::Unguarded(found) => Some(found),
        other => panic!("{other:?}"),
    }
}

/// What is told once it is of these kinds: each server is told when it is found.
async fn told_as(queue: &mut mpsc::Receiver<Input>, kinds: &[Unheld]) -> Vec<Unguarded> {
    let mut last = Vec::new();
    while let Some(found) = told(queue, 5 * AT_ONCE).await {
        if found.iter().map(|server| server.what).eq(kinds.iter().copied()) {
            return found;
        }
        last = found;
    }
    panic!("told last: {last:?}, not {kinds:?}")
}

#[tokio::test]
async fn a_read_write_server_without_a_guard_is_found_at_once() {
    let primary = Server::new("");
    let cluster = primary.primary().await.server.system_identifier;
    let standby = Server::standby_of(&primary, "postgres_3", "");
    standby.standby_when("follows", |_| true).await;
    let (sender, receiver) = watch::channel(Suspects::default());
    let (inputs, mut queue) = mpsc::channel(8);
    tokio::spawn(look(superuser(), receiver, inputs));

    // Two that take no writes of this cluster are told as what they are; one with other data only where the member's name leads.
    for (cluster, name, server, what, part) in [
        (
            cluster,
            "postgres-3",
            &standby,
            Unheld::Standby,
            "runs without a guard",
        ),
        (
            SystemId(1),
            "localhost",
            &primary,
            Unheld::Foreign,
            "another cluster's data",
        ),
    ] {
        sender.send_replace(plan(cluster, &[(name, server)]));
        let found = told_as(&mut queue, &[what]).await;
        assert!(found[0].text.contains(part), "{found:?}");
    }
    sender.send_replace(Suspects::default());
    told_as(&mut queue, &[]).await;

    let began = Instant::now();
    // An address where nobody answers holds nobody up.
    let both = plan(cluster, &[("postgres-2", &primary), ("postgres-3", &standby)]);
    sender.send_replace(both);
    let found = told_as(&mut queue, &[Unheld::Primary, Unheld::Standby]).await;
    // A loaded machine may be slow to log in; by itself it takes some milliseconds.
    assert!(began.elapsed() < 2 * AT_ONCE, "{:?}", began.elapsed());
    for part in [
        "postgres-2",
        &primary.at().to_string(),
        "no guard holds it",
        "stop it",
    ] {
        assert!(found[0].text.contains(part), "{part} is not in {found:?}");
    }
    // The standby is promoted by hand: a second one.
    standby.sql("SELECT pg_promote()").await;
    told_as(&mut queue, &[Unheld::Primary, Unheld::Primary]).await;
    // Its sidecar answers again, or it is gone: nothing is left to tell.
    sender.send_replace(Suspects::default());
    told_as(&mut queue, &[]).await;
}
