//! A cluster that was made without pgbaton is adopted in place: what was found by asking its servers, and what stands in the way.
//!
//! No guard holds the servers that are found, so nothing can be fenced: a primary's data leads only when every other server was heard,
//! as a standby that holds nothing beyond it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::types::{Address, Lsn, MemberName, Millis, Position, SystemId, Timeline};
use crate::guard::protocol::FoundData;

/// The other servers of the namespace, as found by asking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub enum Survey {
    /// Nobody has asked yet.
    #[default]
    NotYet,
    /// Who is there could not be learned.
    Failed {
        /// Why, and what to do.
        why: String,
        /// The right to ask is missing: it was not granted, and asking again changes nothing.
        forbidden: bool,
    },
    /// Every server that is there.
    Taken {
        /// When the first question was asked, on the live clock.
        asked_at: Millis,
        /// By the name of its StatefulSet; this member too.
        servers: BTreeMap<MemberName, FoundServer>,
    },
}

/// One StatefulSet with the variables of a member, and what answered at its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FoundServer {
    /// `spec.replicas`.
    pub replicas: u32,
    /// Where its name leads; none: nowhere.
    pub address: Option<Address>,
    /// What its server answered.
    pub answer: ServerAnswer,
}

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum ServerAnswer {
    /// Out of recovery.
    ReadWrite {
        /// Of which cluster.
        system_identifier: SystemId,
    },
    /// In recovery.
    Standby {
        /// Of which cluster.
        system_identifier: SystemId,
        /// Timeline of its WAL.
        timeline: Timeline,
        /// Where its WAL ends.
        held: Option<Lsn>,
    },
    /// No answer that says what it is.
    Silent {
        /// What came instead.
        why: String,
    },
}

impl Survey {
    /// What was found by questions asked not before `since`; none: nothing so young.
    #[must_use]
    pub fn since(&self, since: Millis) -> Option<&BTreeMap<MemberName, FoundServer>> {
        match self {
            Self::Taken { asked_at, servers } if *asked_at >= since => Some(servers),
            _ => None,
        }
    }
}

impl ServerAnswer {
    /// It takes writes, for this cluster.
    #[must_use]
    pub fn is_read_write_of(&self, cluster: Option<SystemId>) -> bool {
        matches!(self, Self::ReadWrite { system_identifier } if Some(*system_identifier) == cluster)
    }

    /// A server answered, so there is data.
    #[must_use]
    pub fn has_data(&self) -> bool {
        !matches!(self, Self::Silent { .. })
    }
}

/// Where the data's own history leaves this timeline: WAL up to there is its own. None: a timeline that it never was on.
fn own_until(found: &FoundData, timeline: Timeline) -> Option<Lsn> {
    let mut until = found.end?;
    for (own, begins) in &found.history {
        if *own == timeline {
            return Some(until);
        }
        until = *begins;
    }
    None
}

/// True when all WAL that ends at `held` is in the found data, which is at rest.
#[must_use]
pub fn holds_up_to(found: &FoundData, timeline: Timeline, held: Lsn) -> bool {
    own_until(found, timeline).is_some_and(|until| held <= until)
}

/// As `holds_up_to`, for a position, which is where the last record begins.
#[must_use]
pub fn holds(found: &FoundData, position: Position) -> bool {
    own_until(found, position.timeline).is_some_and(|until| position.last_record < until)
}

/// Why a primary's data here does not lead yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "obstacle", rename_all = "snake_case")]
pub enum Obstacle {
    /// Nobody has asked the servers yet, or not recently.
    NotLooked,
    /// The servers cannot be learned.
    CannotLook {
        /// Why, and what to do.
        why: String,
    },
    /// Where the WAL here ends is not known.
    OwnEndUnknown,
    /// It takes writes.
    TakesWrites {
        /// Who.
        member: MemberName,
    },
    /// Nothing that says what it is.
    Silent {
        /// Who.
        member: MemberName,
        /// What came instead.
        why: String,
        /// Its StatefulSet has no replicas.
        scaled_down: bool,
    },
    /// Its data is of another cluster.
    Foreign {
        /// Who.
        member: MemberName,
        /// Its cluster.
        system_identifier: SystemId,
    },
    /// Its data is a primary's too.
    SecondPrimary {
        /// Who.
        member: MemberName,
    },
    /// Its data is not whole.
    Incomplete {
        /// Who.
        member: MemberName,
    },
    /// It holds WAL that is not here: the data here is an old primary's.
    HoldsMore {
        /// Who.
        member: MemberName,
        /// Up to where.
        theirs: String,
    },
    /// Where its WAL ends is not known yet.
    EndUnknown {
        /// Who.
        member: MemberName,
    },
    /// More than one pod answers at one name.
    Replicas {
        /// Who.
        member: MemberName,
        /// How many.
        replicas: u32,
    },
    /// It has seen a later term than the Lease's.
    LaterTerm {
        /// Who.
        member: MemberName,
    },
    /// A person has ordered that another one's data is taken.
    Ordered {
        /// Whose.
        member: MemberName,
    },
    /// Another member takes its own data for the cluster's.
    Another {
        /// Holder of the Lease.
        by: String,
    },
    /// The last try came to nothing; a moment's rest.
    LastTry,
}

/// `adopt --to NAME`, as the texts name it.
const DECIDE: &str = "a person decides which data counts: `pgbaton adopt --to NAME`";

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLooked => f.write_str("the other servers have not all been asked yet"),
            Self::CannotLook { why } => write!(f, "the other servers are not known: {why}"),
            Self::OwnEndUnknown => {
                f.write_str("where the WAL here ends could not be read yet (see the guard's warning)")
            }
            Self::TakesWrites { member } => write!(
                f,
                "{member} takes writes: it is the primary, and this data is not. If it is, stop {member} for good (scale its StatefulSet to 0) and see which of the two has the rows"
            ),
            Self::Silent {
                member,
                why,
                scaled_down: false,
            } => write!(
                f,
                "{member} does not say what it is ({why}): start it, or scale its StatefulSet to 0 if it is gone for good, and then {DECIDE}"
            ),
            Self::Silent {
                member,
                scaled_down: true,
                ..
            } => write!(
                f,
                "{member} is scaled to 0, and what its volume holds is not known: start it, or, if it is not wanted, {DECIDE}"
            ),
            Self::Foreign {
                member,
                system_identifier,
            } => write!(
                f,
                "{member} has data of another cluster (system identifier {system_identifier}): take it out of this namespace, or {DECIDE}"
            ),
            Self::SecondPrimary { member } => {
                write!(
                    f,
                    "the data of {member} is a primary's too: {DECIDE}; the other data is not touched"
                )
            }
            Self::Incomplete { member } => write!(
                f,
                "the data of {member} is not whole: empty its PGDATA or repair it, or {DECIDE}"
            ),
            Self::HoldsMore { member, theirs } => write!(
                f,
                "{member} holds WAL up to {theirs}, which the data here does not: this is an old primary's data. Find the primary that {member} followed, or {DECIDE}"
            ),
            Self::EndUnknown { member } => write!(f, "where the WAL of {member} ends is not known yet"),
            Self::Replicas { member, replicas } => {
                write!(
                    f,
                    "StatefulSet {member} has {replicas} replicas, and a member is one server: scale it to 1"
                )
            }
            Self::LaterTerm { member } => write!(
                f,
                "{member} has seen a later term than the Lease's: this cluster ran under pgbaton before, and its record is lost; {DECIDE}"
            ),
            Self::Ordered { member } => {
                write!(f, "a person ordered that the data of {member} is the cluster's")
            }
            Self::Another { by } => write!(f, "{by} takes its own data for the cluster's"),
            Self::LastTry => f.write_str("the last try came to nothing; it is tried again in a moment"),
        }
    }
}

/// How far an adoption is, and what is awaited.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Adoption {
    /// The servers are being asked.
    Looking,
    /// The servers cannot be learned.
    CannotLook {
        /// Why, and what to do.
        why: String,
    },
    /// A standby's data: follows the primary that no guard holds.
    FollowsPlain {
        /// Whom.
        primary: MemberName,
        /// The pod to delete next; none: not before it streams.
        next: Option<String>,
    },
    /// A standby's data, and no server that takes writes was found.
    NobodyWrites {
        /// Who was asked.
        asked: Vec<MemberName>,
        /// Whom the data followed, by its own configuration.
        followed: Option<String>,
    },
    /// A standby's data, and more than one server takes writes.
    SeveralWrite {
        /// Who.
        members: Vec<MemberName>,
    },
    /// A primary's data that does not lead yet.
    Waits {
        /// Why.
        obstacle: Obstacle,
    },
    /// Everything was found well.
    Installing,
    /// A person ordered it.
    Ordered,
    /// The pod is on its way out.
    PodEnds,
    /// Empty here, and another member adopts its data.
    By {
        /// Holder of the Lease.
        by: String,
    },
    /// Empty here, marked as the first primary, and another server has data.
    DataElsewhere {
        /// Who.
        member: MemberName,
    },
    /// The cluster has a primary, and the data here is another primary's.
    NotAdopted {
        /// The cluster's primary.
        primary: MemberName,
    },
    /// The cluster has a primary, and the standby's data here is about to follow it.
    Joining {
        /// Whom.
        primary: MemberName,
    },
}

impl fmt::Display for Adoption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |all: &[MemberName]| {
            let names: Vec<&str> = all.iter().map(MemberName::as_str).collect();
            names.join(", ")
        };
        match self {
            Self::Looking => f.write_str("not adopted yet: asking the other servers what they are"),
            Self::CannotLook { why } => write!(f, "not adopted yet: the other servers are not known: {why}"),
            Self::FollowsPlain { primary, next } => {
                let next = next.as_ref().map_or_else(
                    || "it does not stream yet: wait with the next pod".to_owned(),
                    |pod| format!("next: kubectl delete pod {pod}"),
                );
                write!(
                    f,
                    "not adopted yet: follows {primary}, which takes writes and has no guard; {next}"
                )
            }
            Self::NobodyWrites { asked, followed } => {
                let hint = followed
                    .as_ref()
                    .map_or_else(String::new, |host| format!("; the data here followed {host}"));
                write!(
                    f,
                    "not adopted yet: a standby's data, and no server takes writes (asked: {}){hint}. Start the primary's pod, with or without guard; if its data is lost, {DECIDE}",
                    names(asked)
                )
            }
            Self::SeveralWrite { members } => write!(
                f,
                "not adopted yet: {} take writes, and a cluster has one primary: follows nobody; stop the one that is not",
                names(members)
            ),
            Self::Waits { obstacle } => {
                write!(
                    f,
                    "not adopted yet: the data here is a primary's and does not lead: {obstacle}"
                )
            }
            Self::Installing => f.write_str(
                "adopts the primary's data here in place: every other server was heard, and none holds more",
            ),
            Self::Ordered => f.write_str("adopts the data here, as a person ordered"),
            Self::PodEnds => f.write_str("not adopted yet: this pod is being stopped"),
            Self::By { by } => write!(f, "no data here, and no database is made: {by} adopts its data"),
            Self::DataElsewhere { member } => write!(
                f,
                "STANDBY_MODE is off here and PGDATA is empty, but {member} has data: no new database is made beside it; this member is cloned when that data is adopted"
            ),
            Self::NotAdopted { primary } => write!(
                f,
                "the data here is a primary's that was never adopted, and {primary} is the cluster's primary: not started and not touched; save what only it holds, then empty PGDATA to have it cloned anew"
            ),
            Self::Joining { primary } => {
                write!(
                    f,
                    "a standby's data from before pgbaton: comparing its WAL with {primary}'s before it follows"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(end: u64, history: &[(u32, u64)]) -> FoundData {
        FoundData {
            standby: false,
            upstream: None,
            application_name: None,
            slot: None,
            end: Some(Lsn(end)),
            history: history.iter().map(|(t, l)| (Timeline(*t), Lsn(*l))).collect(),
        }
    }

    #[test]
    fn what_lies_within_the_found_data_is_told_along_its_own_history() {
        let data = found(300, &[(3, 200), (2, 100), (1, 0)]);
        let table = [
            (3, 300, true),
            (3, 301, false),
            (2, 200, true),
            (2, 201, false),
            (1, 100, true),
            (1, 101, false),
            (4, 10, false),
        ];
        for (timeline, held, expected) in table {
            let is = holds_up_to(&data, Timeline(timeline), Lsn(held));
            assert_eq!(is, expected, "{held} on {timeline}");
            // A record that begins where the own WAL ends is not in it; one that begins before is.
            let at = |lsn| Position {
                timeline: Timeline(timeline),
                last_record: Lsn(lsn),
            };
            assert_eq!(holds(&data, at(held - 1)), expected, "{held} on {timeline}");
        }
        assert!(!holds(
            &data,
            Position {
                timeline: Timeline(2),
                last_record: Lsn(200)
            }
        ));
        let unread = FoundData { end: None, ..data };
        assert!(!holds_up_to(&unread, Timeline(1), Lsn(1)), "nothing is known");
    }
}
