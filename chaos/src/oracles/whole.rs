//! Is the cluster whole? One primary, everybody else streaming from it, and Kubernetes' objects saying the same.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use pgbaton::core::record::{Durability, Record};
use pgbaton::lease::record_text;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::sql::{self, Login};
use crate::names::{PRIMARY_ADDRESS, STANDBY_MODE};

/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(100);
/// How long one look waits for a standby to replay what the primary had flushed when the look began.
const CATCH_UP: Duration = Duration::from_secs(1);

/// Kubernetes' objects of the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Objects {
    /// The Lease.
    pub lease: Option<Value>,
    /// The read-write Service.
    pub service: Option<Value>,
    /// StatefulSets by name.
    pub sets: BTreeMap<String, Value>,
    /// Pods by their member's name.
    pub pods: BTreeMap<String, Value>,
}

impl Objects {
    /// The record as the Lease carries it; none when there is no Lease or no readable record.
    #[must_use]
    pub fn record(&self) -> Option<Record> {
        record_of(self.lease.as_ref()?)
    }
}

/// A member's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Its member's name.
    pub name: String,
    /// The pod's address.
    pub ip: Ipv4Addr,
}

/// The record in a Lease object.
#[must_use]
pub fn record_of(lease: &Value) -> Option<Record> {
    let lease: Lease = serde_json::from_value(lease.clone()).ok()?;
    let annotations = lease.metadata.annotations.unwrap_or_default();
    let text = record_text(&lease.spec.unwrap_or_default(), &annotations)?;
    Record::parse(text).ok()
}

/// What is missing; empty: the cluster is whole. With `since`, the primary's present pod must have renewed the Lease after that
/// moment too: a cluster that was hit looks whole until the damage shows.
pub async fn missing(
    login: &Login,
    objects: &Objects,
    members: &[Server],
    since: Option<Timestamp>,
) -> Vec<String> {
    let Some(record) = objects.record() else {
        return vec!["the Lease has no readable record".to_owned()];
    };
    let Some(primary) = &record.primary else {
        return vec!["the record names no primary".to_owned()];
    };
    let primary_name = primary.member.as_str();
    let Some(home) = members.iter().find(|member| member.name == primary_name) else {
        return vec![format!(
            "the recorded primary {primary_name} is not among the members"
        )];
    };
    let mut missing = Vec::new();
    if let Some(step) = &record.step {
        missing.push(format!("a step is still in progress: {step:?}"));
    }
    for member in members {
        if !record
            .members
            .iter()
            .any(|recorded| recorded.member.as_str() == member.name)
        {
            missing.push(format!("the record does not have {}", member.name));
        }
    }
    missing.extend(since.and_then(|since| renewal_missing(objects, home, since)));
    missing.extend(objects_missing(objects, members, primary_name));
    missing.extend(streaming_missing(login, &record, members, home).await);
    if record.durability == Durability::Sync {
        let set: BTreeSet<String> = record
            .current_set()
            .standbys
            .iter()
            .map(|standby| standby.member.as_str().to_owned())
            .collect();
        for member in members
            .iter()
            .filter(|member| member.name != primary_name && !set.contains(&member.name))
        {
            missing.push(format!("{} is not in the sync set", member.name));
        }
    }
    missing
}

/// The rig and the members read the same clock. A renewal that was on its way when the fault came carries an older time.
fn renewal_missing(objects: &Objects, home: &Server, since: Timestamp) -> Option<String> {
    let lease = objects.lease.as_ref()?;
    let text = |pointer: &str| {
        let value = lease.pointer(pointer).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    };
    let pod = objects.pods.get(&home.name);
    let uid = pod.and_then(|pod| pod.pointer("/metadata/uid")?.as_str());
    let holder = text("/spec/holderIdentity");
    if uid.is_none_or(|uid| holder != format!("{}_{uid}", home.name)) {
        return Some(format!(
            "the Lease is held by '{holder}', not by the present pod of {}",
            home.name
        ));
    }
    let renewed: Option<Timestamp> = text("/spec/renewTime").parse().ok();
    renewed
        .is_none_or(|renewed| renewed <= since)
        .then(|| format!("{} has not renewed the Lease since the fault was over", home.name))
}

/// Selector of the Service and env of every StatefulSet.
fn objects_missing(objects: &Objects, members: &[Server], primary: &str) -> Vec<String> {
    let mut missing = Vec::new();
    let service = objects.service.as_ref();
    let selected = service.and_then(|service| service.pointer("/spec/selector/app")?.as_str());
    if selected != Some(primary) {
        missing.push(format!("the Service points at {}", selected.unwrap_or("nobody")));
    }
    for member in members {
        let Some(set) = objects.sets.get(&member.name) else {
            missing.push(format!("there is no StatefulSet {}", member.name));
            continue;
        };
        let wanted = if member.name == primary {
            ("off", "")
        } else {
            ("on", primary)
        };
        for (name, wanted) in [(STANDBY_MODE, wanted.0), (PRIMARY_ADDRESS, wanted.1)] {
            if let Some(wrong) = env_values(set, name).into_iter().find(|value| value != wanted) {
                missing.push(format!(
                    "StatefulSet {} says {name}='{wrong}', not '{wanted}'",
                    member.name
                ));
            }
        }
    }
    missing
}

/// All values of an env variable in a StatefulSet's template.
#[must_use]
pub fn env_values(set: &Value, name: &str) -> Vec<String> {
    [
        "/spec/template/spec/initContainers",
        "/spec/template/spec/containers",
    ]
    .iter()
    .filter_map(|list| set.pointer(list)?.as_array())
    .flatten()
    .filter_map(|container| container.get("env")?.as_array())
    .flatten()
    .filter(|variable| variable.get("name").and_then(Value::as_str) == Some(name))
    .map(|variable| {
        variable
            .get("value")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    })
    .collect()
}

/// Everybody but the primary streams from it under the name of its recorded data, is a standby, and has followed it up to now.
async fn streaming_missing(login: &Login, record: &Record, members: &[Server], home: &Server) -> Vec<String> {
    let question = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming' \
                    AND NOT pg_is_in_recovery()";
    let streaming = match sql::ask(login, home.ip, question).await {
        Ok(rows) => rows,
        Err(error) => return vec![format!("the primary {} cannot be asked: {error:#}", home.name)],
    };
    let streaming: BTreeSet<String> = streaming
        .into_iter()
        .filter_map(|row| row.into_iter().next().flatten())
        .collect();
    let mut missing = Vec::new();
    for member in members.iter().filter(|member| member.name != home.name) {
        let recorded = record
            .members
            .iter()
            .find(|recorded| recorded.member.as_str() == member.name);
        let Some(recorded) = recorded else { continue };
        let name = recorded.data().standby_name();
        if !streaming.contains(&name) {
            missing.push(format!(
                "{} does not stream from {} as {name}",
                member.name, home.name
            ));
            continue;
        }
        missing.extend(following_missing(login, member, home).await);
    }
    missing
}

/// One whose history left the primary's also counts as streaming, again and again for a moment: so it must be on the primary's
/// timeline and replay what the primary has flushed now.
async fn following_missing(login: &Login, member: &Server, home: &Server) -> Option<String> {
    let cannot = |name: &str, error: anyhow::Error| Some(format!("{name} cannot be asked: {error:#}"));
    let question =
        "SELECT pg_current_wal_flush_lsn() || ' ' || left(pg_walfile_name(pg_current_wal_flush_lsn()), 8)";
    let answer = match sql::ask_one(login, home.ip, question).await {
        Ok(answer) => answer,
        Err(error) => return cannot(&home.name, error),
    };
    let (flushed, timeline) = answer.split_once(' ')?;
    let question = format!(
        "SELECT CASE WHEN NOT pg_is_in_recovery() THEN 'is not a standby' \
         WHEN NOT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE lpad(upper(to_hex(received_tli)), 8, '0') = '{timeline}') \
         THEN 'does not receive timeline {timeline}' \
         WHEN NOT coalesce(pg_last_wal_replay_lsn() >= '{flushed}', false) THEN 'has not replayed {flushed}' ELSE '' END"
    );
    let deadline = Instant::now() + CATCH_UP;
    loop {
        match sql::ask_one(login, member.ip, &question).await {
            Ok(wrong) if wrong.is_empty() => return None,
            Ok(wrong) if Instant::now() > deadline => return Some(format!("{} {wrong}", member.name)),
            Ok(_) => sleep(LOOK / 4).await,
            Err(error) => return cannot(&member.name, error),
        }
    }
}
