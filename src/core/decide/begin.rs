//! A cluster that was never initialised: the member marked by `STANDBY_MODE=off` makes it (invariant 7).

use super::{Chosen, Mind};
use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::adoption::Adoption;
use crate::core::observe::SeenLease;
use crate::core::phase::Phase;
use crate::core::record::{Member, Record, Step, SyncSet};
use crate::core::types::{Lsn, Term, Timeline};
use crate::core::why::Why;
use crate::guard::protocol::{DataState, Status};

/// What initdb starts on.
const FIRST_TIMELINE: Timeline = Timeline(1);

impl Mind<'_> {
    pub(super) fn begin(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        if let Some(chosen) = self.in_place(lease, record, guard) {
            return chosen;
        }
        if self.stop_when_pod_ends(guard) {
            return (Phase::Uninitialised, Why::WaitingForFirstPrimary);
        }
        if self.i_hold(lease) {
            return self.initialise(lease, record, guard);
        }
        if !self.settings.first_primary {
            return (Phase::Uninitialised, Why::WaitingForFirstPrimary);
        }
        if let Some(elsewhere) = self.data_elsewhere(record) {
            // A second cluster beside the one that is there would be made.
            self.wake_in(super::Millis(250));
            return (Phase::Uninitialised, Why::Adoption(elsewhere));
        }
        let evidence = match &lease.holder {
            None if lease.term == Term(0) => Some(ClaimEvidence::NeverHeld),
            _ => self
                .expired(lease, super::Millis(0))
                .then_some(ClaimEvidence::Expired),
        };
        let Some(evidence) = evidence else {
            let by = lease.holder.clone().unwrap_or_default();
            return (Phase::Uninitialised, Why::AnotherMarkedFirst { by });
        };
        let mut record = record.clone();
        record.step = Some(Step::Initialising {
            by: self.settings.holder.clone(),
        });
        self.swap_as(
            lease,
            SwapKind::Claim(evidence),
            Term(lease.term.0.saturating_add(1)),
            record,
        );
        (Phase::Uninitialised, Why::Claiming { evidence })
    }

    fn initialise(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        if let Some(Step::Adopting { by }) = &record.step {
            // The data that was being adopted is gone. No database is made in its place: other servers hold the rest of it.
            return (
                Phase::Uninitialised,
                Why::Adoption(Adoption::By { by: by.clone() }),
            );
        }
        let mine = matches!(&record.step, Some(Step::Initialising { by }) if *by == self.settings.holder);
        self.renew_when_due(lease, record.clone());
        if !mine {
            // Holding the Lease without having written the step: write it first.
            let mut record = record.clone();
            record.step = Some(Step::Initialising {
                by: self.settings.holder.clone(),
            });
            self.swap(lease, SwapKind::Renew, record);
            return (Phase::Initialising, Why::Initialising);
        }
        if guard.operation.is_some() {
            return (Phase::Initialising, Why::Initialising);
        }
        if guard.data != DataState::Complete {
            self.wake_in(super::Millis(50));
            if let Some(elsewhere) = self.data_elsewhere(record) {
                return (Phase::Initialising, Why::Adoption(elsewhere));
            }
            if self.permitted(guard, lease.term) {
                self.order(lease.term, GuardOrder::Initialise);
            } else if self.state.basis.is_none() {
                self.swap(lease, SwapKind::Renew, record.clone());
            }
            return (Phase::Initialising, Why::Initialising);
        }
        if let Some(me) = self.my_data(guard)
            && guard.system_identifier.is_some()
        {
            let mut record = record.clone();
            let me = Member {
                member: me.member,
                data_id: me.data_id,
                address: self.settings.address.clone(),
            };
            record.system_identifier = guard.system_identifier;
            record.term = lease.term;
            record.primary = Some(me.clone());
            record.members = vec![me];
            record.timeline = Some(FIRST_TIMELINE);
            record.timelines_given.insert(FIRST_TIMELINE);
            record.sync_sets = vec![SyncSet::empty()];
            record.step = None;
            record.released = None;
            self.note_history(&mut record, lease.term, "initialised", Lsn(0));
            self.swap(lease, SwapKind::Renew, record);
        }
        (Phase::Initialising, Why::Initialising)
    }
}
