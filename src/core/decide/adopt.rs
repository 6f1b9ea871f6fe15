//! A person takes a member's data for the cluster's, because the record is lost (DESIGN.md sections 3 and 9).

use super::Mind;
use crate::core::action::{ClaimEvidence, GuardOrder, OrderState, SwapKind};
use crate::core::adoption::Obstacle;
use crate::core::history;
use crate::core::observe::{PeerReport, PersonOrder, RecordView, SeenLease, ServerView};
use crate::core::record::{Availability, Durability, Member, Promotion, Record, Step, SyncSet};
use crate::core::types::{Lsn, MemberData, Millis, Position, Term, Timeline};
use crate::guard::protocol::{Server, Status};

/// Why the term begins, for people.
const BY_A_PERSON: &str = "adopted by a person";

impl Mind<'_> {
    /// Does what was ordered, when it can be done. Never beside a server that runs under a permit: whoever held the Lease may have one
    /// for as long as the Lease has not run out.
    pub(super) fn adopt(&mut self, lease: &SeenLease, guard: &Status, order: &PersonOrder, term: Term) {
        let never = matches!(&lease.record, RecordView::Good(r) if r.is_never_initialised());
        if (never || guard.found.is_some())
            && let Some(obstacle) = self.against_order(guard)
        {
            // Whoever is held by no guard cannot be fenced: it must not run, or be known for a standby.
            if obstacle != Obstacle::NotLooked {
                let text = format!("{obstacle}; nothing was changed");
                self.answer(order, OrderState::Refused, text);
            }
            return;
        }
        if let Some(found) = &guard.found {
            if !found.standby && found.end.is_none() {
                self.wake_in(Millis(100));
                return;
            }
            if guard.data_id.is_none() {
                self.order(guard.highest_term, GuardOrder::Adopt);
                return;
            }
        }
        let Some(mine) = self.my_data(guard) else {
            let text = format!("{} has no data that could be adopted", self.settings.me);
            return self.answer(order, OrderState::Refused, text);
        };
        if let Some(peer) = self.fresh_peers().find(|p| writes(p, guard)) {
            let other = &peer.member;
            let text = format!(
                "{other} runs read-write under a permit: `pgbaton adopt --to {other}`, or stop that member first; nothing was changed"
            );
            return self.answer(order, OrderState::Refused, text);
        }
        let runs = self.runs_permitted(guard);
        if !runs && !self.expired(lease, Millis(0)) {
            self.wake_in(Millis(100));
            return;
        }
        let rest = guard.rest.as_ref().map(|r| r.position);
        let pledged = guard.pledge.as_ref().and_then(|p| p.position);
        let (highest, hint) = (guard.highest_term, self.hint());
        let record = match (&guard.server, rest, pledged) {
            (Server::Primary, ..) if runs => match self.server_fresh() {
                Some(ServerView::Primary { timeline, .. }) => {
                    self.adopted(lease, guard, mine, term, *timeline, BY_A_PERSON)
                }
                _ => return,
            },
            (Server::Down { .. }, Some(own), _) | (Server::Standby, _, Some(own)) => {
                self.adopted_by_promotion(lease, guard, mine, term, own)
            }
            // Where its WAL ends is read by its guard, which nobody has asked for.
            (Server::Down { .. }, None, _) => {
                let fast = Millis(0);
                self.order(highest, GuardOrder::Stop { fast, hint: None });
                return;
            }
            (Server::Standby, _, None) => {
                self.order(highest, GuardOrder::Pledge { hint });
                return;
            }
            _ => return,
        };
        self.swap_as(lease, SwapKind::Claim(ClaimEvidence::WriteBack), term, record);
    }

    /// A new record around this member's data, whose server runs read-write on `timeline`, or will.
    pub(super) fn adopted(
        &self,
        lease: &SeenLease,
        guard: &Status,
        mine: MemberData,
        term: Term,
        timeline: Timeline,
        why: &str,
    ) -> Record {
        let former = match &lease.record {
            RecordView::Good(record) => Some(record.as_ref()),
            RecordView::Missing | RecordView::Unreadable(_) => None,
        };
        let durability = former.map_or(Durability::Sync, |r| r.durability);
        let availability = former.map_or(Availability::Available, |r| r.availability);
        let mut record = Record::never_initialised(durability, availability);
        let me = Member {
            member: mine.member,
            data_id: mine.data_id,
            address: self.settings.address.clone(),
        };
        record.system_identifier = guard.system_identifier;
        record.term = term;
        record.primary = Some(me.clone());
        record.members = vec![me];
        record.timeline = Some(timeline);
        let highest = self.highest_timeline(former, timeline);
        record.timelines_given = (1..=highest.0).map(Timeline).collect();
        if let Some(former) = former.filter(|r| r.system_identifier == guard.system_identifier) {
            record.promotions.clone_from(&former.promotions);
        }
        record.promotions.extend(found_promotions(&record, guard));
        record.sync_sets = vec![SyncSet::empty()];
        self.note_history(&mut record, term, why, Lsn(0));
        record
    }

    /// As `adopted`, of a server that is to be promoted: whoever holds other WAL after `own` is on another branch from then on.
    fn adopted_by_promotion(
        &self,
        lease: &SeenLease,
        guard: &Status,
        mine: MemberData,
        term: Term,
        own: Position,
    ) -> Record {
        let mut record = self.adopted(lease, guard, mine, term, own.timeline, BY_A_PERSON);
        // A server that is down tells no timeline. A term makes one at the most, so no term so far has made one above this.
        let terms = u32::try_from(term.0).unwrap_or(u32::MAX);
        record
            .timelines_given
            .insert(Timeline(own.timeline.0.saturating_add(terms)));
        let timeline = history::next_timeline(&record, own.timeline);
        record.timeline = Some(timeline);
        record.timelines_given.insert(timeline);
        record.promotions.push(Promotion {
            timeline,
            parent: own.timeline,
            switch_point: own.last_record,
            term,
        });
        record.step = Some(Step::Promoting {
            member: self.settings.me.clone(),
        });
        record
    }

    /// The highest timeline number that is known of: no promotion may use one that some server made already.
    fn highest_timeline(&self, former: Option<&Record>, own: Timeline) -> Timeline {
        let peers = self.seen.peers.values().filter_map(|p| held(&p.value));
        let recorded = former.and_then(|r| r.timelines_given.iter().next_back().copied());
        peers.chain(recorded).fold(own, Ord::max)
    }
}

/// The promotions of before pgbaton, from the found data's own history: so that standbys on an older timeline can be judged.
fn found_promotions(record: &Record, guard: &Status) -> Vec<Promotion> {
    let history = guard.found.as_ref().map_or(&[][..], |f| &f.history);
    let known = |timeline: Timeline| record.promotions.iter().any(|p| p.timeline == timeline);
    let pairs = history.windows(2).rev().filter(|pair| !known(pair[0].0));
    pairs
        .map(|pair| Promotion {
            timeline: pair[0].0,
            parent: pair[1].0,
            // A position is where a record begins: one that begins where the new timeline does is not the parent's.
            switch_point: Lsn(pair[0].1.0.saturating_sub(1)),
            term: Term(0),
        })
        .collect()
}

/// The peer's server is, or becomes, read-write, with data of the same cluster.
fn writes(peer: &PeerReport, mine: &Status) -> bool {
    peer.guard.as_ref().is_some_and(|g| {
        let up = !matches!(g.server, Server::Down { .. } | Server::Standby);
        g.system_identifier == mine.system_identifier && g.permit.is_some() && up
    })
}

/// The timeline that the peer's WAL is on, by whatever tells.
fn held(peer: &PeerReport) -> Option<Timeline> {
    let guard = peer.guard.as_ref();
    let rest = guard.and_then(|g| g.rest.as_ref()).map(|r| r.position.timeline);
    let pledged = guard
        .and_then(|g| g.pledge.as_ref()?.position)
        .map(|p| p.timeline);
    let serves = match &peer.server {
        Some(ServerView::Primary { timeline, .. }) => Some(*timeline),
        Some(ServerView::Standby { timeline, .. }) => *timeline,
        _ => None,
    };
    [rest, pledged, serves].into_iter().flatten().max()
}
