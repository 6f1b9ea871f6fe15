//! One fault on a running cluster: inflicted, waited for, judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use pgbaton::core::record::{Durability, HistoryEntry, Record};
use tokio::time::{Instant, sleep};

use super::observer::Observer;
use super::workload::Workload;
use super::writers::Oracle;
use crate::report::costs::Costs;
use crate::report::{Detail, FaultReport, Setting, timeline};

/// Until a cluster is whole again after a fault is over: a Lease's duration, a clone, and time to spare on a loaded machine.
const WHOLE_AGAIN: Duration = Duration::from_secs(90);
/// After the cluster is whole, for what shows late (a second writer, a second takeover).
const SETTLE: Duration = Duration::from_secs(1);
/// Clients must be served again within this time after the cluster is whole. After an outage of the API server the Service leads to the
/// old primary until Kubernetes' own controllers and kube-proxy are back at work, which takes up to a minute; the outage's figure shows it.
const SERVED_BOUND: Duration = Duration::from_secs(60);

/// How long the control is looked at: no outage of a blow is longer.
const NOTHING: Duration = Duration::from_secs(10);
/// Most lines of what members said.
const MOST_WORDS: usize = 60;

/// A fault that was done.
#[derive(Debug, Clone)]
pub struct Inflicted {
    /// When it began.
    pub at: Instant,
    /// When it was over and the cluster could heal; the same as `at` for a blow.
    pub over: Instant,
    /// Whom it hit; its way back is measured.
    pub hit: Option<String>,
    /// What was done, for people.
    pub did: String,
    /// Members whose words are told, and what each of them is in this fault.
    pub cast: Vec<(String, String)>,
}

impl Inflicted {
    /// A blow: over as soon as it was given.
    #[must_use]
    pub fn blow(at: Instant, hit: &str, did: String) -> Self {
        Self {
            at,
            over: at,
            hit: Some(hit.to_owned()),
            did,
            cast: Vec::new(),
        }
    }

    /// Something that lasted until now.
    #[must_use]
    pub fn lasting(at: Instant, hit: Option<&str>, did: String) -> Self {
        Self {
            at,
            over: Instant::now(),
            hit: hit.map(str::to_owned),
            did,
            cast: Vec::new(),
        }
    }
}

/// The control: the longest gap between two acknowledgements that comes without any fault.
pub async fn nothing() -> Inflicted {
    let at = Instant::now();
    sleep(NOTHING).await;
    Inflicted::lasting(at, None, format!("nothing was done for {} s", NOTHING.as_secs()))
}

/// A cluster that faults are tried on.
pub trait Subject {
    /// The record as the Lease carries it now; none when there is no Lease, no readable record, or no answer.
    fn record(&self) -> impl Future<Output = Option<Record>>;
    /// What tells one run of each member's server from the next one. A server that cannot be asked is left out.
    fn servers(&self) -> impl Future<Output = BTreeMap<String, String>>;
    /// Waits until the cluster is whole and the primary has renewed the Lease after `since`; else tells what is missing after `bound`.
    fn wait_whole_since(
        &self,
        since: Timestamp,
        bound: Duration,
    ) -> impl Future<Output = Result<(), Vec<String>>>;
    /// What the members asked for since then; none: nobody counts here.
    fn costs(&self, _from: Instant) -> impl Future<Output = Option<Costs>> {
        std::future::ready(None)
    }
}

/// What faults are judged by.
#[derive(Debug)]
pub struct Trial<'a, S> {
    /// The cluster.
    pub subject: &'a S,
    /// Its timeline.
    pub observer: &'a Observer,
    /// Its clients.
    pub workload: Workload,
    /// The independent writers.
    pub oracle: Arc<Oracle>,
    /// Lost by earlier faults.
    pub known_lost: Vec<i64>,
}

impl<S: Subject> Trial<'_, S> {
    /// Inflicts one fault, waits until the cluster is whole, and judges what it did.
    pub async fn run(
        &mut self,
        fault: &str,
        inflict: impl Future<Output = Result<Inflicted>>,
    ) -> FaultReport {
        let before = self.subject.record().await;
        let servers = self.subject.servers().await;
        let (inflicted, mut trouble) = self.inflict(inflict).await;
        let whole = self.subject.wait_whole_since(Timestamp::now(), WHOLE_AGAIN).await;
        if whole.is_ok() {
            self.observer
                .note("cluster", "whole: one primary, all others stream from it");
        }
        let rejoined_ms = whole.is_ok().then(|| millis(inflicted.over.elapsed()));
        let costs = self.subject.costs(inflicted.at).await;
        let mut not_whole = whole.err().unwrap_or_default();
        // Whole is one thing, serving another: clients must get an answer again too.
        if not_whole.is_empty() {
            not_whole.extend(not_served(&self.workload, Instant::now()).await);
        }
        sleep(SETTLE).await;
        let ended = Instant::now();
        let after = self.subject.record().await;
        let servers_after = self.subject.servers().await;
        let lost = self.newly_lost().await.unwrap_or_else(|error| {
            trouble.get_or_insert(format!("whether writes were lost is not known: {error:#}"));
            Vec::new()
        });
        let recorded = after.as_ref().map(timelines);
        let two_writable = self.oracle.two_writable(inflicted.at, recorded.as_ref());
        let came_back = inflicted
            .hit
            .as_ref()
            .filter(|hit| not_whole.is_empty() && servers.get(*hit) != servers_after.get(*hit));
        let by = |hit| rejoined_by(self.observer, hit, inflicted.at, before.as_ref(), after.as_ref());
        let rejoined_by = came_back.and_then(|hit| by(hit));
        let newest = newest_term(before.as_ref(), after.as_ref());
        let summary = self.workload.summary(inflicted.at, ended);
        FaultReport {
            fault: fault.to_string(),
            durability: durability(before.as_ref().or(after.as_ref())).to_owned(),
            setting: Setting::of(before.as_ref().map_or(0, |record| record.members.len())),
            outage_ms: summary.outage_ms,
            acknowledged: summary.acknowledged,
            lost: lost.len() as u64,
            two_writable: two_writable.is_some(),
            read_only_errors: summary.read_only,
            old_primary: before.as_ref().and_then(primary),
            new_primary: after.as_ref().and_then(primary),
            rejoined_ms,
            rejoined_by,
            phases_ms: newest.map_or_else(Vec::new, |term| self.phases(term, inflicted.at, ended)),
            costs,
            detail: Detail {
                way_back: way_back(self.observer, &inflicted),
                words: words(self.observer, &inflicted),
                did: inflicted.did,
                why: newest.map(|entry| entry.why.clone()),
                unknown: summary.unknown,
                failed: summary.failed,
                client_errors: self.workload.errors(inflicted.at, ended),
                lost_ids: lost.into_iter().take(20).collect(),
                two_writable,
                not_whole,
                trouble,
                backlog_mib: None,
            },
        }
    }

    fn phases(&self, term: &HistoryEntry, from: Instant, to: Instant) -> Vec<(String, u64)> {
        let outage = self.workload.outage(from, to);
        timeline::phases(term, &(unix_ms(outage.start)..unix_ms(outage.end)))
    }

    /// What was done, or why it could not be.
    async fn inflict(&self, inflict: impl Future<Output = Result<Inflicted>>) -> (Inflicted, Option<String>) {
        let began = Instant::now();
        match inflict.await {
            Ok(inflicted) => {
                self.observer.note("fault", &inflicted.did);
                (inflicted, None)
            }
            Err(error) => {
                let nothing = Inflicted {
                    at: began,
                    over: Instant::now(),
                    hit: None,
                    did: "could not be inflicted".to_owned(),
                    cast: Vec::new(),
                };
                (nothing, Some(format!("{error:#}")))
            }
        }
    }

    /// Acknowledged writes that are not in the table now and were not reported before: in async durability a loss stays.
    async fn newly_lost(&mut self) -> Result<Vec<i64>> {
        let lost = self.workload.lost().await?;
        let known: BTreeSet<i64> = self.known_lost.iter().copied().collect();
        let new: Vec<i64> = lost.into_iter().filter(|id| !known.contains(id)).collect();
        self.known_lost.extend(&new);
        Ok(new)
    }
}

fn durability(record: Option<&Record>) -> &'static str {
    match record.map(|record| record.durability) {
        Some(Durability::Async) => "async",
        Some(Durability::Sync) | None => "sync",
    }
}

fn primary(record: &Record) -> Option<String> {
    Some(record.primary.as_ref()?.member.as_str().to_owned())
}

/// A moment of the past by the wall clock, in milliseconds since 1970.
fn unix_ms(at: Instant) -> u64 {
    let now = u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default();
    now.saturating_sub(millis(at.elapsed()))
}

async fn not_served(workload: &Workload, since: Instant) -> Option<String> {
    while since.elapsed() < SERVED_BOUND {
        if workload.acknowledged_since(since) > 0 {
            return None;
        }
        sleep(Duration::from_millis(20)).await;
    }
    let bound = SERVED_BOUND.as_secs();
    Some(format!("no client's write was acknowledged within {bound} s"))
}

/// Timelines that the record knows: those promoted to and those they left, and the primary's own.
fn timelines(record: &Record) -> BTreeSet<u32> {
    let promoted = record
        .promotions
        .iter()
        .flat_map(|promotion| [promotion.timeline.0, promotion.parent.0]);
    promoted
        .chain(record.timeline.map(|timeline| timeline.0))
        .collect()
}

/// The last term, when it is a later one than before.
fn newest_term<'a>(before: Option<&Record>, after: Option<&'a Record>) -> Option<&'a HistoryEntry> {
    let newest = after?.history.last()?;
    let known = before
        .and_then(|record| record.history.last())
        .map(|entry| entry.term);
    (known != Some(newest.term)).then_some(newest)
}

/// Same data: followed. New data: what its guard was seen to do since `from`.
fn rejoined_by(
    observer: &Observer,
    hit: &str,
    from: Instant,
    before: Option<&Record>,
    after: Option<&Record>,
) -> Option<String> {
    let data = |record: Option<&Record>| {
        record?
            .members
            .iter()
            .find(|member| member.member.as_str() == hit)
            .map(|member| member.data_id.clone())
    };
    let now = data(after)?;
    if Some(now) == data(before) {
        return Some("follow".to_owned());
    }
    let entries = observer.since(from);
    let seen = entries
        .into_iter()
        .rev()
        .filter(|entry| entry.who == hit)
        .find_map(|entry| entry.operation);
    Some(seen.unwrap_or_else(|| "rewind or clone".to_owned()))
}

/// The lines of the hit member that tell how it comes back.
fn way_back(observer: &Observer, inflicted: &Inflicted) -> Vec<String> {
    let entries = observer.since(inflicted.at).into_iter();
    let of_hit = |who: &String| inflicted.hit.as_ref() == Some(who);
    let told = entries.filter(|entry| of_hit(&entry.who) && entry.what.contains("comes back"));
    told.map(|entry| {
        let ms = entry.at.duration_since(inflicted.at).as_millis();
        format!("{ms} ms: {}", entry.what)
    })
    .collect()
}

/// What the members of the fault's cast said while it lasted, under what each of them is in it.
fn words(observer: &Observer, inflicted: &Inflicted) -> Vec<String> {
    let named = |text: &str| {
        let cast = inflicted.cast.iter();
        cast.fold(text.to_owned(), |text, (member, role)| text.replace(member, role))
    };
    let is_cast = |who: &String| inflicted.cast.iter().any(|(member, _)| member == who);
    let entries = observer.since(inflicted.at).into_iter();
    let told = entries.filter(|entry| is_cast(&entry.who) && entry.at <= inflicted.over);
    told.take(MOST_WORDS)
        .map(|entry| {
            let ms = entry.at.duration_since(inflicted.at).as_millis();
            format!("{ms} ms, {}: {}", named(&entry.who), named(&entry.what))
        })
        .collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
