//! Which decisions become Kubernetes events: those that people would ask about.

use crate::core::decide::Decision;
use crate::core::phase::Phase;
use crate::kubernetes::events::{EventKind, EventNote};

/// The event of a change of phase; none: nothing that people ask about.
#[must_use]
pub fn of(before: Phase, decision: &Decision) -> Option<EventNote> {
    let after = decision.phase;
    if before == after {
        return None;
    }
    let (kind, reason, action) = match (before, after) {
        (Phase::Taking, Phase::Leading) => (EventKind::Normal, "NewPrimary", "Promote"),
        (Phase::Initialising, Phase::Leading) => (EventKind::Normal, "Initialised", "Initialise"),
        (_, Phase::Taking) => (EventKind::Normal, "TakingOver", "Claim"),
        (_, Phase::HandingOver) => (EventKind::Normal, "HandingOver", "StepDown"),
        (_, Phase::Rejoining) => (EventKind::Normal, "Rejoining", "Rejoin"),
        (_, Phase::Damaged) => (EventKind::Warning, "LeaseDamaged", "Wait"),
        (_, Phase::Stranded) => (EventKind::Warning, "Stranded", "Wait"),
        _ => return None,
    };
    Some(EventNote {
        kind,
        reason: reason.to_owned(),
        action: action.to_owned(),
        note: decision.why.to_string(),
    })
}
