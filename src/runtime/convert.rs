//! From what adapters saw to what the core decides on.

use std::time::Duration;

use crate::core::action::ClaimEvidence;
use crate::core::observe::{LeaseView, PersonOrder, PersonWish, RecordView, SeenLease, ServerView};
use crate::core::orders::{ORDER_ANNOTATION, ORDER_RESULT_ANNOTATION, OrderKind, OrderNote, OrderResult};
use crate::core::probe::Probe;
use crate::core::types::Millis;
use crate::core::{self};
use crate::lease::{self, LeaseSeen, LeaseState, RecordState};

/// The Lease as the core sees it at `now` on the live clock.
#[must_use]
pub fn lease_view(state: &LeaseState, now: Millis, configured: Duration) -> LeaseView {
    match state {
        LeaseState::Unknown => LeaseView::Unknown,
        LeaseState::Absent { .. } => LeaseView::Absent,
        LeaseState::Present(seen) => LeaseView::Seen(Box::new(seen_lease(seen, now, configured))),
    }
}

/// One version of it.
#[must_use]
pub fn seen_lease(seen: &LeaseSeen, now: Millis, configured: Duration) -> SeenLease {
    SeenLease {
        version: seen.resource_version.clone(),
        holder: seen.holder.clone(),
        term: seen.transitions,
        duration: millis(seen.expires_after(configured)),
        record: match &seen.record {
            RecordState::Good(record) => RecordView::Good(record.clone()),
            RecordState::Missing => RecordView::Missing,
            RecordState::Unreadable(bad) => RecordView::Unreadable(bad.to_string()),
        },
        unchanged_for: seen.spec_unchanged_for(now),
        order: person_order(seen),
    }
}

/// An order that has no final answer yet.
fn person_order(seen: &LeaseSeen) -> Option<PersonOrder> {
    let note = OrderNote::parse(seen.annotations.get(ORDER_ANNOTATION)?).ok()?;
    let answered = seen
        .annotations
        .get(ORDER_RESULT_ANNOTATION)
        .and_then(|text| OrderResult::parse(text).ok());
    if answered.is_some_and(|a| a.id == note.id && a.state.is_final()) {
        return None;
    }
    let what = match (note.order, note.to) {
        (OrderKind::Switchover, to) => PersonWish::Switchover { to },
        (OrderKind::Failover, Some(to)) => PersonWish::Failover { to },
        (OrderKind::Adopt, Some(member)) => PersonWish::Adopt { member },
        (OrderKind::Pause, _) => PersonWish::Pause,
        (OrderKind::Resume, _) => PersonWish::Resume,
        // Refused by `OrderNote::parse`.
        (OrderKind::Failover | OrderKind::Adopt, None) => return None,
    };
    Some(PersonOrder {
        id: note.id.as_str().to_owned(),
        what,
    })
}

/// The local server as the core sees it.
#[must_use]
pub fn server_view(probe: &Probe) -> ServerView {
    match probe {
        Probe::Down { .. } => ServerView::Down,
        Probe::Starting { .. } | Probe::ShuttingDown { .. } => ServerView::NotAccepting,
        Probe::Full { .. } => ServerView::Full,
        Probe::AuthFailed { detail, advice, .. } => ServerView::LoginFailed {
            text: format!("{detail}; {advice}"),
        },
        Probe::Hung { .. } => ServerView::Hung,
        Probe::Broken { detail, .. } => ServerView::Broken { text: detail.clone() },
        Probe::Standby(view) => ServerView::Standby {
            receive: view.receive_lsn,
            replay: view.replay_lsn,
            timeline: Some(view.server.timeline),
            streaming: view.receiver.as_ref().is_some_and(|r| r.status == "streaming"),
        },
        Probe::Primary(view) => ServerView::Primary {
            insert: view.insert_lsn,
            timeline: view.server.timeline,
            names: view.names.clone(),
            rows: view.rows(),
            // Read-only by default is a person's choice; the disk is what is tested.
            wrote: view.health_write_ms.is_some() || view.read_only,
        },
    }
}

/// The lease engine's word for what the core wants.
#[must_use]
pub fn swap_kind(swap: &core::action::Swap) -> lease::SwapKind {
    match swap.kind {
        core::action::SwapKind::Renew => lease::SwapKind::Renew,
        core::action::SwapKind::Release => lease::SwapKind::Release,
        core::action::SwapKind::Claim(ClaimEvidence::NeverHeld) => {
            lease::SwapKind::Claim(lease::ClaimEvidence::NeverHeld)
        }
        core::action::SwapKind::Claim(ClaimEvidence::Released) => {
            lease::SwapKind::Claim(lease::ClaimEvidence::Released)
        }
        core::action::SwapKind::Claim(ClaimEvidence::Expired) => {
            lease::SwapKind::Claim(lease::ClaimEvidence::Expired)
        }
        core::action::SwapKind::Claim(ClaimEvidence::Dead | ClaimEvidence::Silent) => {
            lease::SwapKind::Claim(lease::ClaimEvidence::Early)
        }
        core::action::SwapKind::Claim(ClaimEvidence::WriteBack) => {
            lease::SwapKind::Repair { term: swap.term }
        }
    }
}

/// Whole milliseconds.
#[must_use]
pub fn millis(duration: Duration) -> Millis {
    Millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
