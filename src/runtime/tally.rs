//! Raises the counters: what happened, seen from one decision to the next.

use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::decide::Decision;
use crate::core::observe::{GuardView, LeaseView, Observation, Outcome, RecordView, SeenLease, SwapResult};
use crate::core::phase::Phase;
use crate::core::types::{MemberName, Millis, Term};
use crate::core::why::{RejoinWay, StepDown, Why};
use crate::guard::protocol::{DownReason, Server};
use crate::http::metrics::{
    self, Fence, FenceLabel, Metrics, PhaseLabel, Rejoin, RejoinLabels, Swap, SwapLabels, SwapOutcome, Way,
    WayLabel, WhyLabel,
};

/// A permit is low when less than this much of the Lease's length is left of it: half of the permit, which is four fifths of the Lease's.
const LOW: (u64, u64) = (2, 5);

/// What was under way at the last decision.
#[derive(Debug, Default)]
pub struct Tally {
    taking: Option<Taking>,
    rejoining: Option<RejoinWay>,
    killed_for: Option<Fence>,
    fenced: bool,
    permit_was_low: bool,
    decided: Option<(Phase, std::mem::Discriminant<Why>)>,
    /// The term that was taken over here and whose steps the record does not show yet.
    steps_of: Option<Term>,
    stepping_down: Option<Millis>,
    stepped_down_in: Option<Millis>,
}

/// A takeover that has not led clients here yet.
#[derive(Debug)]
struct Taking {
    term: Term,
    way: Way,
    since: Millis,
}

impl Tally {
    /// Takes in one decision. `before` is the phase of the one before it.
    pub fn note(
        &mut self,
        metrics: &Metrics,
        me: &MemberName,
        before: Phase,
        decision: &Decision,
        seen: &Observation,
    ) {
        metrics.ticks.inc();
        for outcome in &seen.outcomes {
            self.note_outcome(metrics, me, before, outcome);
            if let Outcome::Swap {
                kind,
                sent_at,
                result,
                ..
            } = outcome
            {
                Self::note_swap(metrics, kind, *sent_at, result, seen.now);
            }
        }
        let released = seen.outcomes.iter().any(|outcome| {
            matches!(
                outcome,
                Outcome::Swap {
                    kind: SwapKind::Release,
                    result: SwapResult::Done(_),
                    ..
                }
            )
        });
        if let Some(since) = self.stepping_down.filter(|_| released) {
            self.stepped_down_in = Some(seen.now.since(since));
        }
        self.stepping_down = decision.state.stepping_down.as_ref().map(|down| down.since);
        self.note_takeover(metrics, me, decision, seen);
        self.note_rejoin(metrics, before, decision);
        self.note_steps(metrics, seen);
        self.note_fences(metrics, decision, seen);
        self.note_permit(metrics, seen);
        self.note_decision(metrics, decision);
    }

    /// How long the last step-down took, from the decision until the Lease was given up, in milliseconds.
    #[must_use]
    pub fn stepped_down_in_ms(&self) -> Option<u64> {
        self.stepped_down_in.map(|took| took.0)
    }

    /// What is another one than before: the loop decides the same again and again.
    fn note_decision(&mut self, metrics: &Metrics, decision: &Decision) {
        let now = (decision.phase, std::mem::discriminant(&decision.why));
        if self.decided.replace(now) != Some(now) {
            let why = decision.why.code();
            metrics.decisions.get_or_create(&WhyLabel { why }).inc();
        }
    }

    /// By a step-down, once its order to stop has ended; or by the guard alone.
    fn note_fences(&mut self, metrics: &Metrics, decision: &Decision, seen: &Observation) {
        let fence = |reason| metrics.fences.get_or_create(&FenceLabel { reason }).inc();
        let down = decision.state.stepping_down.as_ref().filter(|d| d.stopped);
        if let Some(down) = down.filter(|_| !self.fenced) {
            fence(fence_of(&down.reason));
        }
        self.fenced = down.is_some();
        let killed_for = match &seen.guard {
            GuardView::Heard(status) => killed_for(&status.value.server),
            // It says nothing: what it said last holds.
            GuardView::Lost { .. } | GuardView::Unknown => self.killed_for,
        };
        if let Some(reason) = killed_for.filter(|_| killed_for != self.killed_for) {
            fence(reason);
        }
        self.killed_for = killed_for;
    }

    fn note_permit(&mut self, metrics: &Metrics, seen: &Observation) {
        let (GuardView::Heard(status), LeaseView::Seen(lease)) = (&seen.guard, &seen.lease) else {
            return;
        };
        let permit = status
            .value
            .permit
            .filter(|_| matches!(status.value.server, Server::Primary));
        let is_low = permit.is_some_and(|permit| {
            let left = permit.deadline_boot_ms.saturating_sub(seen.now_boot.0);
            left.saturating_mul(LOW.1) < lease.duration.0.saturating_mul(LOW.0)
        });
        if is_low && !self.permit_was_low {
            metrics.permits_low.inc();
        }
        self.permit_was_low = is_low;
    }

    /// The steps are in the record some time after clients could write.
    fn note_steps(&mut self, metrics: &Metrics, seen: &Observation) {
        let (Some(term), LeaseView::Seen(lease)) = (self.steps_of, &seen.lease) else {
            return;
        };
        if lease.term > term {
            self.steps_of = None;
        }
        let RecordView::Good(record) = &lease.record else {
            return;
        };
        let entry = record.history.last().filter(|e| e.term == term);
        let Some(entry) = entry.filter(|e| !e.phases.is_empty()) else {
            return;
        };
        for &phase in metrics::Phase::ALL {
            let name = format!("{phase:?}");
            for (_, ms) in entry.phases.iter().filter(|(step, _)| *step == name) {
                let took = std::time::Duration::from_millis(*ms).as_secs_f64();
                let steps = metrics.takeover_phases.get_or_create(&PhaseLabel { phase });
                steps.observe(took);
            }
        }
        self.steps_of = None;
    }

    fn note_swap(metrics: &Metrics, kind: &SwapKind, sent_at: Millis, result: &SwapResult, now: Millis) {
        let kind = match kind {
            SwapKind::Renew => Swap::renew,
            SwapKind::Claim(_) => Swap::claim,
            SwapKind::Release => Swap::release,
        };
        let outcome = match result {
            SwapResult::Done(_) => SwapOutcome::done,
            SwapResult::Lost => SwapOutcome::lost,
            SwapResult::Refused(_) => SwapOutcome::refused,
            SwapResult::Unknown(_) => SwapOutcome::unknown,
        };
        let labels = SwapLabels { kind, outcome };
        metrics.swaps.get_or_create(&labels).inc();
        if kind == Swap::renew && outcome == SwapOutcome::done {
            let took = std::time::Duration::from_millis(now.since(sent_at).0);
            metrics.renewal_duration.observe(took.as_secs_f64());
        }
    }

    fn note_outcome(&mut self, metrics: &Metrics, me: &MemberName, before: Phase, outcome: &Outcome) {
        match outcome {
            Outcome::Swap {
                kind: SwapKind::Claim(evidence),
                sent_at,
                result: SwapResult::Done(lease),
                ..
            } => {
                self.taking = way_of(*evidence, before, me, lease).map(|way| Taking {
                    term: lease.term,
                    way,
                    since: *sent_at,
                });
            }
            Outcome::Guard {
                order: GuardOrder::Rewind { .. },
                error: Some(_),
            } => count_rejoin(metrics, Rejoin::rewind, metrics::Outcome::error),
            Outcome::Guard {
                order: GuardOrder::Clone { .. },
                error: Some(_),
            } => count_rejoin(metrics, Rejoin::clone, metrics::Outcome::error),
            _ => {}
        }
    }

    /// A takeover is one when clients can write: the Service leads here, which is done after a verified write only.
    fn note_takeover(&mut self, metrics: &Metrics, me: &MemberName, decision: &Decision, seen: &Observation) {
        let Some(taking) = &mut self.taking else { return };
        if decision.state.waiver.is_some() {
            taking.way = Way::forced;
        }
        let here = (taking.term, Some(me.clone()));
        if seen.service_points_to.as_ref() == Some(&here) {
            let way = taking.way;
            metrics.takeovers.get_or_create(&WayLabel { way }).inc();
            let took = std::time::Duration::from_millis(seen.now.since(taking.since).0);
            metrics.takeover_duration.observe(took.as_secs_f64());
            self.steps_of = Some(taking.term);
            self.taking = None;
        } else if matches!(&seen.lease, LeaseView::Seen(lease) if lease.term > taking.term) {
            self.taking = None;
        }
    }

    /// A way back ends well when the member follows.
    fn note_rejoin(&mut self, metrics: &Metrics, before: Phase, decision: &Decision) {
        if let Why::Rejoining { way, .. } = &decision.why {
            // A copy follows in the end, as anything else does: what it took counts.
            self.rejoining = self.rejoining.max(Some(*way));
        }
        if decision.phase == Phase::Rejoining {
            return;
        }
        if let Some(way) = self.rejoining.take()
            && before == Phase::Rejoining
            && decision.phase == Phase::Following
        {
            let by = match way {
                RejoinWay::Follow => Rejoin::follow,
                RejoinWay::Rewind => Rejoin::rewind,
                RejoinWay::Clone => Rejoin::clone,
            };
            count_rejoin(metrics, by, metrics::Outcome::ok);
        }
    }
}

/// The guard ended it by itself, and why.
fn killed_for(server: &Server) -> Option<Fence> {
    match server {
        Server::Down { reason, .. } => match reason {
            DownReason::PermitEnded => Some(Fence::permit_ended),
            DownReason::Unpermitted => Some(Fence::unpermitted),
            DownReason::NotStarted | DownReason::Stopped | DownReason::Crashed => None,
        },
        Server::Starting | Server::Standby | Server::Primary | Server::Stopping => None,
    }
}

fn fence_of(reason: &StepDown) -> Fence {
    match reason {
        StepDown::Ordered => Fence::ordered,
        StepDown::PodEnds => Fence::pod_ends,
        StepDown::ServerDied => Fence::server_died,
        StepDown::ServerUnhealthy { .. } => Fence::server_unhealthy,
        StepDown::ServerNotReady { .. } => Fence::server_not_ready,
        StepDown::VolumeFull { .. } => Fence::volume_full,
        StepDown::GuardLost => Fence::guard_lost,
    }
}

fn count_rejoin(metrics: &Metrics, by: Rejoin, outcome: metrics::Outcome) {
    metrics.rejoins.get_or_create(&RejoinLabels { by, outcome }).inc();
}

/// None: nobody was taken over from.
fn way_of(evidence: ClaimEvidence, before: Phase, me: &MemberName, lease: &SeenLease) -> Option<Way> {
    let mine = matches!(
        &lease.record,
        RecordView::Good(record) if record.term == lease.term && record.primary.as_ref().is_some_and(|p| p.member == *me)
    );
    match evidence {
        ClaimEvidence::NeverHeld => None,
        // The running primary put the record back; without one a person ordered it.
        ClaimEvidence::WriteBack => (before == Phase::Damaged).then_some(Way::forced),
        // The recorded primary goes on in a new term.
        ClaimEvidence::Released | ClaimEvidence::Expired if mine => Some(Way::restart),
        ClaimEvidence::Released => Some(Way::handover),
        ClaimEvidence::Expired => Some(Way::expiry),
        ClaimEvidence::Dead | ClaimEvidence::Silent => Some(Way::claim),
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
