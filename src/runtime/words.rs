//! What the loop logs.

use crate::core::decide::Decision;
use crate::core::observe::{Observation, Outcome};

/// One line a decision that differs from the last one.
pub(super) fn log_decision(decision: &Decision, seen: &Observation, last: &mut Option<String>) {
    let why = decision.why.to_string();
    let line = format!("{:?}: {}", decision.phase, stripped(&why));
    if last.as_ref() != Some(&line) {
        tracing::info!(phase = ?decision.phase, why, "decided");
        *last = Some(line);
    }
    tracing::debug!(
        state = serde_json::to_string(&decision.state).unwrap_or_default(),
        seen = serde_json::to_string(seen).unwrap_or_default(),
        actions = serde_json::to_string(&decision.actions).unwrap_or_default(),
        "decision"
    );
}

/// Without its numbers: a count of milliseconds is no news.
pub(super) fn stripped(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

/// One line for how an action ended.
pub(super) fn log_outcome(outcome: &Outcome) {
    use crate::core::observe::SwapResult;
    match outcome {
        Outcome::Swap { kind, result, .. } => match result {
            SwapResult::Done(_) => tracing::debug!(?kind, "swapped the Lease"),
            SwapResult::Lost => tracing::info!(?kind, "the Lease was changed by another first"),
            SwapResult::Refused(why) => tracing::warn!(?kind, why, "the swap of the Lease was refused"),
            SwapResult::Unknown(why) => tracing::warn!(?kind, why, "the outcome of a swap is not known"),
        },
        Outcome::Guard {
            order,
            error: Some(error),
        } => tracing::warn!(?order, error, "the guard did not do it"),
        Outcome::GuardBusy { order, reason } => tracing::info!(?order, reason, "the guard did not begin it"),
        Outcome::Guard { order, error: None } => tracing::info!(?order, "the guard did it"),
        Outcome::Sql {
            job,
            error: Some(error),
        } => tracing::warn!(?job, error, "the statement failed"),
        Outcome::Sql { job, error: None } => tracing::info!(?job, "the statement is done"),
    }
}
