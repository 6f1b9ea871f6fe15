//! What is known of the other members: their answers, what came instead, and who introduced itself.

use super::sight::Sight;
use crate::core::observe::{PeerReport, Promised};
use crate::core::record::Evidence;
use crate::core::types::{Address, MemberName, Term};
use crate::peers::{NOT_AUTHENTIC, People};

/// Source of the warning about members that refuse each other's messages.
const STRANGERS: &str = "peers";

impl Sight {
    /// Takes in an answer, or what came instead.
    pub(super) fn note_peer(&mut self, member: MemberName, answer: Result<Evidence<PeerReport>, String>) {
        match answer {
            Ok(report) => {
                self.peer_trouble.remove(&member);
                self.note_clock(&member, report.value.wall_ms);
                self.peers.insert(member, report);
            }
            Err(why) => {
                self.peer_trouble.insert(member, why);
            }
        }
        self.note_strangers();
    }

    /// Takes in a promise; only the newest of each member counts.
    pub(super) fn note_promise(&mut self, member: MemberName, promised: Promised) {
        self.promises.insert(member, promised);
    }

    /// Takes in what a member that has just answered says for people; none: its version says nothing.
    pub(super) fn note_people(&mut self, member: MemberName, people: Option<People>) {
        match people {
            Some(people) => {
                self.people.insert(member, people);
            }
            None => {
                self.people.remove(&member);
            }
        }
    }

    /// Members that refuse each other's messages look as if they were away: said once, and not only in the list of peers.
    fn note_strangers(&mut self) {
        let refuse = self
            .peer_trouble
            .iter()
            .filter(|(_, why)| why.contains(NOT_AUTHENTIC));
        let names: Vec<&str> = refuse.map(|(member, _)| member.as_str()).collect();
        if names.is_empty() {
            self.warnings.remove(STRANGERS);
            return;
        }
        let text = format!(
            "{} and this member do not hear each other: {NOT_AUTHENTIC}; give all members the same, and during a rotation the former one as REPLICATION_PASSWORD_PREVIOUS. Until then nobody here has their pledge or answer",
            names.join(", ")
        );
        self.note_warning(STRANGERS, text);
    }

    /// Takes in who asked, and the term that it told.
    pub(super) fn note_asker(&mut self, member: MemberName, address: Address, leads: Option<Term>) {
        if self.introduced.len() < 64 || self.introduced.contains_key(&member) {
            self.introduced.insert(member, address);
        }
        self.told_term = self.told_term.max(leads);
    }
}
