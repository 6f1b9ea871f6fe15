//! The cluster as one member knows it: what the live page shows. Its form goes with the page of the same binary and may change with it;
//! programs read `/status`.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::OnceLock;

use serde::Serialize;
use tokio::time::Instant;

use super::status::{CouldFailOverView, LeaseView, Role, Why};
use crate::core::record::HistoryEntry;
use crate::core::types::{Lsn, MemberName, Position, Term, Timeline};

/// Terms of the history on the page.
pub const TERMS_SHOWN: usize = 12;
/// Most members on the page; more are counted.
pub const MEMBERS_MAX: usize = 32;
/// Most warnings on the page, of all members together.
pub const WARNINGS_MAX: usize = 40;

/// A long operation of a guard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Work {
    /// `initialise`, `clone` or `rewind`.
    pub kind: String,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all, where known.
    pub bytes_total: Option<u64>,
}

/// One member, with the age of what is known of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MemberView {
    /// Its name.
    pub member: MemberName,
    /// Whose page this is.
    pub serves: bool,
    /// Its status endpoint, `10.0.0.7:8008`.
    pub endpoint: Option<String>,
    /// Milliseconds since its sidecar was asked for all of this; none: never heard.
    pub age_ms: Option<u64>,
    /// What came instead of its last answer; none: it answered.
    pub error: Option<String>,
    /// It holds the Lease, as the Lease was last seen.
    pub holds_lease: bool,
    /// The record names it as primary.
    pub recorded_primary: bool,
    /// What its guard says of its server.
    pub role: Role,
    /// More of that, for people: `down (permit ended)`.
    pub server: String,
    /// State of its decisions.
    pub phase: String,
    /// Why, by its own word; none: its version does not tell.
    pub why: Option<Why>,
    /// Whom its server follows.
    pub follows: Option<MemberName>,
    /// Its receiver streams; none: not known, or a primary.
    pub streams: Option<bool>,
    /// How it counts for commits.
    pub sync: Sync,
    /// The timeline that its server is on.
    pub timeline: Option<Timeline>,
    /// The primary's insert position, or what it has received or replayed.
    pub lsn: Option<Lsn>,
    /// WAL that it has not flushed, in bytes, as the primary sees it; 0 on the primary.
    pub lag_bytes: Option<u64>,
    /// Milliseconds since the primary's sidecar was asked for that lag.
    pub lag_age_ms: Option<u64>,
    /// Its history has diverged from the recorded one.
    pub diverged: bool,
    /// Term that it pledged to.
    pub pledged_term: Option<Term>,
    /// Where the WAL of its stopped server ends.
    pub rest: Option<Position>,
    /// What is left of its permit, in milliseconds; none: no permit.
    pub permit_left_ms: Option<u64>,
    /// What runs.
    pub work: Option<Work>,
    /// Its pod is on its way out.
    pub terminating: bool,
    /// Free bytes on PGDATA's file system.
    pub disk_free: Option<u64>,
    /// Size of that file system in bytes.
    pub disk_total: Option<u64>,
}

/// How a member counts for commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sync {
    /// It leads: others count for its commits.
    Leads,
    /// In the sync set in force.
    Sync,
    /// In a former set that a proof still needs.
    Former,
    /// In none.
    Async,
    /// No record was read.
    Unknown,
}

/// Something that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Who says so.
    pub member: MemberName,
    /// What, and what to do.
    pub text: String,
    /// Heading of the runbook, as in its links.
    pub see: String,
}

/// What the record says of the whole.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// `sync` or `async`.
    pub durability: String,
    /// `available` or `strict`.
    pub availability: String,
    /// The recorded primary.
    pub primary: Option<MemberName>,
    /// The term in which it was installed.
    pub term: Term,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// So many of the sync set must have flushed a commit.
    pub k: u32,
    /// The sync set in force.
    pub standbys: Vec<MemberName>,
    /// Former sets that a proof still needs.
    pub former_sets: usize,
    /// No takeover.
    pub paused: bool,
    /// Something under way, for people.
    pub step: Option<String>,
    /// The cluster has no primary yet.
    pub never_initialised: bool,
}

/// One setting in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// As in the README.
    pub name: &'static str,
    /// For people.
    pub value: String,
}

/// Everything on the page.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterView {
    /// Namespace and Lease.
    pub cluster: String,
    /// The namespace, for commands.
    pub namespace: String,
    /// Whose page.
    pub member: MemberName,
    /// pgbaton's version there.
    pub version: String,
    /// When the page was made (RFC 3339, this member's clock); ages count from then.
    pub at: String,
    /// Highest term known.
    pub term: Term,
    /// The Lease.
    pub lease: LeaseView,
    /// The record; none: not read, or damaged.
    pub record: Option<Recorded>,
    /// What is wrong with the record.
    pub record_error: Option<String>,
    /// The leader's own reason; this member's where the leader is not heard.
    pub why: Why,
    /// Who says so.
    pub why_of: MemberName,
    /// Heading of the runbook for it.
    pub why_see: String,
    /// Could a takeover succeed now.
    pub could_fail_over: CouldFailOverView,
    /// All members known, by name.
    pub members: Vec<MemberView>,
    /// Members that are not shown.
    pub more_members: usize,
    /// The last terms, newest first.
    pub history: Vec<HistoryEntry>,
    /// What a person should look at.
    pub warnings: Vec<Warning>,
    /// Settings in force on this member.
    pub settings: Vec<Setting>,
}

/// A page as it goes out: made once, however many watch.
#[derive(Debug)]
pub struct Feed {
    /// The page.
    pub view: ClusterView,
    made: Instant,
    json: OnceLock<String>,
    news: OnceLock<u64>,
}

impl Feed {
    /// Of this page.
    #[must_use]
    pub fn new(view: ClusterView) -> Self {
        Self {
            view,
            made: Instant::now(),
            json: OnceLock::new(),
            news: OnceLock::new(),
        }
    }

    /// As JSON, on one line, with how old it is by now.
    #[must_use]
    pub fn told(&self) -> Vec<u8> {
        let json = self
            .json
            .get_or_init(|| serde_json::to_string(&self.view).unwrap_or_default());
        let age = self.made.elapsed().as_millis();
        format!("{{\"age_ms\":{age},\"view\":{json}}}").into_bytes()
    }

    /// Differs between two pages when more differs than what changes all the time: ages, positions, free space.
    #[must_use]
    pub fn news(&self) -> u64 {
        *self.news.get_or_init(|| {
            let mut hasher = DefaultHasher::new();
            still(self.view.clone()).hash(&mut hasher);
            hasher.finish()
        })
    }
}

/// Without what changes all the time, as text.
fn still(mut view: ClusterView) -> String {
    view.at.clear();
    view.lease.age_ms = None;
    view.lease.contact_age_ms = None;
    view.could_fail_over.age_ms = None;
    // A figure for people, which may move with each look.
    view.could_fail_over.answer.about_ms = None;
    digitless(&mut view.could_fail_over.answer.missing);
    digitless(&mut view.why.text);
    for member in &mut view.members {
        member.age_ms = member.age_ms.map(|_| 0);
        member.lag_age_ms = None;
        member.lag_bytes = None;
        member.lsn = None;
        member.permit_left_ms = member.permit_left_ms.map(|_| 0);
        member.disk_free = None;
        member.disk_total = None;
        if let Some(why) = &mut member.why {
            digitless(&mut why.text);
        }
        if let Some(error) = &mut member.error {
            digitless(error);
        }
        if let Some(work) = &mut member.work {
            work.bytes_done = 0;
        }
    }
    for warning in &mut view.warnings {
        digitless(&mut warning.text);
    }
    serde_json::to_string(&view).unwrap_or_default()
}

/// The same text with other numbers is no news.
fn digitless(text: &mut String) {
    text.retain(|c| !c.is_ascii_digit());
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
pub(crate) mod tests;
