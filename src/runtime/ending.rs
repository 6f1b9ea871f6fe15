//! When a sidecar that was told to end may end.

use crate::core::observe::GuardView;
use crate::core::types::Millis;

/// How long the guard's word may take that its container is stopped as well. Kubernetes tells an ordinary container
/// (deploy/overlays/plain-sidecar) at the same moment as PostgreSQL's, and this process may hear it first. A guard that finds no sidecar stops
/// its server by itself, and nobody takes over before the Lease has run out.
const GUARD_TOO: Millis = Millis(2_000);
/// Longest time for a handover: the pod's grace period ends some day.
const LONGEST: Millis = Millis(10_000);

/// Whether nothing is half done, `told_for` after the signal. `holds`: this member holds the Lease.
#[must_use]
pub fn may_end(told_for: Millis, holds: bool, guard: &GuardView, stepping_down: bool) -> bool {
    if !holds || told_for >= LONGEST {
        return true;
    }
    // Ending then would leave a Lease held whose server is stopped for good.
    let stopping = match guard {
        GuardView::Heard(status) => status.value.stopping,
        GuardView::Lost { last, .. } => last.value.stopping,
        GuardView::Unknown => false,
    };
    let may_be_told_too = matches!(guard, GuardView::Heard(_)) && told_for < GUARD_TOO;
    !(stopping || stepping_down || may_be_told_too)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::protocol::Server;
    use crate::runtime::fixtures::{lease, record, seen};

    fn heard(stopping: bool) -> GuardView {
        let GuardView::Heard(mut status) = seen(1, Server::Primary, lease(record(2))).guard else {
            unreachable!("the fixture's guard is heard")
        };
        status.value.stopping = stopping;
        GuardView::Heard(status)
    }

    #[test]
    fn a_leader_waits_for_its_guards_word_and_for_its_handover() {
        let (lives, stops) = (heard(false), heard(true));
        let at = |ms, guard: &GuardView, stepping_down| may_end(Millis(ms), true, guard, stepping_down);
        assert!(!at(0, &lives, false), "told before its guard");
        assert!(
            !at(1_999, &lives, false) && at(2_000, &lives, false),
            "it alone was told"
        );
        assert!(!at(5_000, &stops, false) && !at(5_000, &lives, true));
        assert!(at(10_000, &stops, true), "at the latest");
        assert!(at(0, &GuardView::Unknown, false), "nobody to wait for");
    }

    #[test]
    fn who_does_not_lead_ends_at_once() {
        assert!(may_end(Millis(0), false, &heard(false), false));
        assert!(may_end(Millis(0), false, &heard(true), false));
    }

    #[test]
    fn a_guard_that_ended_before_has_said_whether_its_container_was_stopped() {
        let lost = |stopping| {
            let GuardView::Heard(last) = heard(stopping) else {
                unreachable!("heard above")
            };
            let since = Millis(1);
            GuardView::Lost { since, last }
        };
        assert!(!may_end(Millis(0), true, &lost(true), false));
        assert!(may_end(Millis(0), true, &lost(false), false));
    }
}
