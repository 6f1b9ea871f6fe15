//! The phases of a member and the transitions between them: a table that a person can read, and that every decision obeys.

use serde::{Deserialize, Serialize};

/// Where a member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing known yet.
    Starting,
    /// The Lease is missing or without a usable record.
    Damaged,
    /// The cluster was never initialised.
    Uninitialised,
    /// Runs initdb.
    Initialising,
    /// Holds data that was made without pgbaton, in a cluster that has no primary of pgbaton's yet.
    Adopting,
    /// Holds the Lease; its server is, or is being made, the recorded primary.
    Leading,
    /// Steps down.
    HandingOver,
    /// Holds the Lease of a new term without being its primary.
    Taking,
    /// A standby of the recorded primary, or waiting to be one.
    Following,
    /// Pledged to a term that has no primary yet.
    Pledged,
    /// Makes its data fit to follow.
    Rejoining,
    /// Cannot do anything by itself.
    Stranded,
}

/// One allowed change.
#[derive(Debug, Clone, Copy)]
pub struct Transition {
    /// From.
    pub from: Phase,
    /// To.
    pub to: Phase,
    /// When, for people.
    pub when: &'static str,
}

const fn t(from: Phase, to: Phase, when: &'static str) -> Transition {
    Transition { from, to, when }
}

use Phase::{
    Adopting, Damaged, Following, HandingOver, Initialising, Leading, Pledged, Rejoining, Starting, Stranded,
    Taking, Uninitialised,
};

/// Every allowed change between two different phases.
pub const TRANSITIONS: &[Transition] = &[
    t(
        Starting,
        Damaged,
        "the first look at the Lease finds no usable record",
    ),
    t(
        Starting,
        Uninitialised,
        "the record says that the cluster was never initialised",
    ),
    t(Starting, Initialising, "this pod had begun to initialise"),
    t(
        Starting,
        Leading,
        "this pod still holds the Lease, or takes it as the recorded primary",
    ),
    t(
        Starting,
        HandingOver,
        "this pod still holds the Lease and its server must not go on here",
    ),
    t(
        Starting,
        Taking,
        "this pod still holds the Lease of a term that has no primary yet",
    ),
    t(Starting, Following, "the record names another primary"),
    t(Starting, Pledged, "somebody is taking over"),
    t(Starting, Rejoining, "the data here cannot follow as it is"),
    t(Starting, Stranded, "the data here belongs to another cluster"),
    t(Damaged, Starting, "the guard or the API server is out of sight"),
    t(Damaged, Uninitialised, "a record appeared: never initialised"),
    t(Damaged, Leading, "the running primary wrote the record back"),
    t(Damaged, Following, "the record is back"),
    t(
        Damaged,
        Pledged,
        "the record is back, and somebody is taking over",
    ),
    t(
        Damaged,
        Taking,
        "the record is back, and this member holds the Lease",
    ),
    t(
        Damaged,
        Rejoining,
        "the record is back, and the data here cannot follow as it is",
    ),
    t(Damaged, Stranded, "a record of another cluster appeared"),
    t(
        Damaged,
        HandingOver,
        "the record is back in the middle of a handover",
    ),
    t(Uninitialised, Starting, "the guard is out of sight"),
    t(
        Uninitialised,
        Damaged,
        "the record disappeared, or a member with data appeared",
    ),
    t(
        Uninitialised,
        Initialising,
        "STANDBY_MODE=off marks this member, and it took the Lease",
    ),
    t(
        Uninitialised,
        Rejoining,
        "another member initialised the cluster: clone",
    ),
    t(Uninitialised, Following, "another member initialised the cluster"),
    t(
        Uninitialised,
        Stranded,
        "another member initialised the cluster, and the data here is not of it",
    ),
    t(
        Uninitialised,
        Pledged,
        "another member initialised the cluster and lost it again",
    ),
    t(Initialising, Starting, "the guard is out of sight"),
    t(Initialising, Leading, "initdb is done and recorded"),
    t(Initialising, Uninitialised, "somebody else took the Lease"),
    t(Initialising, Damaged, "the record disappeared"),
    t(Initialising, Rejoining, "somebody else initialised the cluster"),
    t(Initialising, Following, "somebody else initialised the cluster"),
    t(
        Initialising,
        Pledged,
        "initdb is done, and somebody else is taking over",
    ),
    t(
        Initialising,
        HandingOver,
        "initdb is done, and the pod is being stopped",
    ),
    t(
        Initialising,
        Taking,
        "the data here is not the recorded primary's",
    ),
    t(
        Initialising,
        Stranded,
        "somebody else initialised the cluster, and the data here is not of it",
    ),
    t(
        Starting,
        Adopting,
        "the record says never initialised, and the data here was made without pgbaton",
    ),
    t(
        Damaged,
        Adopting,
        "the record is back: never initialised, and the data here was made without pgbaton",
    ),
    t(
        Uninitialised,
        Adopting,
        "data that was made without pgbaton appeared",
    ),
    t(
        Initialising,
        Adopting,
        "data that was made without pgbaton appeared",
    ),
    t(Adopting, Starting, "the guard is out of sight"),
    t(
        Adopting,
        Leading,
        "a primary's data, and every other server was heard: restarted in place",
    ),
    t(
        Adopting,
        Pledged,
        "another member adopts its data: pledged to its term",
    ),
    t(Adopting, Following, "another member's data was adopted"),
    t(
        Adopting,
        Rejoining,
        "another member's data was adopted, and the data here cannot follow as it is",
    ),
    t(
        Adopting,
        Damaged,
        "the record disappeared, or a member with data of pgbaton's appeared",
    ),
    t(Adopting, Uninitialised, "the data here is gone"),
    t(
        Adopting,
        Stranded,
        "another member's data was adopted, and the data here is another primary's",
    ),
    t(Adopting, HandingOver, "adopted, and the pod is being stopped"),
    t(
        Adopting,
        Taking,
        "a person adopted, and the data here is another one now",
    ),
    t(
        Pledged,
        Adopting,
        "the adoption that it pledged to came to nothing",
    ),
    t(Stranded, Adopting, "the record was set back to never initialised"),
    t(
        Following,
        Adopting,
        "the record was set back to never initialised before the data here was adopted",
    ),
    t(Leading, Starting, "the guard is out of sight"),
    t(
        Leading,
        HandingOver,
        "steps down: ordered, pod ends, server dead or hung, guard lost",
    ),
    t(Leading, Following, "the record names another primary"),
    t(Leading, Pledged, "somebody else took the Lease"),
    t(
        Leading,
        Damaged,
        "the record disappeared and this server has no permit",
    ),
    t(Leading, Rejoining, "the data here is gone or another one"),
    t(Leading, Stranded, "the data here belongs to another cluster"),
    t(
        Leading,
        Taking,
        "the data here is not the recorded primary's any more",
    ),
    t(HandingOver, Starting, "the guard is out of sight"),
    t(HandingOver, Leading, "the successor did not come: start in place"),
    t(HandingOver, Pledged, "the successor has the Lease"),
    t(HandingOver, Following, "the successor is primary"),
    t(
        HandingOver,
        Rejoining,
        "the successor is primary, and the data here cannot follow as it is",
    ),
    t(HandingOver, Damaged, "the record disappeared"),
    t(HandingOver, Stranded, "the record became another cluster's"),
    t(
        HandingOver,
        Taking,
        "this member holds the Lease again without being primary",
    ),
    t(Taking, Starting, "the guard is out of sight"),
    t(Taking, Leading, "proof: written down as the new primary"),
    t(
        Taking,
        HandingOver,
        "another one holds more WAL, or no proof in time: gives the Lease back",
    ),
    t(Taking, Pledged, "somebody else took the Lease"),
    t(Taking, Following, "the Lease went to the recorded primary"),
    t(Taking, Rejoining, "the data here must be made anew"),
    t(Taking, Damaged, "the record disappeared"),
    t(Taking, Stranded, "the record became another cluster's"),
    t(Following, Starting, "the guard is out of sight"),
    t(
        Following,
        Taking,
        "the Lease was released or ran out, or its holder is gone: took it",
    ),
    t(Following, Leading, "took the Lease as the recorded primary"),
    t(Following, HandingOver, "took the Lease and gives it on"),
    t(
        Following,
        Pledged,
        "somebody else took the Lease: pledged to its term",
    ),
    t(
        Following,
        Rejoining,
        "does not stream, or has left the primary's history",
    ),
    t(Following, Damaged, "the record disappeared"),
    t(Following, Stranded, "the data here belongs to another cluster"),
    t(
        Following,
        Uninitialised,
        "the record was set back to never initialised and this member has no data",
    ),
    t(Pledged, Starting, "the guard is out of sight"),
    t(Pledged, Following, "the term has its primary"),
    t(Pledged, Taking, "that taker failed or is gone: took the Lease"),
    t(Pledged, Leading, "took the Lease as the recorded primary"),
    t(
        Pledged,
        Rejoining,
        "the term has its primary, and the data here cannot follow as it is",
    ),
    t(Pledged, Damaged, "the record disappeared"),
    t(Pledged, HandingOver, "took the Lease and gives it on"),
    t(Pledged, Stranded, "the record became another cluster's"),
    t(Rejoining, Starting, "the guard is out of sight"),
    t(Rejoining, Following, "the data follows"),
    t(Rejoining, Pledged, "somebody else is taking over"),
    t(Rejoining, Stranded, "the record became another cluster's"),
    t(Rejoining, Damaged, "the record disappeared"),
    t(Rejoining, Taking, "took the Lease"),
    t(Rejoining, Leading, "took the Lease as the recorded primary"),
    t(
        Rejoining,
        Uninitialised,
        "the record was set back to never initialised",
    ),
    t(Stranded, Starting, "the guard is out of sight"),
    t(
        Stranded,
        Following,
        "the record fits again, or a new term has a primary to follow",
    ),
    t(
        Stranded,
        Rejoining,
        "a new term, or emptied data: ways back are open again",
    ),
    t(Stranded, Pledged, "somebody is taking over"),
    t(Stranded, Damaged, "the record disappeared"),
    t(
        Stranded,
        Uninitialised,
        "the record says that the cluster was never initialised",
    ),
    t(Stranded, Leading, "the record names this data as primary again"),
    t(Stranded, Taking, "took the Lease"),
];

/// True when the table allows it (staying is always allowed).
#[must_use]
pub fn allowed(from: Phase, to: Phase) -> bool {
    from == to || TRANSITIONS.iter().any(|t| t.from == from && t.to == to)
}
