//! `decide`: from what is remembered and what is seen to what is done, and why. Pure.
//!
//! One file per situation: `lead` (holds the Lease as recorded primary), `promise` (stays it while the API server is away), `sets` (its sync sets), `step_down`, `volume` (its volume is full), `restart` (its server starts in place), `take`
//! (holds the Lease of a new term), `claim` (may take it), `early` (before it ran out), `follow` (somebody else leads), `begin` (never initialised), `in_place` (never
//! initialised, and the data here was made without pgbaton), `heard` (what stands against that), `join` (such data in a cluster that has a
//! primary), `adopt` (a person's word), `damage` (the record is lost).

mod adopt;
mod begin;
mod claim;
mod damage;
mod early;
mod follow;
mod heard;
mod in_place;
mod join;
mod lead;
mod orders;
mod outcomes;
mod promise;
mod restart;
mod sets;
mod step_down;
mod take;
mod volume;

use std::collections::BTreeMap;

use serde::Serialize;

use super::action::{Action, GuardOrder, SqlJob, Swap, SwapKind};
use super::observe::PeerReport;
use super::observe::{GuardView, LeaseView, Observation, RecordView, SeenLease, ServerView, Settings};
use super::phase::{self, Phase};
use super::record::Record;
use super::state::State;
use super::types::{DataId, Lsn, MemberData, MemberName, Millis, Term};
use super::why::Why;
use crate::guard::protocol::{DataState, Status};

/// A peer's answer older than this says nothing about the peer being there.
pub const PEER_FRESH: Millis = Millis(1_500);

/// What to do, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decision {
    /// What to remember.
    pub state: State,
    /// Where this member stands.
    pub phase: Phase,
    /// Why.
    pub why: Why,
    /// What to do; at most one for each lane.
    pub actions: Vec<Action>,
    /// When to decide again at the latest, on the live clock.
    pub wake_at: Millis,
    /// How often to ask the peers.
    pub ask_peers_every: Millis,
    /// How often to test the server.
    pub probe_every: Millis,
    /// The term whose permit may last by promises: heartbeats are sent with it.
    pub heartbeat: Option<Term>,
    /// The term whose leader may be promised to claim nothing, and the data here.
    pub may_promise: Option<(Term, DataId)>,
    /// The change of phase is in the table of `core::phase`; false is a fault of pgbaton, reported and never fatal.
    pub listed: bool,
}

/// Decides.
#[must_use]
pub fn decide(settings: &Settings, state: &State, seen: &Observation) -> Decision {
    let mut mind = Mind::new(settings, state, seen);
    mind.absorb();
    let (next, why) = mind.choose();
    let listed = phase::allowed(state.phase, next);
    mind.permit();
    mind.state.phase = next;
    let may_promise = mind.may_promise(next);
    Decision {
        phase: next,
        why,
        actions: mind.actions,
        wake_at: mind.wake_at,
        ask_peers_every: mind.ask_peers_every,
        probe_every: mind.probe_every,
        heartbeat: mind.heartbeat,
        may_promise,
        listed,
        state: mind.state,
    }
}

/// One decision in the making.
struct Mind<'a> {
    settings: &'a Settings,
    seen: &'a Observation,
    state: State,
    actions: Vec<Action>,
    wake_at: Millis,
    ask_peers_every: Millis,
    probe_every: Millis,
    heartbeat: Option<Term>,
    swap_free: bool,
    guard_free: bool,
    sql_free: bool,
}

type Chosen = (Phase, Why);

impl<'a> Mind<'a> {
    fn new(settings: &'a Settings, state: &State, seen: &'a Observation) -> Self {
        let mut state = state.clone();
        state.started_at.get_or_insert(seen.now);
        Self {
            settings,
            seen,
            state,
            actions: Vec::new(),
            wake_at: seen.now.plus(Millis(500)),
            ask_peers_every: Millis(500),
            probe_every: Millis(1_000),
            heartbeat: None,
            swap_free: !seen.lanes.swap,
            guard_free: !seen.lanes.guard,
            sql_free: !seen.lanes.sql,
        }
    }

    fn now(&self) -> Millis {
        self.seen.now
    }

    fn wake_in(&mut self, after: Millis) {
        self.wake_at = self.wake_at.min(self.now().plus(after));
    }

    fn choose(&mut self) -> Chosen {
        let seen = self.seen;
        let guard = match &seen.guard {
            GuardView::Unknown => return (Phase::Starting, Why::GuardNotHeard),
            GuardView::Lost { since, last } => return self.without_guard(*since, &last.value),
            GuardView::Heard(status) => &status.value,
        };
        let lease = match &seen.lease {
            LeaseView::Unknown => return (Phase::Starting, Why::NoLeaseSeenYet),
            LeaseView::Absent => return self.lease_absent(guard),
            LeaseView::Seen(lease) => lease.as_ref(),
        };
        let record = match self.usable_record(lease, guard) {
            Ok(record) => record,
            Err(how) => return self.damaged(lease, guard, how),
        };
        self.state.damaged = None;
        self.hear_people(lease, record);
        if record.is_never_initialised() {
            return self.begin(lease, record, guard);
        }
        if let (Some(ours), Some(cluster)) = (guard.system_identifier, record.system_identifier)
            && ours != cluster
            && guard.data == DataState::Complete
        {
            return (Phase::Stranded, Why::ForeignData { ours, cluster });
        }
        let primary_here = self
            .my_data(guard)
            .is_some_and(|mine| record.primary.as_ref().is_some_and(|p| p.data() == mine));
        match (self.i_hold(lease), primary_here) {
            (true, true) => self.lead(lease, record, guard),
            (true, false) => self.take(lease, record, guard),
            (false, true) => self.regain(lease, record, guard),
            (false, false) => self.follow(lease, record, guard),
        }
    }

    fn i_hold(&self, lease: &SeenLease) -> bool {
        lease.holder.as_deref() == Some(self.settings.holder.as_str())
    }

    fn my_data(&self, guard: &Status) -> Option<MemberData> {
        let data_id = guard
            .data_id
            .clone()
            .filter(|_| guard.data == DataState::Complete)?;
        Some(MemberData {
            member: self.settings.me.clone(),
            data_id,
        })
    }

    /// The answers of other members that are young enough to say that they are there.
    fn fresh_peers(&self) -> impl Iterator<Item = &'a PeerReport> + use<'a> {
        let now = self.seen.now;
        self.seen
            .peers
            .values()
            .filter(move |p| now.since(p.asked_at) <= PEER_FRESH)
            .map(|p| &p.value)
    }

    fn fresh_peer(&self, name: &MemberName) -> Option<&'a PeerReport> {
        let peer = self.seen.peers.get(name)?;
        (self.now().since(peer.asked_at) <= PEER_FRESH).then_some(&peer.value)
    }

    /// The local server as seen by a question asked not before `since`.
    fn server_since(&self, since: Millis) -> Option<&'a ServerView> {
        self.seen
            .server
            .as_ref()
            .filter(|s| s.asked_at >= since)
            .map(|s| &s.value)
    }

    fn server_fresh(&self) -> Option<&'a ServerView> {
        self.server_since(Millis(self.now().0.saturating_sub(3_000)))
    }

    /// A WAL location that this member is known to hold. Of a standby what it received: what it has replayed may lie far behind, and all WAL
    /// in between would be read for a pledge.
    fn hint(&self) -> Option<Lsn> {
        match self.seen.server.as_ref().map(|s| &s.value) {
            Some(ServerView::Primary { insert, .. }) => Some(*insert),
            Some(ServerView::Standby { receive, replay, .. }) => (*receive).max(*replay),
            _ => None,
        }
    }

    fn swap(&mut self, lease: &SeenLease, kind: SwapKind, record: Record) -> bool {
        self.swap_as(lease, kind, lease.term, record)
    }

    /// Emits a swap when the lane is free. True when it was emitted.
    fn swap_as(&mut self, lease: &SeenLease, kind: SwapKind, term: Term, record: Record) -> bool {
        if !self.swap_free || self.now() < self.state.swap_not_before {
            return false;
        }
        if let Err(broken) = record.check() {
            unreachable!("about to write a record that breaks a rule: {broken}: {record:?}");
        }
        self.swap_free = false;
        self.state.swapped_at = Some(self.now());
        self.actions.push(Action::Swap(Swap {
            kind,
            based_on: lease.version.clone(),
            term,
            record: Box::new(record),
            annotations: BTreeMap::new(),
        }));
        true
    }

    /// Gives an order to the guard when the lane is free and the last failure is long enough ago.
    fn order(&mut self, term: Term, order: GuardOrder) -> bool {
        if !self.guard_free || self.now() < self.state.guard_not_before {
            return false;
        }
        self.guard_free = false;
        self.actions.push(Action::Guard { term, order });
        true
    }

    fn sql(&mut self, job: SqlJob) -> bool {
        if !self.sql_free {
            return false;
        }
        self.sql_free = false;
        self.actions.push(Action::Sql(job));
        true
    }

    /// Extends the guard's permit as far as the newest swap allows (invariant 1).
    fn permit(&mut self) {
        let Some(basis) = self.state.basis else { return };
        let GuardView::Heard(guard) = &self.seen.guard else {
            return;
        };
        let deadline = basis.sent_boot.plus(self.settings.permit);
        if deadline <= self.seen.now_boot {
            self.state.basis = None;
            return;
        }
        // What is seen now says otherwise: the permit given before runs out by itself, no guard gets it anew.
        if let LeaseView::Seen(lease) = &self.seen.lease
            && matches!(lease.record, RecordView::Good(_))
            && !self.may_write(lease)
        {
            return;
        }
        let asked = (basis.term, deadline, guard.value.boot_id.clone());
        if self.state.permit_asked.as_ref() != Some(&asked) {
            self.state.permit_asked = Some(asked);
            self.actions.push(Action::Permit {
                term: basis.term,
                deadline_boot: deadline,
            });
        }
    }

    /// Gives up the right to write: no swap sent so far may extend the permit again.
    fn drop_basis(&mut self) {
        self.state.basis = None;
        self.state.basis_not_before = self.now().plus(Millis(1));
    }

    /// This member is not the one who may write; a swap under way may make it so.
    fn forget_basis(&mut self) {
        self.state.basis = None;
        self.state.not_ready_since = None;
    }

    /// True when the guard holds a permit of `term` that has not ended.
    fn permitted(&self, guard: &Status, term: Term) -> bool {
        guard
            .permit
            .is_some_and(|p| p.term == term && p.deadline_boot_ms > self.seen.now_boot.0)
    }

    fn usable_record<'r>(&self, lease: &'r SeenLease, guard: &Status) -> Result<&'r Record, String> {
        let record = match &lease.record {
            RecordView::Good(record) => record.as_ref(),
            RecordView::Missing => return Err("it carries no record".to_owned()),
            RecordView::Unreadable(why) => return Err(why.clone()),
        };
        self.check_record(lease, record, guard)?;
        Ok(record)
    }
}

/// Who would succeed the primary now: for people, and for the primary itself.
///
/// # Errors
/// Why nobody would.
pub fn successor(
    settings: &Settings,
    state: &State,
    seen: &Observation,
    record: &Record,
) -> Result<MemberName, String> {
    Mind::new(settings, state, seen).successor(record, None)
}
