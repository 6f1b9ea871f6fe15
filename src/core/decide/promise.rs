//! Staying leader by promises (DESIGN.md section 6): who claims nothing for a while lets the leader's permit last as long.

use super::claim::EXPIRY_MARGIN;
use super::{Mind, Phase};
use crate::core::action::{Action, ClaimEvidence, SwapKind};
use crate::core::observe::{GuardView, LeaseView, Promised, RecordView, SeenLease};
use crate::core::record::{Durability, Member, Record, SyncSet};
use crate::core::types::{DataId, MemberData, Millis, Term};
use crate::guard::protocol::Server;

impl Mind<'_> {
    /// What this member may promise to a heartbeat of which term, with which data: it follows that term's primary, and takes nothing.
    pub(super) fn may_promise(&self, phase: Phase) -> Option<(Term, DataId)> {
        let (GuardView::Heard(guard), LeaseView::Seen(lease)) = (&self.seen.guard, &self.seen.lease) else {
            return None;
        };
        let RecordView::Good(record) = &lease.record else {
            return None;
        };
        let guard = &guard.value;
        let primary = record.primary.as_ref()?;
        let follows = phase == Phase::Following
            && guard.server == Server::Standby
            && guard.following.as_ref() == Some(&primary.member)
            && guard.pledge.as_ref().is_none_or(|p| p.term <= record.term);
        let nobody_later = record.term == lease.term && self.seen.told_term.is_none_or(|t| t <= record.term);
        // A claim under way may land whenever it likes.
        let claims = |a: &Action| matches!(a, Action::Swap(swap) if matches!(swap.kind, SwapKind::Claim(_)));
        let takes_nothing = !self.seen.lanes.swap && !self.actions.iter().any(claims) && !self.i_hold(lease);
        let data = self.my_data(guard)?;
        (follows && nobody_later && takes_nothing).then_some((record.term, data.data_id))
    }

    /// Extends the permit by what others have promised; only one that has not ended, of a server that is well.
    pub(super) fn extend_by_promises(&mut self, lease: &SeenLease, record: &Record) {
        let Some(basis) = self.state.basis.filter(|b| b.term == lease.term) else {
            return;
        };
        let lives = basis.sent_boot.plus(self.settings.permit) > self.seen.now_boot;
        let unwell = self
            .state
            .unhealthy_since
            .is_some_and(|since| self.now().since(since) >= self.settings.health_timeout);
        if !lives || unwell || !self.may_write(lease) {
            return;
        }
        let Some(since) = self.promised_since(record, lease.term) else {
            return;
        };
        assert!(since <= self.seen.now_boot, "a heartbeat from the future");
        if since > basis.sent_boot
            && let Some(basis) = &mut self.state.basis
        {
            basis.sent_boot = since;
            basis.promised = true;
        }
    }

    /// Since when enough have promised: k of every recorded set, or everybody in asynchronous durability.
    fn promised_since(&self, record: &Record, term: Term) -> Option<Millis> {
        let sent = |data: &MemberData| -> Option<Millis> {
            if data.member == self.settings.me {
                // It takes nothing from itself: as primary it can pledge only by giving up its permit.
                return Some(self.seen.now_boot);
            }
            let promised: &Promised = self.seen.promises.get(&data.member)?;
            let counts = promised.data_id == data.data_id
                && promised.term == term
                && promised.for_ms >= self.settings.permit
                && promised.asked_at >= self.state.basis_not_before;
            counts.then_some(promised.asked_boot)
        };
        if record.durability == Durability::Async {
            let others = record.members.iter().filter(|m| m.member != self.settings.me);
            // Nobody else is nobody to rely on.
            return others
                .map(Member::data)
                .map(|d| sent(&d))
                .collect::<Option<Vec<_>>>()?
                .into_iter()
                .min();
        }
        let of_set = |set: &SyncSet| {
            let mut times: Vec<Millis> = set.standbys.iter().filter_map(sent).collect();
            times.sort_by(|a, b| b.cmp(a));
            let place = (set.k as usize).checked_sub(1)?;
            times.get(place).copied()
        };
        record
            .sync_sets
            .iter()
            .map(of_set)
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .min()
    }

    /// Whether a promise of this member forbids a claim: what time alone would open. What is taken on evidence needs a proof by pledges,
    /// and is safe without. In asynchronous durability nothing else keeps two servers apart: the leader's permit needs everybody's promise,
    /// so it has ended when this member is not bound any more.
    pub(super) fn is_bound(&self, evidence: ClaimEvidence) -> bool {
        let until = self.seen.promised_until.map(|until| until.plus(EXPIRY_MARGIN));
        evidence == ClaimEvidence::Expired && until.is_some_and(|until| self.now() < until)
    }
}
