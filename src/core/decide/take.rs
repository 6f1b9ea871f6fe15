//! Holds the Lease of a term whose primary this member is not (yet): pledges, proof, point of no return.

use std::collections::BTreeSet;

use super::follow::standby_names;
use super::{Chosen, Mind};
use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::history;
use crate::core::lag;
use crate::core::observe::{PeerReport, SeenLease};
use crate::core::phase::Phase;
use crate::core::proof::{self, NoProof, Pledges, Proof};
use crate::core::record::{Durability, Member, Promotion, Record, Step, SyncSet};
use crate::core::types::{MemberData, MemberName, Millis, Position, Term};
use crate::core::why::Why;
use crate::guard::protocol::{DataState, Pledge, Server, Status};

/// With proof at hand, how long to wait for other members that are there to pledge too: they become the new sync set.
const WAIT_FOR_OTHERS: Millis = Millis(400);
/// With proof at hand, how long this member's server may take to be ready before another one leads.
const READY_WITHIN: Millis = Millis(10_000);
/// After a claim without proof nobody tries again at once.
const AFTER_NO_PROOF: Millis = Millis(5_000);
/// Recorded promotions kept; older ones are in every surviving member's history files.
const PROMOTIONS_KEPT: usize = 100;

impl Mind<'_> {
    pub(super) fn take(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        self.forget_basis();
        self.ask_peers_every = Millis(20);
        self.wake_in(Millis(20));
        let since = match self.state.taking {
            Some((term, since)) if term == lease.term => since,
            _ => {
                let now = self.now();
                self.state.taking = Some((lease.term, now));
                self.state.promotions_failed = 0;
                self.state.marks = self.first_marks(lease.term);
                now
            }
        };
        let Some(mine) = self.my_data(guard) else {
            // The data went away under a Lease that this pod holds: nothing to lead with.
            return self.give_back(lease, record, &NoProof::CandidateNotPledged);
        };
        if guard.stopping {
            self.stop_when_pod_ends(guard);
            return self.give_back(lease, record, &NoProof::CandidateNotPledged);
        }
        self.renew_when_due(lease, record.clone());
        if guard
            .pledge
            .as_ref()
            .is_none_or(|p| p.term < lease.term || p.position.is_none())
        {
            self.order(lease.term, GuardOrder::Pledge { hint: self.hint() });
        }
        let pledges = self.pledges(lease.term, guard);
        let waited = self.now().since(since);
        match self.judged(record, lease.term, &mine, &pledges) {
            Ok(proof) if waited < WAIT_FOR_OTHERS && self.others_are_coming(record, &mine, &pledges) => {
                (Phase::Taking, Why::Installing { proof })
            }
            Ok(_) if waited >= READY_WITHIN => self.give_up(lease, record, &pledges),
            Ok(proof) => self.install(lease, record, guard, &proof),
            Err(NoProof::Behind { ahead }) => self.give_to(lease, record, &ahead.member),
            Err(missing) if waited >= self.settings.pledge_timeout => self.give_back(lease, record, &missing),
            Err(missing) => (
                Phase::Taking,
                Why::CollectingPledges {
                    missing: Some(missing),
                },
            ),
        }
    }

    /// Where the takeover's phases begin: with the first sign that the holder was gone, or with the Lease.
    fn first_marks(&self, term: Term) -> Vec<(String, Millis)> {
        let early = matches!(self.state.claimed, Some((of, ClaimEvidence::Dead | ClaimEvidence::Silent)) if of == term);
        let sign = self.state.holder_gone.as_ref().filter(|_| early);
        let sign = sign.map(|(_, since)| ("evidence".to_owned(), *since));
        sign.into_iter()
            .chain([("claim".to_owned(), self.now())])
            .collect()
    }

    fn judged(
        &self,
        record: &Record,
        term: Term,
        mine: &MemberData,
        pledges: &Pledges,
    ) -> Result<Proof, NoProof> {
        let own = pledges.get(mine).copied().flatten();
        let judged = match (proof::judge(record, term, mine, pledges), own) {
            (Ok(Proof::NotNeeded), Some(own)) => lag::judge(record, term, own, pledges, self.lag_limits()),
            (judged, _) => judged,
        };
        if judged.is_err() && self.state.waiver.is_some() && own.is_some() {
            return Ok(Proof::Waived);
        }
        judged
    }

    pub(super) fn lag_limits(&self) -> lag::Limits {
        lag::Limits {
            maximum_lag: self.settings.maximum_lag,
            // A healthy leader looks at its server at least as often as it renews; one that is not hands over.
            maximum_age: self.settings.health_timeout.plus(self.settings.renew_interval),
        }
    }

    /// Every pledge to `term` known here: this member's and those that the others' sidecars answered with.
    fn pledges(&self, term: Term, guard: &Status) -> Pledges {
        let mut pledges = Pledges::new();
        let mut note = |data: Option<MemberData>, pledge: Option<&Pledge>| {
            if let (Some(data), Some(pledge)) = (data, pledge.filter(|p| p.term == term)) {
                pledges.insert(data, pledge.position);
            }
        };
        note(self.my_data(guard), guard.pledge.as_ref());
        for peer in self.seen.peers.values().map(|p| &p.value) {
            let complete = peer.guard.as_ref().filter(|g| g.data == DataState::Complete);
            note(
                complete.and_then(|_| peer.data()),
                complete.and_then(|g| g.pledge.as_ref()),
            );
        }
        pledges
    }

    fn others_are_coming(&self, record: &Record, mine: &MemberData, pledges: &Pledges) -> bool {
        let known: BTreeSet<MemberData> = record.members.iter().map(Member::data).collect();
        let primary = record.primary.as_ref().map(Member::data);
        self.fresh_peers()
            .filter(|p| p.guard.as_ref().is_some_and(|g| g.server == Server::Standby))
            .filter_map(PeerReport::data)
            .any(|d| {
                d != *mine && Some(&d) != primary.as_ref() && known.contains(&d) && !pledges.contains_key(&d)
            })
    }

    /// Proof is there: names first, then the swap that is the point of no return (invariants 6, 8).
    fn install(&mut self, lease: &SeenLease, record: &Record, guard: &Status, proof: &Proof) -> Chosen {
        let why = Why::Installing { proof: proof.clone() };
        let Some(own) = guard.pledge.as_ref().and_then(|p| p.position) else {
            return (Phase::Taking, why);
        };
        let pledges = self.pledges(lease.term, guard);
        let set = self.first_set(record, own, &pledges);
        // A standby never gets empty names: coming from there backends would not wait at once (invariant 6). With an empty set
        // it is promoted with names that ask for more than the record says.
        let empty = set.k == 0 && record.durability == Durability::Sync;
        let names = match self.my_data(guard) {
            Some(mine) if empty => standby_names(record, &mine),
            _ => set.names(),
        };
        match guard.server {
            Server::Standby => {}
            Server::Down { .. } => {
                self.order(lease.term, GuardOrder::StandAlone { names });
                return (Phase::Taking, why);
            }
            _ => return (Phase::Taking, why),
        }
        if !empty && guard.synchronous_standby_names != names {
            self.order(lease.term, GuardOrder::SetNames { names });
            return (Phase::Taking, why);
        }
        self.mark("pledges");
        let next = self.installed(lease, record, guard, own, set, proof);
        self.swap(lease, SwapKind::Renew, next);
        (Phase::Taking, why)
    }

    /// The sync set to begin with: recorded members that pledged and are on this history.
    fn first_set(&self, record: &Record, own: Position, pledges: &Pledges) -> SyncSet {
        if record.durability == Durability::Async {
            return SyncSet::empty();
        }
        let known: BTreeSet<MemberData> = record.members.iter().map(Member::data).collect();
        let on_history = |p: &Option<Position>| {
            p.is_some_and(|p| history::compare(record, p, own) == history::Order::Within)
        };
        let there = |d: &MemberData| {
            self.fresh_peer(&d.member)
                .is_some_and(|p| p.guard.as_ref().is_some_and(|g| g.server == Server::Standby))
        };
        let standbys: BTreeSet<MemberData> = pledges
            .iter()
            .filter(|(d, p)| d.member != self.settings.me && known.contains(*d) && on_history(p) && there(d))
            .map(|(d, _)| d.clone())
            .collect();
        if standbys.is_empty() {
            let strict = record.availability == crate::core::record::Availability::Strict;
            return if strict {
                self.strict_set(record)
            } else {
                SyncSet::empty()
            };
        }
        let k = self
            .settings
            .sync_standbys
            .max(1)
            .min(u32::try_from(standbys.len()).unwrap_or(u32::MAX));
        SyncSet { k, standbys }
    }

    /// Strict availability: writes wait for any other member to come back.
    fn strict_set(&self, record: &Record) -> SyncSet {
        let standbys: BTreeSet<MemberData> = record
            .members
            .iter()
            .map(Member::data)
            .filter(|d| d.member != self.settings.me)
            .collect();
        if standbys.is_empty() {
            SyncSet::empty()
        } else {
            SyncSet { k: 1, standbys }
        }
    }

    fn installed(
        &self,
        lease: &SeenLease,
        record: &Record,
        guard: &Status,
        own: Position,
        set: SyncSet,
        proof: &Proof,
    ) -> Record {
        let mut next = record.clone();
        let timeline = history::next_timeline(record, own.timeline);
        let began = match &record.step {
            Some(Step::Handover { why, .. }) => why.clone(),
            _ => match self.state.claimed {
                Some((term, ClaimEvidence::Dead)) if term == lease.term => "the leader was dead",
                Some((term, ClaimEvidence::Silent)) if term == lease.term => "the leader was silent",
                _ => "the Lease of the old primary ran out",
            }
            .to_owned(),
        };
        next.term = lease.term;
        next.primary = self.my_data(guard).map(|d| Member {
            member: d.member,
            data_id: d.data_id,
            address: self.settings.address.clone(),
        });
        next.timeline = Some(timeline);
        next.timelines_given.insert(timeline);
        next.promotions.push(Promotion {
            timeline,
            parent: own.timeline,
            switch_point: own.last_record,
            term: lease.term,
        });
        let excess = next.promotions.len().saturating_sub(PROMOTIONS_KEPT);
        next.promotions.drain(..excess);
        next.add_sync_set(set);
        next.step = Some(Step::Promoting {
            member: self.settings.me.clone(),
        });
        next.released = None;
        next.rest = None;
        self.note_history(
            &mut next,
            lease.term,
            &format!("{began}; {proof}"),
            own.last_record,
        );
        next
    }

    /// Proof is there, and the server here does not get ready: another one with proof, or the recorded primary.
    fn give_up(&mut self, lease: &SeenLease, record: &Record, pledges: &Pledges) -> Chosen {
        let ready = |p: &&PeerReport| {
            p.guard
                .as_ref()
                .is_some_and(|g| g.server == Server::Standby && !g.stopping)
        };
        let other = self
            .fresh_peers()
            .filter(ready)
            .filter_map(PeerReport::data)
            .find(|data| self.judged(record, lease.term, data, pledges).is_ok());
        let Some(other) = other else {
            return self.give_back(lease, record, &NoProof::ServerNotReady);
        };
        self.state.claim_not_before = self.now().plus(AFTER_NO_PROOF);
        self.release_to(
            lease,
            record,
            &other.member,
            "the taker's server did not get ready",
        );
        let (to, missing) = (other.member, NoProof::ServerNotReady);
        (Phase::HandingOver, Why::HandingToAnother { to, missing })
    }

    /// Releases the Lease to the one that holds more; it may not come, and is not asked again at once.
    fn give_to(&mut self, lease: &SeenLease, record: &Record, to: &MemberName) -> Chosen {
        self.state.claim_not_before = self.now().plus(AFTER_NO_PROOF);
        self.release_to(lease, record, to, "it holds more WAL");
        (Phase::HandingOver, Why::HandingToTheOneAhead { to: to.clone() })
    }

    /// No proof: releases the Lease to the recorded primary.
    fn give_back(&mut self, lease: &SeenLease, record: &Record, missing: &NoProof) -> Chosen {
        self.state.claim_not_before = self.now().plus(AFTER_NO_PROOF);
        if let Some(primary) = &record.primary {
            let to = primary.member.clone();
            self.release_to(lease, record, &to, "the taker had no proof");
        }
        (
            Phase::HandingOver,
            Why::NoProofInTime {
                missing: missing.clone(),
            },
        )
    }

    fn release_to(&mut self, lease: &SeenLease, record: &Record, to: &MemberName, why: &str) {
        let mut record = record.clone();
        record.released = Some(lease.term);
        record.step = Some(Step::Handover {
            from: self.settings.me.clone(),
            to: to.clone(),
            why: why.to_owned(),
            planned: false,
        });
        self.swap(lease, SwapKind::Release, record);
    }
}
