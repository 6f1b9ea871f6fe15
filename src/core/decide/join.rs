//! The cluster has a primary, and the data here was made without pgbaton: it becomes a member's when it is a standby's that holds nothing
//! beyond the primary, is made anew when it holds more, and is left alone when it is a primary's.

use super::{Chosen, Mind};
use crate::core::action::GuardOrder;
use crate::core::adoption::Adoption;
use crate::core::observe::ServerView;
use crate::core::phase::Phase;
use crate::core::record::{Member, Record};
use crate::core::types::{Lsn, Millis, Position};
use crate::core::why::{RejoinWay, Why};
use crate::guard::protocol::{DataState, Server, Status};

impl Mind<'_> {
    /// None: the data here is a member's own.
    pub(super) fn join(&mut self, record: &Record, guard: &Status, primary: &Member) -> Option<Chosen> {
        let found = guard
            .found
            .as_ref()
            .filter(|_| guard.data == DataState::Complete)?;
        let member = primary.member.clone();
        let known = self
            .my_data(guard)
            .is_some_and(|mine| record.members.iter().any(|m| m.data() == mine));
        if !found.standby {
            // Somebody else's data was taken for the cluster's. What lies here may be all that is left of other rows: a person's.
            return (!known).then_some((
                Phase::Stranded,
                Why::Adoption(Adoption::NotAdopted { primary: member }),
            ));
        }
        let joining = (
            Phase::Following,
            Why::Adoption(Adoption::Joining {
                primary: member.clone(),
            }),
        );
        self.wake_in(Millis(100));
        let Some(position) = self.own_end(record, guard) else {
            // A copy that nobody has recovered yet: of whom, and how far it was, nobody knows. Another copy is sure.
            let copy = guard.fresh_copy && matches!(guard.server, Server::Down { .. });
            if copy || self.state.rejoin.unreadable {
                return Some(self.rejoin_by(RejoinWay::Clone, record, guard, primary));
            }
            let (fast, hint) = (Millis(1_000), self.hint());
            self.order(record.term, GuardOrder::Stop { fast, hint });
            return Some(joining);
        };
        let Some(insert) = self.insert_of(primary) else {
            return Some(joining);
        };
        if Some(position.timeline) == record.timeline && position.last_record > insert {
            // On the primary's own timeline nobody else wrote while pgbaton saw it; before, somebody may have. Only a copy is sure.
            if !matches!(guard.server, Server::Down { .. }) {
                let (fast, hint) = (Millis(1_000), self.hint());
                self.order(record.term, GuardOrder::Stop { fast, hint });
                return Some(joining);
            }
            return Some(self.rejoin_by(RejoinWay::Clone, record, guard, primary));
        }
        self.order(record.term, GuardOrder::Adopt);
        Some(joining)
    }

    /// Where the WAL here ends, exactly: read at rest, or with the pledge to this very term, since when nothing was received.
    fn own_end(&self, record: &Record, guard: &Status) -> Option<Position> {
        match &guard.server {
            Server::Down { .. } => guard.rest.as_ref().map(|r| r.position),
            Server::Standby if guard.following.is_none() => {
                let pledge = guard.pledge.as_ref().filter(|p| p.term == record.term)?;
                pledge.position
            }
            _ => None,
        }
    }

    /// How far the primary's WAL is, by its own sidecar.
    fn insert_of(&self, primary: &Member) -> Option<Lsn> {
        let peer = self.fresh_peer(&primary.member)?;
        let same = peer.data().as_ref() == Some(&primary.data());
        match &peer.server {
            Some(ServerView::Primary { insert, .. }) if same => Some(*insert),
            _ => None,
        }
    }
}
