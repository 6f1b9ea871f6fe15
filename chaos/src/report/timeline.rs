//! A takeover's phases from the clients' last acknowledgement before it to their first one after it: what the new primary recorded, and what lies
//! before and behind that.

use std::ops::Range;

use pgbaton::core::record::HistoryEntry;

/// Until there was a sign that the primary is gone (for a handover: until the Lease was free).
pub const SIGN: &str = "sign";
/// From the promotion until a client's write was acknowledged: the server's first standby streams again, and clients found it.
pub const FIRST_WRITE: &str = "first write";

/// Phases in milliseconds, in order; `outage` in milliseconds since 1970. The member's wall clock and the clients' must be the same one, so what
/// would be negative is left out. `service` is done beside the first write: existing connections of clients may be served before it.
#[must_use]
pub fn phases(entry: &HistoryEntry, outage: &Range<u64>) -> Vec<(String, u64)> {
    let spent = |until: &str| {
        let place = entry.phases.iter().position(|(name, _)| name == until)?;
        let spans = entry.phases[..=place].iter();
        Some(spans.map(|(_, ms)| *ms).sum::<u64>())
    };
    // The swap that installed it was sent when enough had pledged.
    let Some(to_pledges) = spent("pledges") else {
        return entry.phases.clone();
    };
    let began = entry.at_unix_ms.saturating_sub(to_pledges);
    let sign = began.checked_sub(outage.start);
    let promoted = spent("promote").map(|all| began + all);
    let first_write = promoted.and_then(|at| outage.end.checked_sub(at));
    let mut all: Vec<(String, u64)> = Vec::new();
    all.extend(sign.map(|ms| (SIGN.to_owned(), ms)));
    all.extend(entry.phases.iter().cloned());
    all.extend(first_write.map(|ms| (FIRST_WRITE.to_owned(), ms)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgbaton::core::types::{Lsn, Term};

    fn entry(phases: &[(&str, u64)]) -> HistoryEntry {
        HistoryEntry {
            term: Term(2),
            member: "postgres-2".parse().unwrap(),
            why: String::new(),
            at_unix_ms: 10_000,
            lsn: Lsn(1),
            phases: phases
                .iter()
                .map(|(name, ms)| ((*name).to_owned(), *ms))
                .collect(),
        }
    }

    fn shown(phases: &[(&str, u64)], outage: &Range<u64>) -> String {
        let all = super::phases(&entry(phases), outage);
        let words = all.iter().map(|(name, ms)| format!("{name} {ms}"));
        words.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_lies_before_the_first_sign_and_behind_the_promotion_is_told() {
        let takeover = [
            ("claim", 100),
            ("pledges", 40),
            ("promote", 160),
            ("verify", 10),
            ("service", 20),
        ];
        assert_eq!(
            shown(&takeover, &(9_800..10_200)),
            "sign 60, claim 100, pledges 40, promote 160, verify 10, service 20, first write 40"
        );
        // Clocks that differ, or a longer gap elsewhere in the window.
        assert_eq!(
            shown(&takeover, &(9_900..10_100)),
            "claim 100, pledges 40, promote 160, verify 10, service 20"
        );
        assert_eq!(shown(&[], &(0..1)), "");
    }
}
