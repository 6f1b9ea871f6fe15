//! Holds the Lease, and the record names the data here as primary.

use super::{Chosen, Mind};
use crate::core::action::{Action, GuardOrder, SqlJob, SwapKind};
use crate::core::observe::{GuardView, PeerReport, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::record::{Durability, LeaderWal, Member, Record, Step};
use crate::core::types::{MemberName, Millis, Term};
use crate::core::why::{StepDown, Why};
use crate::guard::protocol::{Server, Status};

/// Between two looks at a server that leads.
const LOOK_EVERY: Millis = Millis(500);
/// How long a server may recover or be promoted while another member could lead.
const READY_WITHIN: Millis = Millis(10_000);
/// A server that serves and lets nobody look is taken for verified after this time.
const UNSEEN_WITHIN: Millis = Millis(2_000);
/// Promotions that may fail before another member is asked.
const PROMOTIONS_TRIED: u32 = 3;

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
        // A server that hangs is given up within the health timeout and this.
        self.probe_every = LOOK_EVERY;
        let chosen = self.run_primary(lease, record, guard);
        let chosen = (chosen.0, self.unless_full(record, guard, chosen.1));
        self.heartbeat = Some(lease.term);
        self.extend_by_promises(lease, record);
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
        let view = self.server_fresh();
        if !matches!(view, Some(ServerView::Primary { .. })) {
            return (Phase::Leading, self.not_answering(lease, record, view));
        }
        self.mark("promote");
        self.actions.push(Action::KeepReplication {
            standbys: self.others(record),
        });
        let promoted = matches!(&view, Some(ServerView::Primary { timeline, wrote, .. }) if *wrote && Some(*timeline) == record.timeline);
        if !promoted {
            self.probe_every = Millis(20);
            return (Phase::Leading, Why::Promoting);
        }
        // Verified by a write on the recorded timeline: clients may come (DESIGN.md section 5).
        self.state.verified = Some(lease.term);
        let kept_away = self.kept_away(record);
        self.effects(lease, record, kept_away.is_none());
        self.mark("verify");
        if record.step.is_none() {
            self.state.marks.clear();
        }
        let me = self.settings.me.clone();
        if record.step.is_some() && kept_away.is_none() && self.service_leads(lease, Some(&me)) {
            self.mark("service");
            let mut record = self.renewed(record);
            self.note_phases(&mut record);
            // So that pg_control, here and on whoever rewinds to here, tells the new timeline (pg_rewind before 16 reads it there).
            self.sql(SqlJob::Checkpoint);
            record.step = None;
            self.swap(lease, SwapKind::Renew, record);
        }
        self.note_members(lease, record);
        let changing = self.keep_sets(lease, record, guard);
        match kept_away {
            Some(why) => {
                self.probe_every = Millis(20);
                self.wake_in(Millis(20));
                (Phase::Leading, why)
            }
            None => changing.unwrap_or((Phase::Leading, Why::Leading)),
        }
    }

    /// The guard says that the server runs read-write, and a look says something else.
    fn not_answering(&mut self, lease: &SeenLease, record: &Record, view: Option<&ServerView>) -> Why {
        self.probe_every = Millis(20);
        let alive = match view {
            Some(ServerView::Full) => Why::ServerFull,
            Some(ServerView::LoginFailed { text }) => Why::LoginFailed { text: text.clone() },
            _ => {
                let since = self.state.unhealthy_since;
                return match since.map_or(0, |since| self.now().since(since).0) {
                    0 => Why::ServerStarting,
                    for_ms => Why::ServerUnhealthy { for_ms },
                };
            }
        };
        // It serves others: clients are led here all the same, once it was seen to write or nobody can look for a while.
        self.probe_every = Millis(200);
        let for_ms = self
            .state
            .primary_since
            .map_or(0, |since| self.now().since(since).0);
        let verified = self.state.verified == Some(lease.term) || for_ms >= UNSEEN_WITHIN.0;
        if verified && !matches!(record.step, Some(Step::Restarting { .. })) {
            self.effects(lease, record, true);
        }
        alive
    }

    fn others(&self, record: &Record) -> Vec<MemberName> {
        let names = record.members.iter().map(|m| m.member.clone());
        names.filter(|name| *name != self.settings.me).collect()
    }

    /// What Kubernetes shall show; `open`: clients are led here, else nowhere.
    pub(super) fn effects(&mut self, lease: &SeenLease, record: &Record, open: bool) {
        let mut members = self.others(record);
        members.push(self.settings.me.clone());
        members.sort();
        self.actions.push(Action::Effects {
            term: lease.term,
            primary: self.settings.me.clone(),
            members,
            open,
        });
    }

    /// Whether the Service is known to lead there on behalf of this term; none: nowhere.
    pub(super) fn service_leads(&self, lease: &SeenLease, to: Option<&MemberName>) -> bool {
        let points = self.seen.service_points_to.as_ref();
        points.is_some_and(|(term, member)| *term == lease.term && member.as_ref() == to)
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
        // Kept until the record shows them: this swap may be lost.
        let marks = self.state.marks.clone();
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
            if self.state.stepping_down.is_some() {
                return self.step_down(lease, record, guard);
            }
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

    /// The record as a renewal writes it: what marked the server as given up is gone (invariant 8).
    pub(super) fn renewed(&self, record: &Record) -> Record {
        let mut record = record.clone();
        record.released = None;
        record.rest = None;
        if let Some((lsn, seen_at)) = self.state.wal_seen {
            let age_ms = self.now().since(seen_at).0;
            record.leader_wal = Some(LeaderWal {
                lsn,
                at_unix_ms: self.seen.unix_ms.saturating_sub(age_ms),
                age_ms,
            });
        }
        record
    }

    pub(super) fn renew_when_due(&mut self, lease: &SeenLease, record: Record) {
        let due = self
            .state
            .swapped_at
            .is_none_or(|at| self.now().since(at) >= self.settings.renew_interval);
        if due {
            self.swap(lease, SwapKind::Renew, record);
        }
        let next = self.state.swapped_at.map_or(Millis(0), |at| {
            at.plus(self.settings.renew_interval).since(self.now())
        });
        self.wake_in(next);
    }

    /// A permit is needed now: renew at once unless one was just sent.
    pub(super) fn renew_for_permit(&mut self, lease: &SeenLease, record: &Record) {
        if self.state.basis.is_some() {
            self.wake_in(Millis(20));
            return;
        }
        self.swap(lease, SwapKind::Renew, self.renewed(record));
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
        // What is to be started in place is written down in the same swap (`closed`).
        let runs = matches!(&self.seen.guard, GuardView::Heard(g) if g.value.server == Server::Primary);
        let waits = record.durability == Durability::Sync && record.current_set().k > 0;
        record.step = match record.step {
            Some(Step::Promoting { member }) if member == self.settings.me => {
                Some(Step::Promoting { member })
            }
            Some(Step::Restarting { .. }) => record.step,
            _ if !runs && waits => Some(Step::Restarting {
                member: self.settings.me.clone(),
            }),
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
        self.note_ready(guard);
        let unready = self.state.not_ready_since.map(|since| self.now().since(since));
        let stuck = unready.filter(|u| *u >= READY_WITHIN);
        let reason = if guard.stopping {
            StepDown::PodEnds
        } else if let Some(stuck) = stuck
            && self.successor(record, None).is_ok()
        {
            // A long recovery is let go on only while nobody else could lead.
            StepDown::ServerNotReady { for_ms: stuck.0 }
        } else if died {
            StepDown::ServerDied
        } else if let Some(full) = self.gives_up_full_volume(record, guard) {
            full
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

    /// Counts how long the server here is on its way to be the primary: recovers, or is being promoted.
    fn note_ready(&mut self, guard: &Status) {
        let now = self.now();
        if matches!(guard.server, Server::Starting | Server::Standby) {
            self.state.not_ready_since.get_or_insert(now);
        } else {
            self.state.not_ready_since = None;
        }
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
