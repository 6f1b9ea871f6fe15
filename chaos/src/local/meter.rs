//! Counts what the members ask the API server and each other, also across restarts of sidecars: the API server counts the one, and each
//! sidecar's own counters are looked at often enough that little is missing of one that was killed.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use pgbaton::core::record::Record;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::api::{RequestKey, Requests};
use super::rig::Rig;
use super::store::Store;
use crate::oracles::observer;
use crate::oracles::trial::Subject;
use crate::report::costs::{Costs, Traffic};

/// Between two looks. What a sidecar counted after the last one before it was killed is missing.
const LOOK: Duration = Duration::from_millis(500);
/// Looks that are kept: more than any fault lasts.
const KEPT: usize = 2_000;

/// Questions to other members, and bytes of them and of their answers, since the sidecar at this address started.
///
/// # Errors
/// When it does not answer.
pub async fn peer_counters(ip: Ipv4Addr) -> Result<[u64; 2]> {
    let metrics = observer::get(ip, "/metrics").await?;
    let sum = |name: &str| -> u64 {
        let lines = metrics.lines().filter(|line| line.starts_with(name));
        lines
            .filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok())
            .sum()
    };
    Ok([
        sum("pgbaton_peer_questions_total"),
        sum("pgbaton_peer_traffic_bytes_total"),
    ])
}

/// Whether a request changes something.
#[must_use]
pub fn writes(key: &RequestKey) -> bool {
    !matches!(key.verb, "get" | "list")
}

/// Counters that start anew with their process, as one that does not.
#[derive(Debug, Default)]
struct Grown {
    last: BTreeMap<String, [u64; 2]>,
    total: [u64; 2],
}

impl Grown {
    /// The first look at a member counts from there.
    fn note(&mut self, member: &str, now: [u64; 2]) {
        let before = self.last.insert(member.to_owned(), now).unwrap_or(now);
        for (total, (now, before)) in self.total.iter_mut().zip(now.into_iter().zip(before)) {
            *total += if now >= before { now - before } else { now };
        }
    }
}

#[derive(Debug)]
struct Watched {
    store: Store,
    members: Vec<(String, Ipv4Addr)>,
    grown: tokio::sync::Mutex<Grown>,
    looks: Mutex<VecDeque<(Instant, Traffic)>>,
}

impl Watched {
    async fn look(&self) {
        // One look at a time: each counts what the one before did not.
        let mut grown = self.grown.lock().await;
        let asked = self.members.iter().map(|(_, ip)| peer_counters(*ip));
        let answers = futures_util::future::join_all(asked).await;
        for ((member, _), answer) in self.members.iter().zip(answers) {
            if let Ok(now) = answer {
                grown.note(member, now);
            }
        }
        let of_members = |key: &RequestKey| self.members.iter().any(|(name, _)| *name == key.user);
        let Requests { requests, .. } = self.store.api().requests();
        let sum = |is: &dyn Fn(&RequestKey) -> bool| {
            let all = requests.iter().filter(|(key, _)| of_members(key) && is(key));
            all.map(|(_, count)| count).sum()
        };
        let now = Traffic {
            requests: sum(&|_| true),
            writes: sum(&writes),
            questions: grown.total[0],
            peer_bytes: grown.total[1],
        };
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back((Instant::now(), now));
        if looks.len() > KEPT {
            looks.pop_front();
        }
    }

    /// From the last look at or before `from` to the last one; none: it was not looked twice.
    fn between(&self, from: Instant) -> Option<(Duration, Traffic)> {
        let looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let before = looks.iter().rev().find(|(at, _)| *at <= from);
        let (began, first) = before.or_else(|| looks.front())?;
        let (ended, last) = looks.back()?;
        (ended > began).then(|| (*ended - *began, last.since(*first)))
    }
}

/// A rig whose members are counted.
#[derive(Debug)]
pub struct Metered<'a> {
    rig: &'a Rig,
    watched: Arc<Watched>,
    task: JoinHandle<()>,
    at_rest: Option<(Duration, Traffic)>,
}

impl<'a> Metered<'a> {
    /// Looks at once, and then again and again until dropped.
    pub async fn start(rig: &'a Rig) -> Self {
        let members = rig.members.iter().map(|member| (member.name.clone(), member.ip));
        let watched = Arc::new(Watched {
            store: rig.store.clone(),
            members: members.collect(),
            grown: tokio::sync::Mutex::default(),
            looks: Mutex::default(),
        });
        watched.look().await;
        let looks = watched.clone();
        let task = tokio::spawn(async move {
            loop {
                sleep(LOOK).await;
                looks.look().await;
            }
        });
        Self {
            rig,
            watched,
            task,
            at_rest: None,
        }
    }

    /// What is asked for from now on for so long is what it costs at rest.
    pub async fn rest(&mut self, time: Duration) {
        self.watched.look().await;
        let from = Instant::now();
        sleep(time).await;
        self.watched.look().await;
        self.at_rest = self.watched.between(from);
    }
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Subject for Metered<'_> {
    async fn record(&self) -> Option<Record> {
        self.rig.record().await
    }

    async fn servers(&self) -> BTreeMap<String, String> {
        self.rig.servers().await
    }

    async fn wait_whole_since(&self, since: Timestamp, bound: Duration) -> Result<(), Vec<String>> {
        self.rig.wait_whole_since(since, bound).await
    }

    async fn costs(&self, from: Instant) -> Option<Costs> {
        self.watched.look().await;
        let (time, traffic) = self.watched.between(from)?;
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(Costs {
            window_ms: ms(time),
            traffic,
            at_rest: self.at_rest.map(|(_, traffic)| traffic),
            at_rest_ms: self.at_rest.map_or(0, |(time, _)| ms(time)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_that_starts_anew_is_counted_on() {
        let mut grown = Grown::default();
        for (member, now) in [("a", 100), ("a", 130), ("b", 7), ("a", 10), ("b", 9), ("a", 11)] {
            grown.note(member, [now, 2 * now]);
        }
        // 30 until its end, 10 and 1 in its next life; 2 of the other.
        assert_eq!(grown.total, [43, 86]);
    }
}
