//! What the loop knows beside the Lease, between two decisions.

use std::collections::{BTreeMap, BTreeSet};

use super::preflight::Rights;
use super::unguarded::Unguarded;
use super::words::{log_outcome, stripped};
use crate::core::adoption::Survey;
use crate::core::observe::{GuardView, HolderSight, Lanes, Outcome, PeerReport, Promised};
use crate::core::probe::Probe;
use crate::core::record::Evidence;
use crate::core::types::{Address, MemberName, Term};
use crate::guard::protocol::Status;
use crate::peers::People;

/// What the loop knows beside the Lease.
#[derive(Debug)]
pub struct Sight {
    /// The guard.
    pub guard: GuardView,
    /// Why it cannot be reached.
    pub guard_trouble: String,
    /// The last look at the local server.
    pub probe: Option<Evidence<Probe>>,
    /// The last good answers of peers.
    pub peers: BTreeMap<MemberName, Evidence<PeerReport>>,
    /// Members whose wall clock is apart from this one's.
    pub clocks: super::clocks::Clocks,
    /// What came instead of the last answer.
    pub peer_trouble: BTreeMap<MemberName, String>,
    /// What they last said of themselves for people.
    pub people: BTreeMap<MemberName, People>,
    /// Where members can be asked that the record does not know yet.
    pub introduced: BTreeMap<MemberName, Address>,
    /// Warnings by source.
    pub warnings: BTreeMap<&'static str, String>,
    /// Read-write servers of this cluster without a guard, in words.
    pub unguarded: Vec<Unguarded>,
    /// This account's rights.
    pub rights: Rights,
    /// What the servers of the namespace are.
    pub survey: Survey,
    pub(super) told_term: Option<Term>,
    pub(super) holder: Option<HolderSight>,
    pub(super) promises: BTreeMap<MemberName, Promised>,
    pub(super) lanes: Lanes,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) service_points_to: Option<(Term, Option<MemberName>)>,
    pub(super) service_term: Option<Term>,
    pub(super) answered: BTreeSet<String>,
    /// The process was told to end.
    pub terminating: bool,
}

impl Sight {
    pub(super) fn new() -> Self {
        Self {
            guard: GuardView::Unknown,
            guard_trouble: String::new(),
            probe: None,
            peers: BTreeMap::new(),
            clocks: super::clocks::Clocks::default(),
            peer_trouble: BTreeMap::new(),
            people: BTreeMap::new(),
            introduced: BTreeMap::new(),
            warnings: BTreeMap::new(),
            unguarded: Vec::new(),
            rights: Rights::default(),
            survey: Survey::NotYet,
            told_term: None,
            holder: None,
            promises: BTreeMap::new(),
            lanes: Lanes::default(),
            outcomes: Vec::new(),
            service_points_to: None,
            service_term: None,
            answered: BTreeSet::new(),
            terminating: false,
        }
    }

    /// Feeds an outcome that did not come through the queue.
    pub fn note_outcome(&mut self, outcome: Outcome) {
        log_outcome(&outcome);
        self.outcomes.push(outcome);
    }

    /// A source has this to say; empty: all is well with it. Logged when it is news: the same with other numbers is none.
    pub(super) fn note_warning(&mut self, source: &'static str, text: String) {
        if text.is_empty() {
            self.warnings.remove(source);
            return;
        }
        let is_news = self
            .warnings
            .get(source)
            .is_none_or(|old| stripped(old) != stripped(&text));
        if is_news {
            tracing::warn!(source, "{text}");
        }
        self.warnings.insert(source, text);
    }

    /// An order to the guard is under way.
    #[must_use]
    pub fn guard_is_busy(&self) -> bool {
        self.lanes.guard
    }

    /// An order to the guard was given.
    pub fn guard_was_ordered(&mut self) {
        self.lanes.guard = true;
    }

    /// The guard's last word while it can be reached.
    #[must_use]
    pub fn status(&self) -> Option<&Evidence<Status>> {
        match &self.guard {
            GuardView::Heard(status) => Some(status),
            GuardView::Unknown | GuardView::Lost { .. } => None,
        }
    }

    /// Takes in what was found at the holder's door. True when its ports have begun to refuse.
    pub(super) fn note_holder(&mut self, found: HolderSight) -> bool {
        let refused = |sight: &HolderSight| sight.refused.is_some();
        let news = refused(&found) && !self.holder.as_ref().is_some_and(refused);
        self.holder = Some(found);
        news
    }
}
