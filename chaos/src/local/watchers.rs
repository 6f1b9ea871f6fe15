//! Watchers of the timeline: the rig's store and each member's sidecar.

use std::sync::Arc;

use tokio::time::sleep;

use super::member::Member;
use super::store::{Kind, Store};
use crate::names::CLUSTER;
use crate::oracles::observer::{LOOK, Log, MemberLines, ObjectLines, Observer};

/// Starts to watch.
#[must_use]
pub fn start(store: &Store, members: &[Member]) -> Observer {
    let mut observer = Observer::default();
    for member in members {
        observer.spawn(|log| member_lines(member.clone(), log));
    }
    observer.spawn(|log| record_lines(store.clone(), log));
    observer.spawn(|log| service_lines(store.clone(), log));
    observer
}

async fn member_lines(member: Member, log: Arc<Log>) {
    let mut lines = MemberLines::default();
    loop {
        lines.look(&log, &member.name, Some(member.ip)).await;
        sleep(LOOK).await;
    }
}

async fn record_lines(store: Store, log: Arc<Log>) {
    let mut leases = store.watch_one(Kind::Lease, CLUSTER);
    let mut lines = ObjectLines::default();
    loop {
        let lease = leases.borrow_and_update().clone();
        lines.lease(&log, lease.as_ref());
        if leases.changed().await.is_err() {
            return;
        }
    }
}

async fn service_lines(store: Store, log: Arc<Log>) {
    let mut services = store.watch_one(Kind::Service, CLUSTER);
    let mut lines = ObjectLines::default();
    loop {
        let service = services.borrow_and_update().clone();
        lines.service(&log, service.as_ref());
        if services.changed().await.is_err() {
            return;
        }
    }
}
