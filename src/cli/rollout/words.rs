//! The plan in words.

use std::fmt::Write as _;

use crate::core::record::Durability;
use crate::core::rollout::{Goal, Outdated, Seen, Step, Why, notes};
use crate::core::types::MemberName;

/// Changes of a template that are listed; of more their number is said.
const SHOWN_CHANGES: usize = 4;

/// Head, steps in order, and what they mean for clients.
pub(super) fn plan(name: &str, goal: &Goal, seen: &Seen, steps: &[Step]) -> String {
    let durability = match seen.record.durability {
        Durability::Sync => "sync",
        Durability::Async => "async",
    };
    let primary = seen.primary().map_or("nobody", MemberName::as_str);
    let term = seen.record.term;
    let mut text = format!("rollout of {name} ({durability}, term {term}, primary {primary}):\n");
    for (number, step) in steps.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "  {}. {}", number + 1, self::step(step));
    }
    for note in notes(goal, seen, steps) {
        let _ = writeln!(text, "{note}");
    }
    text
}

fn step(step: &Step) -> String {
    match step {
        Step::Renew { member, why, .. } => format!("{member}: a new pod: {}", self::why(why)),
        Step::Switchover { from, to } => format!("switchover from {from} to {to}"),
    }
}

fn why(why: &Why) -> String {
    match why {
        Why::Asked => "asked for (--restart)".to_owned(),
        Why::Outdated(Outdated::Unknown(why)) => why.clone(),
        Why::Outdated(Outdated::Changed(changes)) => {
            let more = changes.len().saturating_sub(SHOWN_CHANGES);
            let mut text = changes[..changes.len() - more].join("; ");
            if more > 0 {
                let _ = write!(text, "; and {more} more");
            }
            text
        }
    }
}

/// `postgres-1, postgres-2`, each once.
pub(super) fn names<'a>(members: impl IntoIterator<Item = &'a MemberName>) -> String {
    let mut names: Vec<&str> = Vec::new();
    for member in members {
        if !names.contains(&member.as_str()) {
            names.push(member.as_str());
        }
    }
    names.join(", ")
}
