//! The record: the cluster's state in the annotation of the Lease (DESIGN.md section 3). One object, so that each change
//! is one compare-and-swap.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::types::{
    Address, DataId, Lsn, MemberData, MemberName, Millis, Position, SystemId, Term, Timeline,
};

/// Version of the record that this build writes and the only one it reads.
pub const RECORD_VERSION: u32 = 1;
/// Terms kept in `history`.
pub const HISTORY_TERMS: usize = 20;

/// Whether an acknowledged commit must survive any takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A commit waits for standbys; a takeover needs proof (invariants 3 and 4).
    Sync,
    /// A commit does not wait; a takeover may lose up to `maximum_lag`.
    Async,
}

/// What happens to writes in sync durability when no standby is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// The sync set may become empty: writes go on, and only this data may then lead.
    Available,
    /// The sync set never becomes empty: writes wait for a standby.
    Strict,
}

/// Standbys of which `k` must have flushed a commit before it is acknowledged. Never contains the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncSet {
    /// How many must answer; 0 exactly when `standbys` is empty.
    pub k: u32,
    /// Who counts.
    pub standbys: BTreeSet<MemberData>,
}

impl SyncSet {
    /// The set in which nobody is waited for.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            k: 0,
            standbys: BTreeSet::new(),
        }
    }

    /// `synchronous_standby_names` for this set: exact, quoted names, never `*` (invariant 6).
    #[must_use]
    pub fn names(&self) -> String {
        if self.k == 0 {
            return String::new();
        }
        let names: Vec<String> = self
            .standbys
            .iter()
            .map(|s| format!("\"{}\"", s.standby_name()))
            .collect();
        format!("ANY {} ({})", self.k, names.join(","))
    }
}

/// A member as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub member: MemberName,
    /// The life of its data when it was last seen.
    pub data_id: DataId,
    /// Where it listens.
    pub address: Address,
}

impl Member {
    /// Name and data together.
    #[must_use]
    pub fn data(&self) -> MemberData {
        MemberData {
            member: self.member.clone(),
            data_id: self.data_id.clone(),
        }
    }
}

/// A promotion that was recorded: on `timeline`, WAL after `switch_point` is the new primary's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promotion {
    /// The new timeline.
    pub timeline: Timeline,
    /// The timeline it left.
    pub parent: Timeline,
    /// Start of the last record that the new primary held on `parent` (same measure as `Position::last_record`).
    pub switch_point: Lsn,
    /// The term it was done in.
    pub term: Term,
}

/// Something begun that a later leader must know of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Step {
    /// The first primary runs initdb.
    Initialising {
        /// Pod UID of the member that does it.
        by: String,
    },
    /// A primary's data that was found is taken for the cluster's, in place. Nobody may make a database meanwhile.
    Adopting {
        /// Member and pod UID of who does it.
        by: String,
    },
    /// The leader steps down for this successor.
    Handover {
        /// Who leaves.
        from: MemberName,
        /// Who comes.
        to: MemberName,
        /// Why, for people.
        why: String,
        /// The one who leaves stops on purpose, with its standbys connected: nothing needs to be missing on the successor.
        #[serde(default)]
        planned: bool,
    },
    /// The recorded primary's server starts in place after a crash; clients are kept away until k standbys have flushed what its
    /// recovery made visible (DESIGN.md section 5).
    Restarting {
        /// Who.
        member: MemberName,
    },
    /// A new primary is written down and not yet verified by a write.
    Promoting {
        /// Who.
        member: MemberName,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Initialising { by } => write!(f, "initialising (pod {by})"),
            Self::Adopting { by } => write!(f, "adopting in place (pod {by})"),
            Self::Handover { from, to, why, .. } => write!(f, "handover from {from} to {to}: {why}"),
            Self::Promoting { member } => write!(f, "promoting {member}"),
            Self::Restarting { member } => write!(f, "restarting {member} in place"),
        }
    }
}

/// Where the primary was found with no process left, swapped in by that server itself after it gave up its permit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// The term it led.
    pub term: Term,
    /// Its data.
    pub data: MemberData,
    /// The end of its WAL.
    pub position: Position,
}

/// One term that ended or runs, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// The term.
    pub term: Term,
    /// Who led it.
    pub member: MemberName,
    /// Why it began.
    pub why: String,
    /// Wall-clock time of the swap that installed it, milliseconds since 1970. For people only; nothing is decided by it.
    pub at_unix_ms: u64,
    /// Where the new primary's WAL began.
    pub lsn: Lsn,
    /// Phases in milliseconds, in order.
    #[serde(default)]
    pub phases: Vec<(String, u64)>,
}

/// How far the leader's WAL was, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderWal {
    /// Its insert position.
    pub lsn: Lsn,
    /// Wall-clock time, milliseconds since 1970. For people only.
    pub at_unix_ms: u64,
    /// How old that look was when it was last written, in milliseconds of the leader's own monotonic clock.
    #[serde(default)]
    pub age_ms: u64,
}

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `RECORD_VERSION`.
    pub version: u32,
    /// Of the cluster; none until initialised.
    pub system_identifier: Option<SystemId>,
    /// The recorded durability counts, not a sidecar's setting.
    pub durability: Durability,
    /// What happens without standbys.
    pub availability: Availability,
    /// The term in which `primary` was installed or last continued.
    pub term: Term,
    /// The only data that may run read-write.
    pub primary: Option<Member>,
    /// Timeline of the primary.
    pub timeline: Option<Timeline>,
    /// Promotions, oldest first: what makes two positions comparable.
    #[serde(default)]
    pub promotions: Vec<Promotion>,
    /// All timeline numbers ever given out.
    #[serde(default)]
    pub timelines_given: BTreeSet<Timeline>,
    /// All members known.
    #[serde(default)]
    pub members: Vec<Member>,
    /// The set in force first, then every former one not yet released (invariant 6 (ii)); no bound, no duplicates.
    #[serde(default)]
    pub sync_sets: Vec<SyncSet>,
    /// How far the leader's WAL was.
    pub leader_wal: Option<LeaderWal>,
    /// Step in progress.
    pub step: Option<Step>,
    /// Set by a leader that gave the Lease up on purpose: its term.
    pub released: Option<Term>,
    /// See `Rest`.
    pub rest: Option<Rest>,
    /// No takeover while true.
    #[serde(default)]
    pub paused: bool,
    /// The last `HISTORY_TERMS` terms, newest last.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
}

/// Why an annotation is not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Not JSON of this shape.
    #[error("the record is not readable: {0}")]
    Unreadable(String),
    /// Another version.
    #[error(
        "the record has version {0}, this pgbaton knows version {RECORD_VERSION}: run the version that wrote it, or a newer one"
    )]
    Version(u32),
    /// Contradicts itself.
    #[error("the record contradicts itself: {0}")]
    Inconsistent(String),
}

impl Record {
    /// The record of a cluster that was never initialised.
    #[must_use]
    pub fn never_initialised(durability: Durability, availability: Availability) -> Self {
        Self {
            version: RECORD_VERSION,
            system_identifier: None,
            durability,
            availability,
            term: Term(0),
            primary: None,
            timeline: None,
            promotions: Vec::new(),
            timelines_given: BTreeSet::new(),
            members: Vec::new(),
            sync_sets: Vec::new(),
            leader_wal: None,
            step: None,
            released: None,
            rest: None,
            paused: false,
            history: Vec::new(),
        }
    }

    /// Reads the annotation's text.
    ///
    /// # Errors
    /// When it is not JSON of this shape and version, or breaks a rule that every writer keeps.
    pub fn parse(text: &str) -> Result<Self, BadRecord> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let unreadable = |e: serde_json::Error| BadRecord::Unreadable(e.to_string());
        let versioned: Versioned = serde_json::from_str(text).map_err(unreadable)?;
        if versioned.version != RECORD_VERSION {
            return Err(BadRecord::Version(versioned.version));
        }
        let record: Self = serde_json::from_str(text).map_err(unreadable)?;
        record.check().map_err(BadRecord::Inconsistent)?;
        Ok(record)
    }

    /// The annotation's text.
    #[must_use]
    pub fn render(&self) -> String {
        // A tree of plain values with string keys always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// True before the first primary was installed.
    #[must_use]
    pub fn is_never_initialised(&self) -> bool {
        self.system_identifier.is_none() && self.primary.is_none()
    }

    /// The member of this name.
    #[must_use]
    pub fn member(&self, name: &MemberName) -> Option<&Member> {
        self.members.iter().find(|m| &m.member == name)
    }

    /// The set in force; the empty set when none was recorded.
    #[must_use]
    pub fn current_set(&self) -> SyncSet {
        self.sync_sets.first().cloned().unwrap_or_else(SyncSet::empty)
    }

    /// Puts `set` in front; every other one stays behind it until released (invariant 6).
    pub fn add_sync_set(&mut self, set: SyncSet) {
        self.sync_sets.retain(|s| *s != set);
        self.sync_sets.insert(0, set);
    }

    /// As `add_sync_set`, on a server that runs with the sets before. Its walsenders read the new names one by one, and one with
    /// the old k counts the standbys that another one already counts by the new names: from {m3} k 1 to {m1, m3} k 2, m3's
    /// releases what m1 alone has flushed, which neither set covers. Any k of all of them covers it.
    pub fn change_sync_set(&mut self, set: SyncSet) {
        self.add_sync_set(set);
        let used = || self.sync_sets.iter().filter(|s| s.k > 0);
        let Some(k) = used().map(|s| s.k).min() else {
            return;
        };
        let standbys = used().flat_map(|s| s.standbys.iter().cloned()).collect();
        let mixture = SyncSet { k, standbys };
        if !self.sync_sets.contains(&mixture) {
            self.sync_sets.push(mixture);
        }
    }

    /// Adds a term to the history and forgets the oldest beyond `HISTORY_TERMS`.
    pub fn add_history(&mut self, entry: HistoryEntry) {
        self.history.push(entry);
        let excess = self.history.len().saturating_sub(HISTORY_TERMS);
        self.history.drain(..excess);
    }

    /// Rules that every writer keeps.
    ///
    /// # Errors
    /// The rule that is broken, in words.
    pub fn check(&self) -> Result<(), String> {
        for set in &self.sync_sets {
            if (set.k == 0) != set.standbys.is_empty() || set.k as usize > set.standbys.len() {
                return Err(format!(
                    "a sync set of {} standbys has k = {}",
                    set.standbys.len(),
                    set.k
                ));
            }
        }
        // Former sets may hold the present primary (it was a standby then); the one in force never does.
        if let Some(primary) = &self.primary
            && self
                .current_set()
                .standbys
                .iter()
                .any(|s| s.member == primary.member)
        {
            return Err(format!(
                "the sync set in force holds the primary {}",
                primary.member
            ));
        }
        if self.primary.is_some() != self.system_identifier.is_some() && self.step.is_none() {
            return Err("a primary without a system identifier, or the reverse".to_owned());
        }
        let mut names: Vec<&MemberName> = self.members.iter().map(|m| &m.member).collect();
        names.sort();
        names.dedup();
        if names.len() != self.members.len() {
            return Err("a member is named twice".to_owned());
        }
        Ok(())
    }
}

/// Age of something observed: when it was true at the latest, on the observer's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence<T> {
    /// What was seen.
    pub value: T,
    /// When the question was asked (an answer is never younger than its question).
    pub asked_at: Millis,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(k: u32, standbys: &[&str]) -> SyncSet {
        let data = |name: &&str| MemberData {
            member: name.parse().unwrap(),
            data_id: DataId::from_random([1; 8]),
        };
        SyncSet {
            k,
            standbys: standbys.iter().map(data).collect(),
        }
    }

    fn changed(from: SyncSet, to: SyncSet) -> Vec<SyncSet> {
        let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
        record.sync_sets = vec![from];
        record.change_sync_set(to);
        record.sync_sets
    }

    #[test]
    fn walsenders_with_old_and_new_names_at_once_are_covered() {
        let (old, new) = (set(1, &["m3"]), set(2, &["m1", "m3"]));
        let sets = changed(old.clone(), new.clone());
        assert_eq!(sets, [new, old, set(1, &["m1", "m3"])]);
        let (old, new) = (set(2, &["m2", "m3"]), set(2, &["m2", "m4"]));
        let sets = changed(old.clone(), new.clone());
        assert_eq!(sets, [new, old, set(2, &["m2", "m3", "m4"])]);
    }

    #[test]
    fn plain_changes_need_no_further_set() {
        let (one, both, raised) = (set(1, &["m2"]), set(1, &["m2", "m3"]), set(2, &["m2", "m3"]));
        for (from, to) in [
            (&one, &both),
            (&both, &one),
            (&both, &raised),
            (&raised, &both),
            (&one, &SyncSet::empty()),
            (&SyncSet::empty(), &one),
        ] {
            assert_eq!(changed(from.clone(), to.clone()), [to.clone(), from.clone()]);
        }
    }
}
