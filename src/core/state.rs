//! What a member remembers between two decisions. Lost with the process: everything that safety needs lies in the
//! record or with the guard.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::action::ClaimEvidence;
use super::phase::Phase;
use super::record::{Record, SyncSet};
use super::types::{Address, DataId, Lsn, MemberData, MemberName, Millis, Term};
use super::why::{RejoinWay, StepDown};

/// The memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct State {
    /// The phase of the last decision.
    pub phase: Phase,
    /// When the first decision was made.
    pub started_at: Option<Millis>,
    /// The newest swap by which the server here may run read-write.
    pub basis: Option<PermitBasis>,
    /// Swaps sent before this moment give no basis: the permit was given up after them.
    pub basis_not_before: Millis,
    /// The permit asked for last: term, deadline, guard boot.
    pub permit_asked: Option<(Term, Millis, String)>,
    /// When the last swap was sent.
    pub swapped_at: Option<Millis>,
    /// No swap before this moment: the API server refused the last one.
    pub swap_not_before: Millis,
    /// The record under which this member last led, to write it back (DESIGN.md section 3).
    pub led: Option<Box<Record>>,
    /// The damaged version of the Lease over which this member could write its record back, and since when it is seen.
    pub damaged: Option<(String, Millis)>,
    /// `led` comes from a former process of this sidecar and was not seen in the Lease since.
    pub led_recalled: bool,
    /// Set while stepping down.
    pub stepping_down: Option<SteppingDown>,
    /// Set while a former sync set is not released.
    pub settling: Option<Settling>,
    /// Since when the server fails its health test.
    pub unhealthy_since: Option<Millis>,
    /// Since when the server here recovers or is being promoted, while this member leads.
    pub not_ready_since: Option<Millis>,
    /// How far the server here was as primary by the last look, and when that was asked for.
    pub wal_seen: Option<(Lsn, Millis)>,
    /// Since when the guard says that the server is read-write.
    pub primary_since: Option<Millis>,
    /// Since when the primary followed is known to be promoting.
    pub promoting_since: Option<Millis>,
    /// Promotions in this term that failed.
    pub promotions_failed: u32,
    /// When the steps of the takeover under way were done, in order.
    pub marks: Vec<(String, Millis)>,
    /// Since when this member holds the Lease of this term without being primary.
    pub taking: Option<(Term, Millis)>,
    /// The Lease that was claimed last: its term, and on what evidence.
    pub claimed: Option<(Term, ClaimEvidence)>,
    /// Since when the evidence that the holder is gone has been seen: whose, and when it began.
    pub holder_gone: Option<(String, Millis)>,
    /// No claim before this moment: the last one found no proof.
    pub claim_not_before: Millis,
    /// The upstream that the guard was told last: whom, where, in which term, at which guard boot.
    pub followed: Option<(MemberData, Address, Term, String)>,
    /// Since when the receiver does not stream.
    pub not_streaming_since: Option<Millis>,
    /// Since when it should stream: the primary is up, and the receiver does not.
    pub should_stream_since: Option<Millis>,
    /// What was tried to come back.
    pub rejoin: Rejoin,
    /// Whom the clone copies that was ordered last.
    pub copying: Option<MemberData>,
    /// The term that `settling` and `away_since` are of: another term's looks say nothing about this one's sets.
    pub sets_term: Option<Term>,
    /// The last answer of each walsender's standby (by the standby's clock), and since when it is the last one (by this one's).
    pub replies: BTreeMap<i32, (Option<i64>, Millis)>,
    /// Since when a standby of the set has been away.
    pub away_since: BTreeMap<MemberData, Millis>,
    /// Since when the volume of the server that leads here is full.
    pub full_since: Option<Millis>,
    /// When this member stepped down because its server died or failed.
    pub handovers: Vec<Millis>,
    /// The term in which the server here was seen to take a write as primary.
    pub verified: Option<Term>,
    /// Since when a start in place waits until the Service leads nowhere.
    pub closing_since: Option<Millis>,
    /// Where recovery ended, of the server that is primary since this moment.
    pub recovered: Option<(Millis, Lsn)>,
    /// When the server was started in place.
    pub restarts: Vec<Millis>,
    /// A guard order is not given again before this moment (the last one failed).
    pub guard_not_before: Millis,
    /// Orders of people that were answered.
    pub answered: BTreeSet<String>,
    /// Holds the Lease to adopt the data here: of which term, since when.
    pub adopting: Option<(Term, Millis)>,
    /// Whom of the servers without a guard the standby here was told to follow, where, at which guard boot.
    pub follows_plain: Option<(MemberName, Address, String)>,
    /// Since when no server without a guard is known that could be followed.
    pub nobody_writes_since: Option<Millis>,
    /// A failover without proof that a person ordered: its id.
    pub waiver: Option<String>,
}

/// A swap that lets the server run read-write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PermitBasis {
    /// Its term.
    pub term: Term,
    /// When it was sent, CLOCK_BOOTTIME; or the heartbeats that enough others have answered with a promise.
    pub sent_boot: Millis,
    /// It lasts by promises, not by a swap.
    pub promised: bool,
}

/// A step-down under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SteppingDown {
    /// The term given up.
    pub term: Term,
    /// For whom.
    pub to: Option<MemberName>,
    /// Why.
    pub reason: StepDown,
    /// Since when.
    pub since: Millis,
    /// The checkpoint before the fence has ended, or is not wanted.
    pub checkpointed: bool,
    /// The order to stop was given and has ended.
    pub stopped: bool,
    /// The order of a person behind it.
    pub order: Option<String>,
}

/// How far a change of the sync set is (invariant 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settling {
    /// The set that comes into force.
    pub set: SyncSet,
    /// Evidence older than this does not count.
    pub since: Millis,
    /// The statement under way was ordered for this change: one that began before says nothing of it.
    pub ordered: bool,
    /// Walsenders that were ended after the names were in force.
    pub ended: Option<Vec<i32>>,
    /// A checkpoint has ended after the names were in force.
    pub checkpointed: bool,
    /// A look showed that the set is in force.
    pub in_force: bool,
    /// The primary's position after the set was in force.
    pub position: Option<Lsn>,
}

/// Ways back to the primary's history that were tried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rejoin {
    /// For this primary in this term.
    pub source: Option<(MemberData, Term)>,
    /// Ways that failed.
    pub failed: BTreeSet<RejoinWay>,
    /// What the last one said.
    pub error: String,
    /// No next try before this.
    pub retry_at: Millis,
    /// Clones that failed, or that made data which does not follow.
    pub clones: u32,
    /// The data was given up once because the server died at each start; a copy that does too is not given up.
    pub given_up: bool,
    /// Starts as a standby since it last streamed.
    pub starts: u32,
    /// When the last of them was ordered.
    pub started_at: Millis,
    /// The end of WAL could not be read.
    pub unreadable: bool,
    /// Orders to stop that failed in a row.
    pub stops_failed: u32,
    /// The life of the data that was tried: a copy made anew has its own chances.
    pub data: Option<DataId>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Starting,
            started_at: None,
            basis: None,
            basis_not_before: Millis(0),
            permit_asked: None,
            swapped_at: None,
            swap_not_before: Millis(0),
            led: None,
            damaged: None,
            led_recalled: false,
            stepping_down: None,
            settling: None,
            unhealthy_since: None,
            not_ready_since: None,
            wal_seen: None,
            primary_since: None,
            promoting_since: None,
            promotions_failed: 0,
            marks: Vec::new(),
            taking: None,
            claimed: None,
            holder_gone: None,
            claim_not_before: Millis(0),
            followed: None,
            not_streaming_since: None,
            should_stream_since: None,
            rejoin: Rejoin::default(),
            copying: None,
            sets_term: None,
            replies: BTreeMap::new(),
            away_since: BTreeMap::new(),
            full_since: None,
            handovers: Vec::new(),
            verified: None,
            closing_since: None,
            recovered: None,
            restarts: Vec::new(),
            guard_not_before: Millis(0),
            answered: BTreeSet::new(),
            adopting: None,
            follows_plain: None,
            nobody_writes_since: None,
            waiver: None,
        }
    }
}
