//! The recorded primary's server is down and nobody is fit to succeed it: it starts in place.
//!
//! Crash recovery makes rows visible whose commit nobody was told of. Clients that read them must not lose them, so clients come back
//! only when k standbys have flushed where recovery ended (DESIGN.md section 5, handover).

use super::{Chosen, Mind};
use crate::core::action::{GuardOrder, SwapKind};
use crate::core::observe::{ReplicationRow, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::record::{Durability, Record, Step};
use crate::core::types::{MemberData, Millis, Timeline};
use crate::core::why::Why;
use crate::guard::protocol::Status;

/// Starts in place within `RESTART_WINDOW` after which the next one waits longer.
const RESTARTS_AT_ONCE: usize = 3;
const RESTART_WINDOW: Millis = Millis(60_000);
/// After its start a sidecar waits this long for the peers before it restarts a dead server in place.
const LOOK_AROUND: Millis = Millis(400);
/// How long a start waits until the Service leads nowhere: a Service that cannot be changed must not keep the server down.
const CLOSED_WITHIN: Millis = Millis(1_000);

impl Mind<'_> {
    /// The server is down and nobody is fit to succeed it.
    pub(super) fn start_in_place(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        self.probe_every = Millis(50);
        let nobody_because = match self.successor(record, None) {
            Ok(_) if record.paused => "paused by a person".to_owned(),
            Ok(_) => "the last handovers did not help".to_owned(),
            Err(why) => why,
        };
        let why = Why::RestartInPlace { nobody_because };
        if self
            .state
            .started_at
            .is_some_and(|s| self.now().since(s) < LOOK_AROUND)
        {
            self.wake_in(Millis(50));
            return (Phase::Leading, why);
        }
        let Some(rest) = &guard.rest else {
            // Whether its own promotion was done before it died is read from the WAL, never assumed.
            self.order(
                lease.term,
                GuardOrder::Stop {
                    fast: Millis(0),
                    hint: None,
                },
            );
            return (Phase::Leading, why);
        };
        if Some(rest.position.timeline) != record.timeline {
            return self.start_unpromoted(lease, record, rest.position.timeline);
        }
        if !self.restart_due() {
            self.wake_in(Millis(200));
            return (Phase::Leading, why);
        }
        if !self.permitted(guard, lease.term) {
            self.renew_for_permit(lease, record);
            return (Phase::Leading, why);
        }
        if !self.closed(lease, record) {
            self.wake_in(Millis(20));
            return (Phase::Leading, why);
        }
        if self.order(
            lease.term,
            GuardOrder::StartPrimary {
                names: record.current_set().names(),
            },
        ) {
            let now = self.now();
            self.state.restarts.push(now);
        }
        (Phase::Leading, why)
    }

    /// Died after it was written down and before the promotion: starts as a standby, then is promoted.
    fn start_unpromoted(&mut self, lease: &SeenLease, record: &Record, held: Timeline) -> Chosen {
        let is_parent = record
            .promotions
            .last()
            .is_some_and(|p| Some(p.timeline) == record.timeline && p.parent == held);
        if !is_parent {
            let error =
                format!("its WAL is on timeline {held}, the record says otherwise; a person must look");
            return (Phase::Leading, Why::RejoinFailed { error });
        }
        self.order(
            lease.term,
            GuardOrder::StandAlone {
                names: record.current_set().names(),
            },
        );
        (Phase::Leading, Why::Promoting)
    }

    fn restart_due(&mut self) -> bool {
        let now = self.now();
        self.state.restarts.retain(|at| now.since(*at) < RESTART_WINDOW);
        let many = self.state.restarts.len();
        let Some(last) = self.state.restarts.last().filter(|_| many >= RESTARTS_AT_ONCE) else {
            return true;
        };
        let doublings = u32::try_from(many - RESTARTS_AT_ONCE).unwrap_or(u32::MAX).min(4);
        now.since(*last) >= Millis(1_000 << doublings)
    }

    /// Whether a start in place may go on: written down, and the Service leads nowhere. With an empty set nobody else can ever lead
    /// without this data, so nothing that is read can be lost.
    fn closed(&mut self, lease: &SeenLease, record: &Record) -> bool {
        if record.durability == Durability::Async || record.current_set().k == 0 {
            return true;
        }
        if !is_restarting(record) {
            // In the record, so that a sidecar that starts meanwhile goes on with it.
            let mut next = self.renewed(record);
            next.step = Some(Step::Restarting {
                member: self.settings.me.clone(),
            });
            self.swap(lease, SwapKind::Renew, next);
            return false;
        }
        self.effects(lease, record, false);
        let now = self.now();
        let since = *self.state.closing_since.get_or_insert(now);
        self.service_leads(lease, None) || now.since(since) >= CLOSED_WITHIN
    }

    /// None: clients may come. Else what is waited for.
    pub(super) fn kept_away(&mut self, record: &Record) -> Option<Why> {
        self.state.closing_since = None;
        if !is_restarting(record) {
            self.state.recovered = None;
            return None;
        }
        let since = self.state.primary_since?;
        let Some(ServerView::Primary { insert, rows, .. }) = self.server_since(since) else {
            return Some(Why::ServerStarting);
        };
        // The first look after recovery is at or beyond its end.
        let position = match self.state.recovered {
            Some((of, position)) if of == since => position,
            _ => *insert,
        };
        self.state.recovered = Some((since, position));
        let set = record.current_set();
        let flushed = |data: &&MemberData| {
            let name = data.standby_name();
            let has = |r: &ReplicationRow| r.name == name && r.flush.is_some_and(|f| f >= position);
            rows.iter().any(has)
        };
        let have = set.standbys.iter().filter(flushed).count();
        (have < set.k as usize).then_some(Why::RecoveryNotFlushed { position, k: set.k })
    }
}

fn is_restarting(record: &Record) -> bool {
    matches!(record.step, Some(Step::Restarting { .. }))
}
