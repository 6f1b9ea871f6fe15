//! When a Lease that somebody else held may be taken.

use super::{Chosen, Mind, PEER_FRESH};
use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::lag;
use crate::core::observe::{PeerReport, PersonWish, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::proof::{NoProof, Pledges};
use crate::core::record::{Durability, Record, Step};
use crate::core::types::{Lsn, MemberData, MemberName, Millis, Position, Term};
use crate::core::why::{StepDown, Why};
use crate::guard::protocol::{DataState, Status};

/// A released Lease is its named successor's for this long; then anybody's with proof.
const SUCCESSOR_FIRST: Millis = Millis(1_000);
/// The old primary takes its own released Lease back when nobody came for this long.
const NOBODY_CAME: Millis = Millis(2_500);
/// Beyond `leaseDurationSeconds`: for clocks that run at different rates.
pub(super) const EXPIRY_MARGIN: Millis = Millis(250);

impl Mind<'_> {
    pub(super) fn expired(&self, lease: &SeenLease, extra: Millis) -> bool {
        lease.unchanged_for.0
            >= lease
                .duration
                .0
                .saturating_add(EXPIRY_MARGIN.0)
                .saturating_add(extra.0)
    }

    fn until_expiry(&self, lease: &SeenLease, extra: Millis) -> Millis {
        lease
            .duration
            .plus(EXPIRY_MARGIN)
            .plus(extra)
            .since(lease.unchanged_for)
    }

    /// The data here is the recorded primary's, and somebody else, or nobody, holds the Lease.
    pub(super) fn regain(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        self.forget_basis();
        self.wake_in(Millis(100));
        if self.stop_when_pod_ends(guard) {
            let phase = if self.state.phase == Phase::Leading {
                Phase::HandingOver
            } else {
                self.state.phase
            };
            return (
                phase,
                Why::HandingOver {
                    to: None,
                    reason: StepDown::PodEnds,
                },
            );
        }
        let taker = lease.holder.is_some() && lease.term > record.term;
        let told = self.seen.told_term.filter(|t| *t > lease.term);
        if told.is_some() || (taker && !self.expired(lease, Millis(0))) {
            return self.pledge_to(told.unwrap_or(lease.term), guard);
        }
        let evidence = match &lease.holder {
            None if record.released == Some(lease.term) => {
                let mine = match &record.step {
                    Some(Step::Handover { to, .. }) => *to == self.settings.me,
                    _ => true,
                };
                if mine || lease.unchanged_for >= NOBODY_CAME {
                    Some(ClaimEvidence::Released)
                } else {
                    None
                }
            }
            _ => self.expired(lease, Millis(0)).then_some(ClaimEvidence::Expired),
        };
        let Some(evidence) = evidence else {
            return (
                self.waiting_phase(),
                Why::WaitingForExpiry {
                    remaining: self.until_expiry(lease, Millis(0)),
                },
            );
        };
        let term = Term(lease.term.0.saturating_add(1));
        self.continue_as_primary(lease, record, SwapKind::Claim(evidence), term);
        (self.waiting_phase(), Why::Claiming { evidence })
    }

    /// Where a recorded primary without the Lease stands while it waits.
    fn waiting_phase(&self) -> Phase {
        match self.state.phase {
            Phase::Leading => Phase::HandingOver,
            Phase::HandingOver | Phase::Pledged | Phase::Taking => Phase::HandingOver,
            _ => Phase::Following,
        }
    }

    /// Pledges to a later term, or has done so and waits.
    pub(super) fn pledge_to(&mut self, term: Term, guard: &Status) -> Chosen {
        self.wake_in(Millis(50));
        if guard.pledge.as_ref().is_none_or(|p| p.term < term) {
            self.order(term, GuardOrder::Pledge { hint: self.hint() });
        }
        (Phase::Pledged, Why::Pledged { term })
    }

    /// May this standby take the Lease now? Some: it tries to, or says why it does not.
    pub(super) fn candidate(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Option<Chosen> {
        let mine = self.my_data(guard)?;
        let gone = self.holder_gone(lease, record);
        let evidence = self.opening(lease, record).or(gone)?;
        self.wake_in(Millis(50));
        let waived = self.waived(lease);
        let named = matches!(&record.step, Some(Step::Handover { to, .. }) if *to == self.settings.me);
        // A switchover that a person ordered is no takeover; nobody else is named while paused.
        let ordered = named && evidence == ClaimEvidence::Released;
        if record.paused && !waived && !ordered {
            return Some((Phase::Following, Why::Paused));
        }
        let not_named = (!named || is_early(evidence)) && !waived;
        let mut because = self.no_claimer(record, &mine, evidence, waived);
        if because.is_none() && not_named {
            because = self.not_fit(lease, record, &mine, evidence);
        }
        if let Some(because) = because {
            let because = match evidence {
                ClaimEvidence::Dead => format!("{} is dead; {because}", holder_name(lease)),
                ClaimEvidence::Silent => format!("{} is silent; {because}", holder_name(lease)),
                _ => because,
            };
            return Some((Phase::Following, Why::NotTakingOver { because }));
        }
        let term = Term(lease.term.0.saturating_add(1));
        if self.swap_as(lease, SwapKind::Claim(evidence), term, record.clone()) {
            self.state.claimed = Some((term, evidence));
        }
        Some((Phase::Following, Why::Claiming { evidence }))
    }

    /// Why this member takes no Lease now, whoever else could.
    fn no_claimer(
        &self,
        record: &Record,
        mine: &MemberData,
        evidence: ClaimEvidence,
        waived: bool,
    ) -> Option<String> {
        if !record.members.iter().any(|m| m.data() == *mine) {
            return Some(format!(
                "{} with this data is not a recorded member",
                self.settings.me
            ));
        }
        if self.now() < self.state.claim_not_before && !waived {
            return Some("the last try found no proof".to_owned());
        }
        let just_started = self
            .state
            .started_at
            .is_some_and(|s| self.now().since(s) < self.settings.permit);
        // It may have promised to wait. What is taken on evidence needs a proof by pledges, and no promise is in its way.
        if just_started && evidence == ClaimEvidence::Expired {
            return Some("this sidecar has just started".to_owned());
        }
        self.is_bound(evidence)
            .then(|| "it has promised to the leader to wait".to_owned())
    }

    /// Why another one should take it, or nobody can.
    fn not_fit(
        &self,
        lease: &SeenLease,
        record: &Record,
        mine: &MemberData,
        evidence: ClaimEvidence,
    ) -> Option<String> {
        if let Some(name) = self.better_placed(record, lease, mine, evidence) {
            return Some(format!("{name} goes first"));
        }
        let proof = if is_early(evidence) {
            self.would_prove_now(record, mine)
        } else {
            self.would_prove(record, mine).map(|_| ())
        };
        if let Err(no) = proof
            && !(no != NoProof::CandidateDiverged && record.rest.is_some())
        {
            return Some(no.to_string());
        }
        self.too_far_behind(lease, record).map(|no| no.to_string())
    }

    /// Asynchronous durability: foresees what `lag::judge` will say once this member has pledged.
    fn too_far_behind(&self, lease: &SeenLease, record: &Record) -> Option<NoProof> {
        if record.durability == Durability::Sync {
            return None;
        }
        let held = match self.seen.server.as_ref().map(|s| &s.value) {
            Some(ServerView::Standby { receive, replay, .. }) => (*receive).max(*replay)?,
            // Not known before its WAL is read, which a pledge does.
            _ => return None,
        };
        let own = Position {
            timeline: record.timeline?,
            last_record: held,
        };
        let term = Term(lease.term.0.saturating_add(1));
        lag::judge(record, term, own, &Pledges::new(), self.lag_limits()).err()
    }

    /// On what evidence the Lease is open to a standby; none: it is not.
    fn opening(&self, lease: &SeenLease, record: &Record) -> Option<ClaimEvidence> {
        if lease.holder.is_none() && record.released == Some(lease.term) {
            let named = match &record.step {
                Some(Step::Handover { to, .. }) => *to == self.settings.me,
                _ => false,
            };
            return (named || lease.unchanged_for >= SUCCESSOR_FIRST).then_some(ClaimEvidence::Released);
        }
        self.expired(lease, Millis(0)).then_some(ClaimEvidence::Expired)
    }

    fn waived(&mut self, lease: &SeenLease) -> bool {
        let ordered = match &lease.order {
            Some(order) => match &order.what {
                PersonWish::Failover { to } if *to == self.settings.me => Some(order.id.clone()),
                _ => None,
            },
            None => None,
        };
        self.state.waiver = ordered;
        self.state.waiver.is_some()
    }

    /// Another member that should try first, while the Lease is not open for much longer than needed: the recorded
    /// primary if it is there, else the one that holds more, else the lower name.
    fn better_placed(
        &self,
        record: &Record,
        lease: &SeenLease,
        mine: &MemberData,
        evidence: ClaimEvidence,
    ) -> Option<MemberName> {
        let early = is_early(evidence);
        let open_for = if early {
            self.open_early_for(evidence)
        } else if lease.holder.is_none() && record.released == Some(lease.term) {
            lease.unchanged_for.since(SUCCESSOR_FIRST)
        } else {
            lease.unchanged_for.since(lease.duration.plus(EXPIRY_MARGIN))
        };
        let primary = record.primary.as_ref().map(crate::core::record::Member::data);
        let held = |p: &PeerReport| match &p.server {
            Some(ServerView::Standby { receive, replay, .. }) => (*receive).max(*replay).unwrap_or_default(),
            _ => Lsn(0),
        };
        let own = self.hint().unwrap_or_default();
        self.fresh_peers()
            .filter(|p| {
                p.guard
                    .as_ref()
                    .is_some_and(|g| g.data == DataState::Complete && !g.stopping)
            })
            .find(|p| {
                let data = p.data();
                if data.is_some() && data == primary {
                    // Its last answer may be younger than its death.
                    return !early && open_for < PEER_FRESH;
                }
                let known = data.is_some_and(|d| record.members.iter().any(|m| m.data() == d));
                let ahead = held(p) > own || (held(p) == own && p.member < mine.member);
                known && ahead && open_for < Millis(400)
            })
            .map(|p| p.member.clone())
    }
}

/// On evidence, before it ran out.
fn is_early(evidence: ClaimEvidence) -> bool {
    matches!(evidence, ClaimEvidence::Dead | ClaimEvidence::Silent)
}

/// The member that holds the Lease, for people.
fn holder_name(lease: &SeenLease) -> &str {
    let holder = lease.holder.as_deref().unwrap_or_default();
    holder.split('_').next().unwrap_or(holder)
}
