//! What a member says of itself for people, beside its report: for the live page of the others. Nothing is decided by it, and the core
//! never sees it. Versioned and bounded by itself: one that cannot be read takes nothing from the answer that it came with.

use serde::{Deserialize, Serialize};

use crate::core::orders::clipped;

/// Version of this part; another one is not shown.
const PEOPLE_VERSION: u32 = 1;
/// Most warnings told.
const WARNINGS_MAX: usize = 8;
/// Longest text, in bytes; longer ones are cut.
const TEXT_MAX: usize = 400;
/// Longest name of a phase, code or heading, in bytes.
const NAME_MAX: usize = 60;

/// One thing that a person should look at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// What, and what to do.
    pub text: String,
    /// Heading of the runbook.
    pub see: String,
}

/// A member's words for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct People {
    /// `PEOPLE_VERSION`.
    version: u32,
    /// State of its decisions.
    pub phase: String,
    /// Why: the code.
    pub code: String,
    /// Why: the words.
    pub why: String,
    /// What it warns of.
    pub warnings: Vec<Said>,
}

impl People {
    /// Of this version, bounded.
    #[must_use]
    pub fn new(phase: &str, code: &str, why: &str, warnings: Vec<Said>) -> Self {
        Self {
            version: PEOPLE_VERSION,
            phase: phase.to_owned(),
            code: code.to_owned(),
            why: why.to_owned(),
            warnings,
        }
        .bounded()
    }

    /// As told by another member, bounded again: it may be of another build. None: nothing to show.
    #[must_use]
    pub fn read(told: serde_json::Value) -> Option<Self> {
        let read: Self = serde_json::from_value(told).ok()?;
        (read.version == PEOPLE_VERSION).then(|| read.bounded())
    }

    fn bounded(mut self) -> Self {
        self.phase = clipped(&self.phase, NAME_MAX);
        self.code = clipped(&self.code, NAME_MAX);
        self.why = clipped(&self.why, TEXT_MAX);
        self.warnings.truncate(WARNINGS_MAX);
        for said in &mut self.warnings {
            said.text = clipped(&said.text, TEXT_MAX);
            said.see = clipped(&said.see, NAME_MAX);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_on_both_sides() {
        let said = Said {
            text: "x".repeat(100_000),
            see: "y".repeat(100_000),
        };
        let long = "z".repeat(100_000);
        let told = People::new(&long, &long, &long, vec![said.clone(); 500]);
        let bytes = serde_json::to_vec(&told).unwrap().len();
        assert!(bytes < 6_000, "{bytes}");
        let unbounded = serde_json::json!({
            "version": 1, "phase": long, "code": "c", "why": long, "warnings": vec![said; 500], "new in a later build": {},
        });
        let read = People::read(unbounded).unwrap();
        assert!(serde_json::to_vec(&read).unwrap().len() < 6_000);
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_is_bounded(phase in ".{0,300}", why in ".{0,3000}", count in 0_usize..100) {
            let said = serde_json::json!({ "text": why, "see": phase });
            let told = serde_json::json!({
                "version": 1, "phase": phase, "code": phase, "why": why, "warnings": vec![said; count],
            });
            let read = People::read(told).unwrap();
            proptest::prop_assert!(read.why.len() <= TEXT_MAX && read.warnings.len() <= WARNINGS_MAX);
            // With room for the rest of an answer, however its text must be written.
            proptest::prop_assert!(serde_json::to_vec(&read).unwrap().len() < crate::peers::MESSAGE_MAX / 2);
        }
    }

    #[test]
    fn what_is_of_another_version_or_shape_is_not_shown() {
        let good = serde_json::to_value(People::new("leading", "leading", "leads", Vec::new())).unwrap();
        assert!(People::read(good.clone()).is_some());
        let mut newer = good;
        newer["version"] = 2.into();
        for bad in [
            newer,
            serde_json::json!(null),
            serde_json::json!([1]),
            serde_json::json!({}),
        ] {
            assert_eq!(People::read(bad.clone()), None, "{bad}");
        }
    }
}
