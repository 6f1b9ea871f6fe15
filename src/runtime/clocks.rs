//! Whether the members' wall clocks agree. Nothing is decided by them (leases and permits count on clocks that only run forward, each
//! on its own machine), but people read times in logs, Events and the record, and certificates and tokens end by them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::sight::Sight;
use crate::core::types::MemberName;

/// Source of the warning.
pub const CLOCKS: &str = "clocks";
/// Members whose clocks differ by more are told of.
const APART_MS: u64 = 30_000;
/// So many answers in a row must say so: one may have lain about while this process stood still.
const ANSWERS: u32 = 3;

/// The wall clock, milliseconds since 1970.
#[must_use]
pub fn wall_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0)
}

/// Members whose clocks are apart: by how much they were last, and in how many answers in a row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clocks {
    apart: BTreeMap<MemberName, (i128, u32)>,
}

impl Clocks {
    /// Takes in a member's clock, read just now.
    pub fn note(&mut self, member: &MemberName, theirs_ms: u64, mine_ms: u64) {
        if theirs_ms.abs_diff(mine_ms) <= APART_MS {
            self.apart.remove(member);
            return;
        }
        let ahead = i128::from(theirs_ms) - i128::from(mine_ms);
        let (last, answers) = self.apart.entry(member.clone()).or_default();
        *last = ahead;
        *answers = answers.saturating_add(1);
    }

    /// The greatest difference that was told again and again, in milliseconds; 0: they agree.
    #[must_use]
    pub fn apart_ms(&self) -> u64 {
        let told = self.apart.values().filter(|(_, answers)| *answers >= ANSWERS);
        let most = told.map(|(ahead, _)| ahead.unsigned_abs()).max().unwrap_or(0);
        u64::try_from(most).unwrap_or(u64::MAX)
    }

    /// For people; empty: they agree.
    #[must_use]
    pub fn warning(&self) -> String {
        let mut text = String::new();
        for (member, (ahead, answers)) in &self.apart {
            if *answers < ANSWERS {
                continue;
            }
            let way = if *ahead > 0 { "ahead of" } else { "behind" };
            // Writing to a string cannot fail. In steps of 10 s: a text that changes with each answer is no news.
            let _ = write!(
                text,
                "the clock of {member} is about {} s {way} this member's; ",
                (ahead.unsigned_abs() + 5_000) / 10_000 * 10
            );
        }
        if !text.is_empty() {
            text.push_str(
                "no decision depends on it, but times in logs, Events and `pgbaton history` mislead: check time synchronisation (NTP) \
                 on the nodes",
            );
        }
        text
    }
}

impl Sight {
    /// Takes in the clock of a member that has just answered; none: its version does not tell.
    pub(super) fn note_clock(&mut self, member: &MemberName, theirs_ms: Option<u64>) {
        let Some(theirs_ms) = theirs_ms else { return };
        self.clocks.note(member, theirs_ms, wall_ms());
        let text = self.clocks.warning();
        self.note_warning(CLOCKS, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::fixtures::name;

    const NOW: u64 = 1_767_323_045_000;

    #[test]
    fn clocks_that_are_apart_again_and_again_are_told_with_the_seconds() {
        let mut clocks = Clocks::default();
        for theirs in [NOW + 30_000, NOW - 30_000, NOW] {
            for _ in 0..5 {
                clocks.note(&name(2), theirs, NOW);
            }
            assert_eq!(clocks.warning(), "");
        }
        for _ in 0..2 {
            clocks.note(&name(2), NOW + 304_000, NOW);
            assert_eq!(clocks.warning(), "", "an answer may be old");
            assert_eq!(clocks.apart_ms(), 0);
        }
        clocks.note(&name(2), NOW + 304_100, NOW);
        let text = clocks.warning();
        assert!(
            text.starts_with("the clock of postgres-2 is about 300 s ahead"),
            "{text}"
        );
        for _ in 0..3 {
            clocks.note(&name(3), NOW - 40_000, NOW);
        }
        assert!(clocks.warning().contains("postgres-3 is about 40 s behind"));
        assert_eq!(clocks.apart_ms(), 304_100);
        clocks.note(&name(2), NOW + 1, NOW);
        clocks.note(&name(3), 0, NOW);
        assert!(!clocks.warning().contains("postgres-2"));
        clocks.note(&name(3), NOW, NOW);
        assert_eq!(clocks, Clocks::default());
    }

    #[test]
    fn a_member_that_does_not_tell_its_clock_is_not_judged() {
        let mut sight = Sight::new();
        for _ in 0..5 {
            sight.note_clock(&name(2), None);
            sight.note_clock(&name(3), Some(0));
        }
        let told = &sight.warnings[CLOCKS];
        assert!(
            told.contains("postgres-3") && !told.contains("postgres-2"),
            "{told}"
        );
    }
    #[tokio::test]
    async fn a_member_tells_its_clock_as_it_is_when_it_answers() {
        use crate::core::observe::PeerReport;
        use crate::guard::protocol::Secret;
        use crate::peers::{Keys, MAC_HEADER, PEERS_VERSION};
        let keys = Keys::derive(&Secret("secret".into()), None);
        let mut report: PeerReport = crate::runtime::fixtures::standby(2);
        report.wall_ms = Some(1);
        let (inputs, _queue) = tokio::sync::mpsc::channel(1);
        let answering = crate::runtime::Answering::plain(keys.clone(), "ns/postgres", report, inputs);
        let handler = crate::runtime::peer_handler(answering);
        let question = serde_json::json!({
            "version": PEERS_VERSION, "nonce": "n", "member": "postgres-1", "cluster": "ns/postgres", "leads": null,
            "address": crate::runtime::fixtures::address(1),
        });
        let body = serde_json::to_vec(&question).unwrap();
        let key = keys.all().next().unwrap();
        let mut headers = http::HeaderMap::new();
        headers.insert(MAC_HEADER, key.sign_question(&body).parse().unwrap());
        let before = wall_ms();
        let (code, headers, answer) = handler(body.into(), headers).await;
        assert_eq!(code, http::StatusCode::OK);
        let mac = headers[MAC_HEADER].to_str().unwrap();
        let report = key.read_answer("ns/postgres", "n", mac, &answer).unwrap().report;
        assert!((before..=wall_ms()).contains(&report.wall_ms.unwrap()));
    }
}
