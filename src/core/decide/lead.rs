//! Holds the Lease, and the record names the data here as primary.

use super::{Chosen, Mind};
use crate::core::action::{Action, GuardOrder, SqlJob, SwapKind};
use crate::core::observe::{PeerReport, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::record::{Durability, LeaderWal, Member, Record, Step};
use crate::core::types::{MemberName, Millis, Term, Timeline};
use crate::core::why::{StepDown, Why};
use crate::guard::protocol::{Server, Status};

/// Starts in place within `RESTART_WINDOW` after which the next one waits longer.
const RESTARTS_AT_ONCE: usize = 3;
const RESTART_WINDOW: Millis = Millis(60_000);
/// Promotions that may fail before another member is asked.
const PROMOTIONS_TRIED: u32 = 3;
/// After its start a sidecar waits this long for the peers before it restarts a dead server in place.
const LOOK_AROUND: Millis = Millis(400);

impl Mind<'_> {
    pub(super) fn lead(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        self.state.taking = None;
        if let Some(told) = self.seen.told_term.filter(|told| *told > lease.term) {
            // Out of the API server's reach, and another member leads a later term by its authentic word.
            self.drop_basis();
            return self.pledge_to(told, guard);
        }
        if record.term < lease.term {
            // Took the Lease and is the recorded primary: continues in the new term (invariant 4 (a)).
            self.continue_as_primary(lease, record, SwapKind::Renew, lease.term);
            return (Phase::Leading, Why::ServerStarting);
        }
        assert!(
            record.term == lease.term,
            "a record of a later term than its Lease passed the door"
        );
        if self
            .state
            .stepping_down
            .as_ref()
            .is_some_and(|d| d.term != lease.term)
        {
            self.state.stepping_down = None;
        }
        if self.state.stepping_down.is_none() {
            self.maybe_step_down(lease, record, guard);
        }
        if self.state.stepping_down.is_some() {
            return self.step_down(lease, record, guard);
        }
        let chosen = self.run_primary(lease, record, guard);
        self.renew_when_due(lease, self.renewed(record));
        self.wake_in(Millis(200));
        chosen
    }

    fn run_primary(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        match &guard.server {
            Server::Primary => self.running(lease, record, guard),
            Server::Starting | Server::Stopping => (Phase::Leading, Why::ServerStarting),
            Server::Standby => self.promote(lease, record, guard),
            Server::Down { .. } => self.start_in_place(lease, record, guard),
        }
    }

    fn running(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        let standbys: Vec<MemberName> = record
            .members
            .iter()
            .map(|m| m.member.clone())
            .filter(|m| *m != self.settings.me)
            .collect();
        let view = self.server_fresh();
        if !matches!(view, Some(ServerView::Primary { .. })) {
            self.probe_every = Millis(20);
            let for_ms = self
                .state
                .unhealthy_since
                .map_or(0, |since| self.now().since(since).0);
            return (
                Phase::Leading,
                if for_ms == 0 {
                    Why::ServerStarting
                } else {
                    Why::ServerUnhealthy { for_ms }
                },
            );
        }
        self.mark("promote");
        self.actions.push(Action::KeepReplication {
            standbys: standbys.clone(),
        });
        let promoted = matches!(&view, Some(ServerView::Primary { timeline, wrote, .. }) if *wrote && Some(*timeline) == record.timeline);
        if !promoted {
            self.probe_every = Millis(20);
            return (Phase::Leading, Why::Promoting);
        }
        // Verified by a write on the recorded timeline: clients may come (DESIGN.md section 5).
        let mut members = standbys;
        members.push(self.settings.me.clone());
        members.sort();
        self.actions.push(Action::Effects {
            term: lease.term,
            primary: self.settings.me.clone(),
            members,
        });
        let pointed = self
            .seen
            .service_points_to
            .as_ref()
            .is_some_and(|(t, m)| *t == lease.term && *m == self.settings.me);
        self.mark("verify");
        if record.step.is_some() && pointed {
            self.mark("service");
            let mut record = self.renewed(record);
            self.note_phases(&mut record);
            // So that pg_control, here and on whoever rewinds to here, tells the new timeline (pg_rewind before 16 reads it there).
            self.sql(SqlJob::Checkpoint);
            record.step = None;
            self.swap(lease, SwapKind::Renew, record);
        }
        self.note_members(lease, record);
        self.keep_sets(lease, record, guard)
            .unwrap_or((Phase::Leading, Why::Leading))
    }

    /// Puts new members, new data and new addresses into the record.
    fn note_members(&mut self, lease: &SeenLease, record: &Record) {
        let known = |p: &PeerReport| -> Option<Member> {
            let data = p.data()?;
            let ours = p
                .guard
                .as_ref()
                .is_some_and(|g| g.system_identifier == record.system_identifier);
            ours.then(|| Member {
                member: data.member,
                data_id: data.data_id,
                address: p.address.clone(),
            })
        };
        let mut changed = self.renewed(record);
        let mut news = false;
        for member in self
            .fresh_peers()
            .filter_map(known)
            .filter(|m| m.member != self.settings.me)
        {
            match changed.members.iter_mut().find(|m| m.member == member.member) {
                Some(old) if *old == member => {}
                Some(old) => {
                    *old = member;
                    news = true;
                }
                None => {
                    changed.members.push(member);
                    news = true;
                }
            }
        }
        let mine = changed.members.iter_mut().find(|m| m.member == self.settings.me);
        if let Some(mine) = mine
            && mine.address != self.settings.address
        {
            mine.address = self.settings.address.clone();
            if let Some(primary) = &mut changed.primary {
                primary.address = self.settings.address.clone();
            }
            news = true;
        }
        if news {
            changed.members.sort_by(|a, b| a.member.cmp(&b.member));
            self.swap(lease, SwapKind::Renew, changed);
        }
    }

    /// Notes when a step of the takeover was done, once.
    pub(super) fn mark(&mut self, step: &str) {
        let now = self.now();
        if !self.state.marks.is_empty() && self.state.marks.iter().all(|(name, _)| name != step) {
            self.state.marks.push((step.to_owned(), now));
        }
    }

    /// Writes the takeover's phases, each in milliseconds since the one before, into the term's history.
    fn note_phases(&mut self, record: &mut Record) {
        let marks = std::mem::take(&mut self.state.marks);
        let Some(entry) = record
            .history
            .last_mut()
            .filter(|e| e.term == record.term && !marks.is_empty())
        else {
            return;
        };
        let spans = marks
            .windows(2)
            .map(|pair| (pair[1].0.clone(), pair[1].1.since(pair[0].1).0));
        entry.phases = spans.collect();
    }

    fn promote(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        if self.state.promotions_failed >= PROMOTIONS_TRIED {
            // Not here: whoever has proof does it in a later term, with a later timeline.
            self.state.promotions_failed = 0;
            self.begin_step_down(lease, record, StepDown::ServerDied, None, None);
        }
        self.probe_every = Millis(20);
        self.wake_in(Millis(20));
        let Some(timeline) = record.timeline else {
            return (Phase::Leading, Why::Promoting);
        };
        if guard.pledge.as_ref().is_none_or(|p| p.term < record.term) {
            self.order(lease.term, GuardOrder::Pledge { hint: self.hint() });
        } else if let Some(names) = names_before_promotion(record, guard) {
            self.order(lease.term, GuardOrder::SetNames { names });
        } else if self.permitted(guard, lease.term) {
            self.order(lease.term, GuardOrder::Promote { timeline });
        } else {
            self.renew_for_permit(lease, record);
        }
        (Phase::Leading, Why::Promoting)
    }

    /// The server is down and nobody is fit to succeed it.
    fn start_in_place(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        self.probe_every = Millis(50);
        let nobody_because = match self.successor(record, None) {
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

    /// The record as a renewal writes it: what marked the server as given up is gone (invariant 8).
    pub(super) fn renewed(&self, record: &Record) -> Record {
        let mut record = record.clone();
        record.released = None;
        record.rest = None;
        if let Some(ServerView::Primary { insert, .. }) = self.server_fresh() {
            record.leader_wal = Some(LeaderWal {
                lsn: *insert,
                at_unix_ms: self.seen.unix_ms,
            });
        }
        record
    }

    pub(super) fn renew_when_due(&mut self, lease: &SeenLease, record: Record) {
        let due = self
            .state
            .swapped_at
            .is_none_or(|at| self.now().since(at) >= self.settings.renew_interval);
        if due && self.holds_on(lease) {
            self.swap(lease, SwapKind::Renew, record);
        }
        let next = self.state.swapped_at.map_or(Millis(0), |at| {
            at.plus(self.settings.renew_interval).since(self.now())
        });
        self.wake_in(next);
    }

    /// A permit is needed now: renew at once unless one was just sent.
    fn renew_for_permit(&mut self, lease: &SeenLease, record: &Record) {
        if self.state.basis.is_some() {
            self.wake_in(Millis(20));
            return;
        }
        self.swap(lease, SwapKind::Renew, self.renewed(record));
    }

    fn holds_on(&self, lease: &SeenLease) -> bool {
        debug_assert!(self.i_hold(lease), "renewing a Lease that is not held");
        true
    }

    /// Writes itself down as primary of `term`: its own data, no promotion, every set stays.
    pub(super) fn continue_as_primary(
        &mut self,
        lease: &SeenLease,
        record: &Record,
        kind: SwapKind,
        term: Term,
    ) {
        let mut record = self.renewed(record);
        record.term = term;
        record.step = match record.step {
            Some(Step::Promoting { member }) if member == self.settings.me => {
                Some(Step::Promoting { member })
            }
            _ => None,
        };
        if let Some(primary) = &mut record.primary {
            primary.address = self.settings.address.clone();
        }
        self.note_history(
            &mut record,
            term,
            "the recorded primary continues",
            self.hint().unwrap_or_default(),
        );
        self.swap_as(lease, kind, term, record);
    }

    fn maybe_step_down(&mut self, lease: &SeenLease, record: &Record, guard: &Status) {
        let unhealthy = self.state.unhealthy_since.map(|since| self.now().since(since));
        let died = matches!(guard.server, Server::Down { .. });
        let reason = if guard.stopping {
            StepDown::PodEnds
        } else if died {
            StepDown::ServerDied
        } else if guard.server == Server::Primary
            && unhealthy.is_some_and(|u| u >= self.settings.health_timeout)
        {
            StepDown::ServerUnhealthy {
                for_ms: unhealthy.unwrap_or_default().0,
            }
        } else {
            return;
        };
        self.begin_step_down(lease, record, reason, None, None);
    }
}

/// The recorded names, when the server has others: the swap that landed may not be the last one that was tried, and the names
/// were set for that one (invariants 6, 10).
fn names_before_promotion(record: &Record, guard: &Status) -> Option<String> {
    let set = record.current_set();
    let names = set.names();
    let stricter = set.k == 0 && record.durability == Durability::Sync;
    (!stricter && guard.synchronous_standby_names != names).then_some(names)
}
