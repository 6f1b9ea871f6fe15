//! Watchers of a real cluster: the timeline's lines, the Lease's history, and an oracle's writer at each address that a pod ever had.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::kube::{Kind, Kube, text};
use super::target::{PodSeen, Target, pod_seen};
use crate::names::{CLUSTER, SIDECAR_CONTAINER};
use crate::oracles::observer::{LOOK, Log, MemberLines, ObjectLines, Observer};
use crate::oracles::writers::Oracle;

/// Between two looks at the pods.
const PODS: Duration = Duration::from_millis(300);

/// The pods as they were seen last, by member.
type Pods = Arc<Mutex<BTreeMap<String, PodSeen>>>;
/// Each version of the Lease that was seen.
pub type LeaseHistory = Arc<Mutex<Vec<Value>>>;

/// Starts to watch, and to write at every address.
#[must_use]
pub fn start(target: &Target, oracle: &Arc<Oracle>) -> (Observer, LeaseHistory) {
    let mut observer = Observer::default();
    let pods = Pods::default();
    let history = LeaseHistory::default();
    observer.spawn(|_| addresses(target.kube.clone(), pods.clone(), oracle.clone()));
    observer.spawn(|log| objects(target.kube.clone(), history.clone(), log));
    for member in &target.members {
        observer.spawn(|log| member_lines(member.clone(), pods.clone(), log));
    }
    (observer, history)
}

async fn addresses(kube: Kube, pods: Pods, oracle: Arc<Oracle>) {
    loop {
        if let Ok(list) = kube.list(Kind::Pod).await {
            let seen: BTreeMap<String, PodSeen> = list
                .iter()
                .filter_map(|pod| Some((text(pod, "/metadata/labels/app")?, pod_seen(pod)?)))
                .collect();
            let unguarded: BTreeSet<String> = list
                .iter()
                .filter(|pod| !is_guarded(pod))
                .filter_map(|pod| text(pod, "/metadata/uid"))
                .collect();
            for (member, pod) in &seen {
                // Nobody holds back a server without guard: that it takes writes is no answer of pgbaton's.
                if let Some(ip) = pod.ip.filter(|_| !unguarded.contains(&pod.uid)) {
                    oracle.watch(member, ip);
                }
            }
            *pods.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        }
        sleep(PODS).await;
    }
}

fn is_guarded(pod: &Value) -> bool {
    let lists = ["/spec/initContainers", "/spec/containers"];
    let containers = lists
        .iter()
        .filter_map(|list| pod.pointer(list)?.as_array())
        .flatten();
    containers
        .filter_map(|container| container["name"].as_str())
        .any(|name| name == SIDECAR_CONTAINER)
}

async fn member_lines(member: String, pods: Pods, log: Arc<Log>) {
    let mut lines = MemberLines::default();
    loop {
        let ip = {
            let pods = pods.lock().unwrap_or_else(PoisonError::into_inner);
            pods.get(&member).and_then(|pod| pod.ip)
        };
        lines.look(&log, &member, ip).await;
        sleep(LOOK).await;
    }
}

async fn objects(kube: Kube, history: LeaseHistory, log: Arc<Log>) {
    let mut lines = ObjectLines::default();
    let mut version = None;
    let (lease_path, service_path) = (kube.path(Kind::Lease, CLUSTER), kube.path(Kind::Service, CLUSTER));
    loop {
        // No answer is no news.
        if let Ok(lease) = kube.get(&lease_path).await {
            lines.lease(&log, lease.as_ref());
            let now = lease
                .as_ref()
                .and_then(|lease| text(lease, "/metadata/resourceVersion"));
            if now != version {
                version = now;
                let entry = json!({ "seen": Timestamp::now().to_string(), "lease": lease });
                history.lock().unwrap_or_else(PoisonError::into_inner).push(entry);
            }
        }
        if let Ok(service) = kube.get(&service_path).await {
            lines.service(&log, service.as_ref());
        }
        sleep(LOOK).await;
    }
}
