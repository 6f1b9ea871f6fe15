//! Raises the counters: what happened, seen from one decision to the next.

use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::decide::Decision;
use crate::core::observe::{GuardView, LeaseView, Observation, Outcome, RecordView, SeenLease, SwapResult};
use crate::core::phase::Phase;
use crate::core::types::{MemberName, Millis, Term};
use crate::core::why::{RejoinWay, Why};
use crate::guard::protocol::{DownReason, Server};
use crate::http::metrics::{self, Metrics, Rejoin, RejoinLabels, Way, WayLabel};

/// What was under way at the last decision.
#[derive(Debug, Default)]
pub struct Tally {
    taking: Option<Taking>,
    rejoining: Option<RejoinWay>,
    permit_had_ended: bool,
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
        let ended = matches!(
            &seen.guard,
            GuardView::Heard(status) if matches!(status.value.server, Server::Down { reason: DownReason::PermitEnded, .. })
        );
        if ended && !self.permit_had_ended {
            metrics.permits_lost.inc();
        }
        self.permit_had_ended = ended;
    }

    /// How long the last step-down took, from the decision until the Lease was given up, in milliseconds.
    #[must_use]
    pub fn stepped_down_in_ms(&self) -> Option<u64> {
        self.stepped_down_in.map(|took| took.0)
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
