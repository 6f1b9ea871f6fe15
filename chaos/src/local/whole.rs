//! The objects of the rig's API server, for the check whether the cluster is whole.

use std::time::Duration;

use jiff::Timestamp;
use pgbaton::core::record::Record;
use tokio::time::{Instant, sleep};

use super::member::Member;
use super::settings::Settings;
use super::store::{Kind, Store};
use crate::names::CLUSTER;
use crate::oracles::whole::{LOOK, Objects, Server, missing, record_of};

/// The record as the Lease carries it now; none when there is no Lease or no readable record.
#[must_use]
pub fn record(store: &Store) -> Option<Record> {
    record_of(&store.get(Kind::Lease, CLUSTER)?)
}

fn objects(store: &Store, members: &[Member]) -> Objects {
    let named = |kind, object: &dyn Fn(&Member) -> String| {
        let found = |member: &Member| Some((member.name.clone(), store.get(kind, &object(member))?));
        members.iter().filter_map(found).collect()
    };
    Objects {
        lease: store.get(Kind::Lease, CLUSTER),
        service: store.get(Kind::Service, CLUSTER),
        sets: named(Kind::StatefulSet, &|member| member.name.clone()),
        pods: named(Kind::Pod, &Member::pod),
    }
}

/// Waits until the cluster is whole, see `missing`.
///
/// # Errors
/// What is still missing after `bound`.
pub async fn wait(
    settings: &Settings,
    store: &Store,
    members: &[Member],
    since: Option<Timestamp>,
    bound: Duration,
) -> Result<(), Vec<String>> {
    let server = |member: &Member| Server {
        name: member.name.clone(),
        ip: member.ip,
    };
    let servers: Vec<Server> = members.iter().map(server).collect();
    let deadline = Instant::now() + bound;
    loop {
        let missing = missing(&settings.login, &objects(store, members), &servers, since).await;
        if missing.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(missing);
        }
        sleep(LOOK).await;
    }
}
