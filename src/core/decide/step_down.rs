//! Stepping down on purpose: intention, checkpoint, fence, release (DESIGN.md section 5, handover).

use super::volume::is_nearly_full;
use super::{Chosen, Mind, PEER_FRESH};
use crate::core::action::{GuardOrder, SqlJob, SwapKind};
use crate::core::observe::{GuardView, PeerReport, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::proof::{self, Pledges};
use crate::core::record::{Durability, Record, Rest, Step};
use crate::core::state::SteppingDown;
use crate::core::types::{Lsn, MemberData, MemberName, Millis, Position, Term};
use crate::core::why::{StepDown, Why};
use crate::guard::protocol::{DataState, Server, Status};

/// How long a fast stop may take in a handover; then immediate (a frozen standby holds a fast stop for wal_sender_timeout).
const FAST_STOP: Millis = Millis(1_000);
/// After this many handovers for a dead or failing server in `HANDOVER_WINDOW` the next one is a restart in place.
const HANDOVERS_AT_MOST: usize = 3;
const HANDOVER_WINDOW: Millis = Millis(600_000);
/// A guard that is silent for this long is lost.
const GUARD_LOST: Millis = Millis(1_500);
/// A step-down that has not fenced by then is called off.
const CALL_OFF: Millis = Millis(30_000);

impl Mind<'_> {
    /// Begins to step down when it makes sense; an order of a person (`to`, `order`) that does not is answered by its caller.
    pub(super) fn begin_step_down(
        &mut self,
        lease: &SeenLease,
        record: &Record,
        reason: StepDown,
        to: Option<&MemberName>,
        order: Option<String>,
    ) {
        let now = self.now();
        let forced = matches!(reason, StepDown::PodEnds | StepDown::Ordered);
        self.state.handovers.retain(|at| now.since(*at) < HANDOVER_WINDOW);
        let flapping = !forced && self.state.handovers.len() >= HANDOVERS_AT_MOST;
        // Paused: nobody takes over, but where a person says so.
        let may_move = (!record.paused || reason == StepDown::Ordered) && !flapping;
        let successor = if may_move {
            self.successor(record, to).ok()
        } else {
            None
        };
        if successor.is_none() {
            match reason {
                StepDown::PodEnds => {}
                StepDown::ServerUnhealthy { .. } => {
                    // Nobody else: end the hanging server, then it starts in place.
                    self.order(
                        lease.term,
                        GuardOrder::Stop {
                            fast: Millis(0),
                            hint: self.hint(),
                        },
                    );
                    return;
                }
                _ => return,
            }
        }
        if !forced {
            self.state.handovers.push(now);
        }
        self.state.stepping_down = Some(SteppingDown {
            term: lease.term,
            to: successor,
            reason,
            since: now,
            checkpointed: false,
            stopped: false,
            order,
        });
    }

    /// The fittest successor: the same health test passed, not terminating, would have proof.
    ///
    /// # Errors
    /// Why there is none, for people.
    pub(super) fn successor(
        &self,
        record: &Record,
        wanted: Option<&MemberName>,
    ) -> Result<MemberName, String> {
        let mut best: Option<(Lsn, MemberName)> = None;
        let mut reasons: Vec<String> = Vec::new();
        let others = record.members.iter().filter(|m| m.member != self.settings.me);
        for member in others.filter(|m| wanted.is_none_or(|w| *w == m.member)) {
            match self.fitness(record, &member.data()) {
                Ok(flushed) => {
                    if best.as_ref().is_none_or(|(most, _)| flushed > *most) {
                        best = Some((flushed, member.member.clone()));
                    }
                }
                Err(why) => reasons.push(format!("{}: {why}", member.member)),
            }
        }
        match (best, wanted) {
            (Some((_, name)), _) => Ok(name),
            (None, Some(wanted)) if reasons.is_empty() => {
                Err(format!("{wanted} is not a member of this cluster"))
            }
            (None, _) if reasons.is_empty() => Err("there is no other member".to_owned()),
            (None, _) => Err(reasons.join("; ")),
        }
    }

    fn fitness(&self, record: &Record, data: &MemberData) -> Result<Lsn, String> {
        let peer = self
            .fresh_peer(&data.member)
            .ok_or("its sidecar does not answer")?;
        let received = fit_standby(peer, data)?;
        match self.would_prove(record, data) {
            Ok(_) => {}
            // Where the server here ended is known, and the other one received more: the proof will be that.
            Err(_) if self.own_rest().is_some_and(|rest| received > rest.last_record) => {}
            Err(no) => return Err(no.to_string()),
        }
        let rows = match self.seen.server.as_ref().map(|s| &s.value) {
            Some(ServerView::Primary { rows, .. }) => rows.as_slice(),
            _ => &[],
        };
        let row = rows.iter().find(|r| r.name == data.standby_name());
        let held = row.and_then(|r| r.flush).unwrap_or(received);
        if record.durability == Durability::Async {
            self.within_lag_now(record, held.max(received))?;
        }
        Ok(held)
    }

    /// Where the server here was found at rest.
    fn own_rest(&self) -> Option<Position> {
        match &self.seen.guard {
            GuardView::Heard(guard) => guard.value.rest.as_ref().map(|r| r.position),
            _ => None,
        }
    }

    /// Asynchronous durability: whether a successor that holds this much would be allowed to lead.
    fn within_lag_now(&self, record: &Record, held: Lsn) -> Result<(), String> {
        let own = match self.seen.server.as_ref().map(|s| &s.value) {
            _ if self.own_rest().is_some() => self.own_rest().map(|rest| rest.last_record),
            Some(ServerView::Primary { insert, .. }) => Some(*insert),
            _ => record.leader_wal.map(|wal| wal.lsn),
        };
        let (lag, maximum) = (
            own.unwrap_or_default().0.saturating_sub(held.0),
            self.settings.maximum_lag,
        );
        if lag > maximum {
            return Err(proof::NoProof::TooFarBehind { lag, maximum }.to_string());
        }
        Ok(())
    }

    /// Whether `candidate` could have proof if everybody who answers now pledged and nobody held more.
    pub(super) fn would_prove(
        &self,
        record: &Record,
        candidate: &MemberData,
    ) -> Result<proof::Proof, proof::NoProof> {
        let fresh = Millis(self.now().0.saturating_sub(PEER_FRESH.0));
        self.would_prove_of(record, candidate, fresh)
    }

    /// As above, of those asked at `since` or later.
    pub(super) fn would_prove_of(
        &self,
        record: &Record,
        candidate: &MemberData,
        since: Millis,
    ) -> Result<proof::Proof, proof::NoProof> {
        let timeline = record.timeline.unwrap_or(crate::core::types::Timeline(1));
        let some = Some(Position {
            timeline,
            last_record: Lsn(0),
        });
        let asked = self.seen.peers.values().filter(|p| p.asked_at >= since);
        let others = asked
            .map(|p| &p.value)
            .filter(|p| p.guard.as_ref().is_some_and(|g| g.data == DataState::Complete));
        let mut pledges: Pledges = others.filter_map(PeerReport::data).map(|d| (d, some)).collect();
        if *self.settings.me.as_str() == *candidate.member.as_str() {
            pledges.insert(candidate.clone(), some);
        }
        // The present primary counts only through its rest position, which is judged when it is known.
        if let Some(primary) = &record.primary {
            pledges.remove(&primary.data());
        }
        proof::judge(record, Term(u64::MAX), candidate, &pledges)
    }

    pub(super) fn step_down(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        let Some(down) = self.state.stepping_down.clone() else {
            return (Phase::Leading, Why::Leading);
        };
        let why = Why::HandingOver {
            to: down.to.clone(),
            reason: down.reason.clone(),
        };
        self.wake_in(Millis(20));
        let is_down = matches!(guard.server, Server::Down { .. });
        let planned = matches!(down.reason, StepDown::Ordered | StepDown::PodEnds);
        if let Some(to) = &down.to
            && !is_written(record, &self.settings.me, to)
        {
            if self.now().since(down.since) > CALL_OFF {
                self.state.stepping_down = None;
                return (Phase::Leading, Why::Leading);
            }
            let mut record = self.renewed(record);
            let why_text = match &down.order {
                Some(id) => format!("{} (order {id})", down.reason),
                None => down.reason.to_string(),
            };
            record.step = Some(Step::Handover {
                from: self.settings.me.clone(),
                to: to.clone(),
                why: why_text,
                planned,
            });
            self.swap(lease, SwapKind::Renew, record);
            return (Phase::HandingOver, why);
        }
        if planned && !down.checkpointed && guard.server == Server::Primary {
            self.renew_when_due(lease, self.renewed(record));
            self.sql(SqlJob::Checkpoint);
            return (Phase::HandingOver, why);
        }
        self.drop_basis();
        if !is_down || (guard.rest.is_none() && !down.stopped) {
            let fast = if planned { FAST_STOP } else { Millis(0) };
            self.order(
                lease.term,
                GuardOrder::Stop {
                    fast,
                    hint: self.hint(),
                },
            );
            return (Phase::HandingOver, why);
        }
        if guard.permit.is_none() {
            let released = self.given_up(lease, record, guard);
            self.swap(lease, SwapKind::Release, released);
        }
        (Phase::HandingOver, why)
    }

    /// The record of a Lease given up by a primary whose server is at rest.
    fn given_up(&self, lease: &SeenLease, record: &Record, guard: &Status) -> Record {
        let mut record = record.clone();
        record.released = Some(lease.term);
        record.rest = self.my_data(guard).and_then(|data| {
            let rest = guard.rest.as_ref()?;
            Some(Rest {
                term: record.term,
                data,
                position: rest.position,
            })
        });
        record
    }

    /// The guard does not answer: its server may run until the permit ends, or be gone.
    pub(super) fn without_guard(&mut self, since: Millis, last: &Status) -> Chosen {
        let for_ms = self.now().since(since).0;
        self.wake_in(Millis(100));
        let silent = (Phase::Starting, Why::GuardSilent { for_ms });
        let crate::core::observe::LeaseView::Seen(lease) = &self.seen.lease else {
            return silent;
        };
        let crate::core::observe::RecordView::Good(record) = &lease.record else {
            return silent;
        };
        let leads = self.i_hold(lease)
            && record.term == lease.term
            && self
                .my_data(last)
                .is_some_and(|mine| record.primary.as_ref().is_some_and(|p| p.data() == mine));
        if !leads {
            return silent;
        }
        if last.stopping && matches!(last.server, Server::Down { .. }) && last.permit.is_none() {
            // It told that its server is at rest, and ended with its container.
            self.drop_basis();
            let released = self.given_up(lease, record, last);
            self.swap(lease, SwapKind::Release, released);
            return (
                Phase::Starting,
                Why::HandingOver {
                    to: None,
                    reason: StepDown::PodEnds,
                },
            );
        }
        self.probe_every = Millis(20);
        // Its whole container went, and the server with it: there is nothing to wait for.
        let is_gone = matches!(self.server_since(since), Some(ServerView::Down));
        // In asynchronous durability the server might still acknowledge: only expiry is safe there.
        let may_release =
            record.durability == Durability::Sync && !record.paused && (is_gone || for_ms >= GUARD_LOST.0);
        let successor = if may_release {
            self.successor(record, None).ok()
        } else {
            None
        };
        let Some(to) = successor else { return silent };
        self.drop_basis();
        let mut released = record.as_ref().clone();
        released.rest = None;
        if is_written(record, &self.settings.me, &to) {
            released.released = Some(lease.term);
            self.swap(lease, SwapKind::Release, released);
        } else {
            released.step = Some(Step::Handover {
                from: self.settings.me.clone(),
                to: to.clone(),
                why: StepDown::GuardLost.to_string(),
                planned: false,
            });
            self.swap(lease, SwapKind::Renew, released);
        }
        (
            Phase::Starting,
            Why::HandingOver {
                to: Some(to),
                reason: StepDown::GuardLost,
            },
        )
    }

    /// The container's stop signal came and this member has nothing to hand over: stop. True while it is so.
    pub(super) fn stop_when_pod_ends(&mut self, guard: &Status) -> bool {
        if guard.stopping && !matches!(guard.server, Server::Down { .. }) {
            self.order(
                guard.highest_term,
                GuardOrder::Stop {
                    fast: Millis(5_000),
                    hint: self.hint(),
                },
            );
        }
        guard.stopping
    }
}

fn is_written(record: &Record, me: &MemberName, successor: &MemberName) -> bool {
    matches!(&record.step, Some(Step::Handover { from, to, .. }) if from == me && to == successor)
}

fn fit_standby(peer: &PeerReport, data: &MemberData) -> Result<Lsn, String> {
    let guard = peer.guard.as_ref().ok_or("its guard does not answer")?;
    if peer.data().as_ref() != Some(data) {
        return Err("its data is not the recorded one".to_owned());
    }
    if peer.terminating || guard.stopping {
        return Err("its pod is being stopped".to_owned());
    }
    if guard.operation.is_some() {
        return Err("its data is being rebuilt".to_owned());
    }
    if is_nearly_full(guard) {
        return Err(format!("its volume has only {} bytes left", guard.disk_free));
    }
    match (&guard.server, &peer.server) {
        (Server::Standby, Some(ServerView::Standby { receive, replay, .. })) => {
            Ok((*receive).max(*replay).unwrap_or_default())
        }
        (Server::Standby, _) => Err("its server does not pass the health test".to_owned()),
        _ => Err("its server is not a running standby".to_owned()),
    }
}
