//! Whether a sync set is in force, by a look at the primary (invariant 6).

use std::collections::BTreeSet;
use std::fmt;

use super::observe::ReplicationRow;
use super::record::SyncSet;
use super::types::MemberData;

/// What must have been done, besides the names being shown, before a sync set is in force (invariant 6).
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct NamesChange {
    /// k was raised: these walsenders, seen **after** a fresh connection showed the new names, must have ended once.
    pub must_end: BTreeSet<i32>,
    /// The names were empty before and no CHECKPOINT that began after a fresh connection showed the new ones has ended:
    /// only the checkpointer tells backends to wait.
    pub checkpoint_due: bool,
}

/// Whether a sync set is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InForce {
    /// From now on an acknowledged commit was flushed by k of the set.
    Yes,
    /// Other names are shown.
    OtherNames,
    /// Walsenders of these standbys, which are not in the set, still count (a stopped one keeps its priority).
    StillCounted {
        /// Their names.
        standbys: BTreeSet<String>,
    },
    /// Walsenders that know the old k still run.
    WalsendersLeft {
        /// Their processes.
        pids: BTreeSet<i32>,
    },
    /// See `NamesChange::checkpoint_due`.
    CheckpointDue,
}

impl fmt::Display for InForce {
    /// What is waited for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("nothing"),
            Self::OtherNames => f.write_str("the new names on a fresh connection"),
            Self::StillCounted { standbys } => {
                let names: Vec<&str> = standbys.iter().map(String::as_str).collect();
                let names = names.join(", ");
                write!(
                    f,
                    "the walsender of {names}, which is not in the set any more, to read the new names"
                )
            }
            Self::WalsendersLeft { pids } => {
                let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
                write!(f, "walsenders with the old quorum to end: {}", pids.join(", "))
            }
            Self::CheckpointDue => f.write_str("a checkpoint"),
        }
    }
}

/// Whether `set` is in force, given the names and the walsenders that a look on a fresh connection showed, and what the change to
/// the set asks for.
#[must_use]
pub fn judge(set: &SyncSet, names: &str, rows: &[ReplicationRow], change: &NamesChange) -> InForce {
    if names != set.names() {
        return InForce::OtherNames;
    }
    let inside: BTreeSet<String> = set.standbys.iter().map(MemberData::standby_name).collect();
    // PostgreSQL compares without regard to case; the set's own names are lower case.
    let counts = |row: &&ReplicationRow| row.sync_priority > 0 && !inside.contains(&row.name.to_lowercase());
    let standbys: BTreeSet<String> = rows.iter().filter(counts).map(|row| row.name.clone()).collect();
    if !standbys.is_empty() {
        return InForce::StillCounted { standbys };
    }
    let running: BTreeSet<i32> = rows.iter().map(|row| row.pid).collect();
    let pids: BTreeSet<i32> = change.must_end.intersection(&running).copied().collect();
    if !pids.is_empty() {
        return InForce::WalsendersLeft { pids };
    }
    if change.checkpoint_due {
        return InForce::CheckpointDue;
    }
    InForce::Yes
}
