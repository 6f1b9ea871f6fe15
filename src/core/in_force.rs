//! Whether a sync set is in force, and who has flushed what, by a look at the primary (invariant 6).

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::probe::{PrimaryView, Replication, Walsender};
use super::record::SyncSet;
use super::types::Lsn;

/// What must have been done, besides the names being shown, before a sync set is in force (invariant 6).
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamesChange {
    /// k was raised, or the names before were not pgbaton's: these walsenders, seen **after** a fresh connection showed the
    /// new names, must have ended once.
    pub must_end: BTreeSet<Walsender>,
    /// The names were empty before and no CHECKPOINT that began after a fresh connection showed the new ones has ended:
    /// only the checkpointer tells backends to wait.
    pub checkpoint_due: bool,
}

/// Whether a sync set is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "in_force", rename_all = "snake_case")]
pub enum InForce {
    /// From now on an acknowledged commit was flushed by k of the set.
    Yes,
    /// The look was on a kept connection; a fresh one must show the names.
    NotFresh,
    /// Other names are shown.
    OtherNames {
        /// What is shown.
        shown: String,
        /// What should be.
        wanted: String,
    },
    /// Walsenders of these standbys, which are not in the set, still count (a stopped one keeps its priority).
    StillCounted {
        /// Their names.
        standbys: BTreeSet<String>,
    },
    /// Walsenders that know the old k still run.
    WalsendersLeft {
        /// Which.
        walsenders: BTreeSet<Walsender>,
    },
    /// See `NamesChange::checkpoint_due`.
    CheckpointDue,
}

impl fmt::Display for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("in force"),
            Self::NotFresh => f.write_str("not seen on a new connection"),
            Self::OtherNames { shown, wanted } => {
                write!(
                    f,
                    "a new connection shows synchronous_standby_names '{shown}' instead of '{wanted}'"
                )
            }
            Self::StillCounted { standbys } => {
                let names: Vec<&str> = standbys.iter().map(String::as_str).collect();
                write!(f, "still counted though not in the set: {}", names.join(", "))
            }
            Self::WalsendersLeft { walsenders } => {
                let pids: Vec<String> = walsenders.iter().map(|w| w.pid.to_string()).collect();
                write!(f, "walsenders with the old quorum still run: {}", pids.join(", "))
            }
            Self::CheckpointDue => f.write_str("no checkpoint has ended since the names were set"),
        }
    }
}

impl PrimaryView {
    /// Whether `set` is in force by this look (invariant 6), given what the change to it asks for.
    #[must_use]
    pub fn in_force(&self, set: &SyncSet, change: &NamesChange) -> InForce {
        if !self.server.fresh {
            return InForce::NotFresh;
        }
        let wanted = set.names();
        if self.names != wanted {
            return InForce::OtherNames {
                shown: self.names.clone(),
                wanted,
            };
        }
        let inside: BTreeSet<String> = set
            .standbys
            .iter()
            .map(|s| s.standby_name().to_lowercase())
            .collect();
        let counts = |row: &&Replication| {
            row.sync_priority > 0 && !inside.contains(&row.application_name.to_lowercase())
        };
        let standbys: BTreeSet<String> = self
            .replication
            .iter()
            .filter(counts)
            .map(|row| row.application_name.clone())
            .collect();
        if !standbys.is_empty() {
            return InForce::StillCounted { standbys };
        }
        let running = self.walsenders();
        let walsenders: BTreeSet<Walsender> = change.must_end.intersection(&running).copied().collect();
        if !walsenders.is_empty() {
            return InForce::WalsendersLeft { walsenders };
        }
        if change.checkpoint_due {
            return InForce::CheckpointDue;
        }
        InForce::Yes
    }

    /// All walsenders that run, for `NamesChange::must_end`.
    #[must_use]
    pub fn walsenders(&self) -> BTreeSet<Walsender> {
        self.replication.iter().map(|row| row.walsender).collect()
    }

    /// Names of the standbys that have flushed everything before `position`. One that claims more than this server ever
    /// flushed is on another history and does not count.
    #[must_use]
    pub fn flushed_by(&self, position: Lsn) -> BTreeSet<String> {
        let flushed = |row: &&Replication| {
            row.flush_lsn
                .is_some_and(|lsn| lsn >= position && lsn <= self.flush_lsn)
        };
        self.replication
            .iter()
            .filter(flushed)
            .map(|row| row.application_name.clone())
            .collect()
    }

    /// Walsenders whose standby is not one of `known` (a clone, a rewind, somebody else's, or a former life of a member).
    #[must_use]
    pub fn foreign(&self, known: &BTreeSet<String>) -> Vec<&Replication> {
        self.replication
            .iter()
            .filter(|row| !known.contains(&row.application_name))
            .collect()
    }
}
