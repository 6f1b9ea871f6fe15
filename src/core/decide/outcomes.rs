//! Takes in how earlier actions ended.

use super::Mind;
use crate::core::action::{GuardOrder, SqlJob, SwapKind};
use crate::core::observe::{GuardView, LeaseView, Outcome, RecordView, SeenLease, ServerView, SwapResult};
use crate::core::record::Step;
use crate::core::state::PermitBasis;
use crate::core::types::Millis;
use crate::core::why::RejoinWay;
use crate::guard::protocol::Server;

/// How long after a refusal the next swap waits.
const SWAP_RETRY: Millis = Millis(500);
/// How long a failed order waits before it is given again.
const GUARD_RETRY: Millis = Millis(300);
/// Stops in a row that may fail before the end of WAL counts as unreadable.
const STOPS_TRIED: u32 = 5;
/// How long an order waits that came at the wrong moment.
const GUARD_BUSY: Millis = Millis(100);

impl Mind<'_> {
    /// Takes in the outcomes, then what the newest evidence says about the health of the server.
    pub(super) fn absorb(&mut self) {
        let seen = self.seen;
        for outcome in &seen.outcomes {
            match outcome {
                Outcome::Swap {
                    kind,
                    sent_boot,
                    sent_at,
                    result,
                } => self.absorb_swap(*kind, *sent_boot, *sent_at, result),
                Outcome::Guard { order, error } => self.absorb_guard(order, error.as_deref()),
                Outcome::GuardBusy { .. } => self.state.guard_not_before = self.now().plus(GUARD_BUSY),
                Outcome::Sql { job, error } => self.absorb_sql(job, error.as_deref()),
            }
        }
        self.note_health();
        self.note_led();
    }

    fn absorb_swap(&mut self, kind: SwapKind, sent_boot: Millis, sent_at: Millis, result: &SwapResult) {
        if matches!(result, SwapResult::Refused(_)) {
            // A missing right, an overloaded API server: asking at once again helps nobody.
            self.state.swap_not_before = self.now().plus(SWAP_RETRY);
        }
        let SwapResult::Done(lease) = result else { return };
        if kind == SwapKind::Release {
            self.state.stepping_down = None;
            self.drop_basis();
            return;
        }
        // Only an answer that shows this member's own data as primary of this very term lets it write (invariants 1, 8).
        if sent_at >= self.state.basis_not_before && self.may_write(lease) {
            let newer = self
                .state
                .basis
                .is_none_or(|b| b.term < lease.term || b.sent_boot < sent_boot);
            if newer {
                self.state.basis = Some(PermitBasis {
                    term: lease.term,
                    sent_boot,
                    promised: false,
                });
            }
        }
    }

    /// This version of the Lease lets the server here run read-write.
    pub(super) fn may_write(&self, lease: &SeenLease) -> bool {
        let GuardView::Heard(guard) = &self.seen.guard else {
            return false;
        };
        let RecordView::Good(record) = &lease.record else {
            return false;
        };
        if !self.i_hold(lease) {
            return false;
        }
        // initdb's temporary server writes too: under the permit of whoever is written down to initialise.
        let initialises =
            matches!(&record.step, Some(Step::Initialising { by }) if *by == self.settings.holder);
        if record.is_never_initialised() && initialises {
            return true;
        }
        record.term == lease.term
            && record.released.is_none()
            && self
                .my_data(&guard.value)
                .is_some_and(|mine| record.primary.as_ref().is_some_and(|p| p.data() == mine))
    }

    fn absorb_guard(&mut self, order: &GuardOrder, error: Option<&str>) {
        if let Some(error) = error {
            self.state.guard_not_before = self.now().plus(GUARD_RETRY);
            match order {
                GuardOrder::Rewind { .. } => self.way_failed(RejoinWay::Rewind, error),
                GuardOrder::Clone { .. } => self.way_failed(RejoinWay::Clone, error),
                GuardOrder::Follow { .. } => self.state.followed = None,
                GuardOrder::Promote { .. } => self.state.promotions_failed += 1,
                GuardOrder::Stop { .. } => {
                    // It may not have reached the guard at all: only many failures say that the WAL cannot be read.
                    let failed = &mut self.state.rejoin.stops_failed;
                    *failed = failed.saturating_add(1);
                    self.state.rejoin.unreadable = *failed >= STOPS_TRIED;
                    self.stop_ended();
                }
                _ => {}
            }
            return;
        }
        match order {
            GuardOrder::Stop { .. } => {
                self.stop_ended();
                let unread = matches!(&self.seen.guard, GuardView::Heard(g) if g.value.rest.is_none());
                self.state.rejoin.unreadable = unread;
                self.state.rejoin.stops_failed = 0;
            }
            GuardOrder::SetNames { .. } => {
                if let Some(settling) = &mut self.state.settling {
                    settling.since = self.seen.now;
                }
            }
            _ => {}
        }
    }

    fn stop_ended(&mut self) {
        if let Some(down) = &mut self.state.stepping_down {
            down.stopped = true;
        }
    }

    /// Remembers that a way back failed; a failed clone is tried again, later each time.
    pub(super) fn way_failed(&mut self, way: RejoinWay, error: &str) {
        let now = self.now();
        let rejoin = &mut self.state.rejoin;
        error.clone_into(&mut rejoin.error);
        if way == RejoinWay::Clone {
            rejoin.clones = rejoin.clones.saturating_add(1);
            rejoin.retry_at = now.plus(retry_after(rejoin.clones));
        } else {
            rejoin.failed.insert(way);
        }
    }

    fn absorb_sql(&mut self, job: &SqlJob, error: Option<&str>) {
        let now = self.now();
        // A handover does not wait for a checkpoint that cannot be had; a sync set does.
        if let (SqlJob::Checkpoint, Some(down)) = (job, &mut self.state.stepping_down) {
            down.checkpointed = true;
        }
        let Some(settling) = self.state.settling.as_mut().filter(|s| s.ordered) else {
            return;
        };
        settling.ordered = false;
        if error.is_some() {
            return;
        }
        settling.since = now;
        match job {
            SqlJob::Checkpoint => settling.checkpointed = true,
            SqlJob::EndWalsenders { pids } => settling.ended = Some(pids.clone()),
        }
    }

    fn note_health(&mut self) {
        let primary = matches!(&self.seen.guard, GuardView::Heard(g) if g.value.server == Server::Primary);
        if primary {
            let now = self.now();
            self.state.primary_since.get_or_insert(now);
        } else {
            self.state.primary_since = None;
            self.state.unhealthy_since = None;
        }
        let Some(server) = &self.seen.server else { return };
        // A look made before the server was up says nothing of its health.
        let counts = self
            .state
            .primary_since
            .is_some_and(|since| server.asked_at >= since);
        if !counts {
        } else if server.value.is_healthy() {
            self.state.unhealthy_since = None;
        } else {
            let since = server.asked_at;
            self.state.unhealthy_since.get_or_insert(since);
        }
        match &server.value {
            ServerView::Primary { insert, .. } => self.state.wal_seen = Some((*insert, server.asked_at)),
            ServerView::Standby { .. } => self.state.wal_seen = None,
            _ => {}
        }
        match &server.value {
            ServerView::Standby { streaming: false, .. } => {
                let since = server.asked_at;
                self.state.not_streaming_since.get_or_insert(since);
            }
            _ => self.state.not_streaming_since = None,
        }
    }

    /// Keeps the newest record under which this member led.
    fn note_led(&mut self) {
        let LeaseView::Seen(lease) = &self.seen.lease else {
            return;
        };
        let (RecordView::Good(record), GuardView::Heard(guard)) = (&lease.record, &self.seen.guard) else {
            return;
        };
        let guard = &guard.value;
        if self.state.led.as_ref().is_some_and(|led| led.term < record.term) {
            // Somebody led after it.
            self.state.led = None;
        }
        // Never a record that is itself damaged: another cluster's, or one older than what is on disk here.
        let sound = self.check_record(lease, record, guard).is_ok()
            && record.system_identifier == guard.system_identifier
            && self.state.led.as_ref().is_none_or(|led| led.term <= record.term);
        let led = self
            .my_data(guard)
            .is_some_and(|mine| record.primary.as_ref().is_some_and(|p| p.data() == mine));
        if self.i_hold(lease) && sound && led && record.term == lease.term {
            self.state.led = Some(record.clone());
            self.state.led_recalled = false;
        }
    }
}

/// How long after so many clones the next one waits.
pub(super) fn retry_after(clones: u32) -> Millis {
    Millis(1_000 << clones.min(6))
}
