//! What this process knows of the Lease: the newest version, whichever way it came, never an older one again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::{Notify, watch};

use super::clock::LiveClock;
use super::seen::LeaseSeen;
use crate::core::types::Millis;

/// Versions of the watch that are remembered where versions cannot be compared.
const WATCHED_MAX: usize = 64;

/// Whether there is a Lease.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum LeaseState {
    /// The API server has not answered yet.
    #[default]
    Unknown,
    /// The API server says that there is none: damaged, and not an outage.
    Absent {
        /// When that was last known to be so (live clock).
        seen_at: Millis,
    },
    /// This version.
    Present(Arc<LeaseSeen>),
}

impl LeaseState {
    /// The Lease, if there is one.
    #[must_use]
    pub fn seen(&self) -> Option<&Arc<LeaseSeen>> {
        match self {
            Self::Present(seen) => Some(seen),
            Self::Unknown | Self::Absent { .. } => None,
        }
    }
}

/// Why the Lease could not be read of late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// HTTP status when the API server answered and refused (403: rights are missing); none when it was not reached.
    pub code: Option<u16>,
    /// For people.
    pub text: String,
    /// Since when (live clock).
    pub since: Millis,
}

/// Contact with the API server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contact {
    /// When it was last known to answer (live clock): when the question was asked, or when the watch brought something.
    pub answered_at: Option<Millis>,
    /// What is wrong with reading; none while it works.
    pub trouble: Option<Trouble>,
}

/// What this process knows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LeaseView {
    /// The Lease.
    pub state: LeaseState,
    /// The way to it.
    pub contact: Contact,
}

/// A question to the API server: what was known when it was asked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    accepted: u64,
    pub(super) asked_at: Millis,
}

/// What came, and how.
#[derive(Debug)]
pub(super) enum News {
    /// A consistent read; none: there is no Lease in this version of the collection.
    Listed(Question, Option<Lease>, String),
    /// An event of the watch.
    Watched(Lease),
    /// An event of the watch: deleted in this version.
    Deleted(String),
    /// The answer to an own PATCH.
    Patched(Question, Lease),
}

/// What became of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is what is known now.
    Accepted,
    /// Known already.
    Same,
    /// Older than what is known.
    Older,
}

/// Shared by the watcher, the swaps and the readers.
#[derive(Debug)]
pub(super) struct Store {
    clock: LiveClock,
    view: watch::Sender<LeaseView>,
    order: Mutex<Ordering>,
    /// Asks the watcher to read at once.
    pub(super) doubt: Notify,
}

/// Which of two versions is newer. Kubernetes' versions are numbers that grow; where they are not, the order of arrival
/// decides: an own PATCH's answer stands until the watch has shown it, or until a read asked after it.
#[derive(Debug, Default)]
struct Ordering {
    /// Version of what is known, of an absence too.
    version: Option<String>,
    /// Whether that is an absence.
    absent: bool,
    /// Counts what was accepted.
    accepted: u64,
    /// An own PATCH's version that the watch has not shown yet.
    unconfirmed: Option<String>,
    /// The last versions of the watch.
    watched: VecDeque<String>,
}

fn is_newer(version: &str, than: &str) -> Option<bool> {
    Some(version.parse::<u64>().ok()? > than.parse::<u64>().ok()?)
}

impl Ordering {
    fn judge(&mut self, news: &News) -> Verdict {
        let version = match news {
            News::Listed(_, Some(lease), _) | News::Watched(lease) | News::Patched(_, lease) => {
                lease.metadata.resource_version.clone().unwrap_or_default()
            }
            News::Listed(_, None, version) | News::Deleted(version) => version.clone(),
        };
        let verdict = match &self.version {
            None => Verdict::Accepted,
            Some(known) if *known == version => Verdict::Same,
            Some(known) => match (news, is_newer(&version, known)) {
                // Nothing came since it was asked: a consistent read is the truth, even if it is older (a restored etcd).
                (News::Listed(question, ..), _) if question.accepted == self.accepted => Verdict::Accepted,
                (_, Some(true)) => Verdict::Accepted,
                (_, Some(false)) | (News::Listed(..), None) => Verdict::Older,
                (News::Watched(_) | News::Deleted(_), None) if self.unconfirmed.is_some() => Verdict::Older,
                (News::Patched(..), None) if self.watched.contains(&version) => Verdict::Older,
                (_, None) => Verdict::Accepted,
            },
        };
        if !matches!(news, News::Patched(..)) && self.unconfirmed.as_ref() == Some(&version) {
            self.unconfirmed = None;
        }
        if matches!(news, News::Watched(_) | News::Deleted(_)) {
            self.watched.push_back(version.clone());
            let excess = self.watched.len().saturating_sub(WATCHED_MAX);
            self.watched.drain(..excess);
        }
        if verdict == Verdict::Accepted {
            let still_absent = self.absent && matches!(news, News::Listed(_, None, _));
            self.absent = matches!(news, News::Listed(_, None, _) | News::Deleted(_));
            self.unconfirmed = matches!(news, News::Patched(..)).then(|| version.clone());
            self.version = Some(version);
            if still_absent {
                // The collection has a new version each time, which is no news of the Lease.
                return Verdict::Same;
            }
            self.accepted += 1;
        }
        verdict
    }
}

impl Store {
    pub(super) fn new(clock: LiveClock) -> Self {
        Self {
            clock,
            view: watch::Sender::new(LeaseView::default()),
            order: Mutex::new(Ordering::default()),
            doubt: Notify::new(),
        }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<LeaseView> {
        self.view.subscribe()
    }

    /// To be called before a question is sent.
    pub(super) fn question(&self) -> Question {
        let order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        Question {
            accepted: order.accepted,
            asked_at: self.clock.now(),
        }
    }

    /// Takes in what came. Also counts as contact.
    pub(super) fn offer(&self, news: News) -> Verdict {
        // Held until the view is changed, so that two answers cannot pass each other in between.
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let known = order.version.clone();
        let verdict = order.judge(&news);
        let (seen_at, reading) = match &news {
            News::Listed(question, ..) => (question.asked_at, true),
            News::Patched(question, _) => (question.asked_at, false),
            News::Watched(_) | News::Deleted(_) => (now, true),
        };
        self.view.send_if_modified(|view| {
            let mut changed = reading && view.contact.trouble.take().is_some();
            view.contact.answered_at = view.contact.answered_at.max(Some(seen_at));
            match verdict {
                Verdict::Accepted => {
                    view.state = next_state(&view.state, news, now, seen_at);
                    changed = true;
                }
                // Only its age is new, which wakes nobody.
                Verdict::Same => refresh(&mut view.state, seen_at),
                Verdict::Older => {}
            }
            changed
        });
        if verdict == Verdict::Accepted
            && let (Some(before), Some(after)) = (known, &order.version)
            && is_newer(&before, after) == Some(true)
        {
            tracing::warn!(
                before,
                after,
                "the Lease went back to an older version: the API server's store was restored from a backup, or replaced"
            );
        }
        verdict
    }

    /// The API server showed that it is there, without news of the Lease.
    pub(super) fn heard(&self, at: Millis) {
        self.view.send_if_modified(|view| {
            view.contact.answered_at = view.contact.answered_at.max(Some(at));
            false
        });
    }

    /// Reading failed. What was known stays, and grows old.
    pub(super) fn trouble(&self, code: Option<u16>, text: String) {
        let now = self.clock.now();
        self.view.send_if_modified(|view| {
            let since = view.contact.trouble.as_ref().map_or(now, |t| t.since);
            let trouble = Some(Trouble { code, text, since });
            let changed = view.contact.trouble != trouble;
            view.contact.trouble = trouble;
            changed
        });
    }
}

fn next_state(before: &LeaseState, news: News, now: Millis, seen_at: Millis) -> LeaseState {
    let lease = match news {
        News::Listed(_, None, _) | News::Deleted(_) => return LeaseState::Absent { seen_at },
        News::Listed(_, Some(lease), _) | News::Watched(lease) | News::Patched(_, lease) => lease,
    };
    let mut seen = LeaseSeen::new(lease, now, seen_at);
    if let LeaseState::Present(before) = before
        && before.same_spec(&seen)
    {
        seen.spec_changed_at = before.spec_changed_at;
    }
    LeaseState::Present(Arc::new(seen))
}

fn refresh(state: &mut LeaseState, at: Millis) {
    match state {
        LeaseState::Unknown => {}
        LeaseState::Absent { seen_at } => *seen_at = (*seen_at).max(at),
        LeaseState::Present(seen) => {
            if at > seen.seen_at {
                Arc::make_mut(seen).seen_at = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(version: &str) -> Lease {
        let metadata = kube::api::ObjectMeta {
            resource_version: Some(version.to_owned()),
            ..Default::default()
        };
        Lease { metadata, spec: None }
    }

    fn store() -> Store {
        Store::new(LiveClock::with_source(|| Millis(0), Millis(200)))
    }

    fn listed(question: Question, version: &str) -> News {
        News::Listed(question, Some(lease(version)), "collection".to_owned())
    }

    #[test]
    fn numbers_never_go_back() {
        let store = store();
        let early = store.question();
        assert_eq!(store.offer(listed(early, "9")), Verdict::Accepted);
        assert_eq!(store.offer(News::Watched(lease("10"))), Verdict::Accepted);
        assert_eq!(store.offer(News::Watched(lease("10"))), Verdict::Same);
        assert_eq!(store.offer(News::Patched(early, lease("9"))), Verdict::Older);
        assert_eq!(store.offer(News::Watched(lease("9"))), Verdict::Older);
        // A read that was asked before what is known now arrived.
        assert_eq!(store.offer(listed(early, "9")), Verdict::Older);
        assert_eq!(store.offer(listed(early, "11")), Verdict::Accepted);
        // A late answer does not undo a deletion.
        assert_eq!(store.offer(News::Deleted("13".to_owned())), Verdict::Accepted);
        assert_eq!(store.offer(News::Patched(early, lease("12"))), Verdict::Older);
        assert!(matches!(
            store.subscribe().borrow().state,
            LeaseState::Absent { .. }
        ));
        // One that was asked after is the truth.
        assert_eq!(store.offer(listed(store.question(), "5")), Verdict::Accepted);
    }

    #[test]
    fn other_versions_go_by_arrival() {
        let store = store();
        let early = store.question();
        assert_eq!(store.offer(listed(early, "a")), Verdict::Accepted);
        // The answer to an own PATCH is ahead of the watch, until the watch has shown it.
        assert_eq!(store.offer(News::Patched(early, lease("c"))), Verdict::Accepted);
        assert_eq!(store.offer(News::Watched(lease("b"))), Verdict::Older);
        assert_eq!(store.offer(listed(early, "b")), Verdict::Older);
        assert_eq!(store.offer(News::Watched(lease("c"))), Verdict::Same);
        assert_eq!(store.offer(News::Watched(lease("d"))), Verdict::Accepted);
        // The watch is ahead of the answer.
        assert_eq!(store.offer(News::Watched(lease("e"))), Verdict::Accepted);
        assert_eq!(store.offer(News::Patched(early, lease("d"))), Verdict::Older);
        // A read that was asked after the last of them.
        assert_eq!(store.offer(News::Patched(early, lease("f"))), Verdict::Accepted);
        assert_eq!(store.offer(listed(store.question(), "f")), Verdict::Same);
        assert_eq!(store.offer(News::Watched(lease("g"))), Verdict::Accepted);
        assert_eq!(store.offer(News::Watched(lease("h"))), Verdict::Accepted);
    }
}
