//! Promises to a leader's heartbeats (DESIGN.md section 6): given by the task that answers peers, kept by the loop.
//!
//! Both run on one thread, and what may be promised is set in the very step that decides: between a claim that is decided and its
//! sending no promise can slip in.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::core::observe::Promise;
use crate::core::types::{DataId, Millis, Term};
use crate::peers::{Heartbeat, random};

/// For how long a challenge is told; the one before counts as long again.
const CHALLENGE_LIFE: Millis = Millis(5_000);

/// What may be promised, and what was.
#[derive(Debug, Clone, Default)]
pub struct Promises(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    may: Option<(Term, DataId)>,
    until: Option<Millis>,
    challenge: String,
    before: String,
    made_at: Option<Millis>,
}

impl Promises {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this term's leader may be promised to claim nothing, with this data here; none: nobody.
    pub fn allow(&self, may: Option<(Term, DataId)>) {
        self.inner().may = may;
    }

    /// Until when this member is bound, live clock.
    #[must_use]
    pub fn until(&self) -> Option<Millis> {
        self.inner().until
    }

    /// The challenge that the next heartbeat must repeat. Empty when the system gives no random bytes: then nothing is promised.
    #[must_use]
    pub fn challenge(&self, now: Millis) -> String {
        let mut inner = self.inner();
        let old = inner.made_at.is_none_or(|at| now.since(at) >= CHALLENGE_LIFE);
        if old {
            // One that was made long ago, with nobody asking since, is as old as any.
            let lately = inner
                .made_at
                .is_some_and(|at| now.since(at).0 < 2 * CHALLENGE_LIFE.0);
            let former = std::mem::take(&mut inner.challenge);
            inner.before = if lately { former } else { String::new() };
            inner.challenge = random().unwrap_or_default();
            inner.made_at = Some(now);
        }
        inner.challenge.clone()
    }

    /// Promises to claim nothing for `length` from `now` (live clock), if that may be promised to this heartbeat.
    #[must_use]
    pub fn give(&self, heartbeat: &Heartbeat, now: Millis, length: Millis) -> Option<Promise> {
        let mut inner = self.inner();
        let fresh = inner
            .made_at
            .is_some_and(|at| now.since(at).0 < 2 * CHALLENGE_LIFE.0);
        let told = &heartbeat.challenge;
        let known = !told.is_empty() && (*told == inner.challenge || *told == inner.before);
        let (term, data_id) = inner.may.clone().filter(|(term, _)| *term == heartbeat.term)?;
        if !fresh || !known {
            return None;
        }
        inner.until = inner.until.max(Some(now.plus(length)));
        Some(Promise {
            term,
            data_id,
            for_ms: length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Millis = Millis(8_000);

    fn asks(term: u64, challenge: &str) -> Heartbeat {
        Heartbeat {
            term: Term(term),
            challenge: challenge.to_owned(),
        }
    }

    fn allowing(term: u64) -> Promises {
        let promises = Promises::default();
        promises.allow(Some((Term(term), DataId::from_random([1; 8]))));
        promises
    }

    #[test]
    fn a_promise_binds_from_the_moment_it_is_given() {
        let promises = allowing(3);
        let challenge = promises.challenge(Millis(1_000));
        assert_eq!(promises.until(), None);
        let given = promises.give(&asks(3, &challenge), Millis(1_100), P).unwrap();
        assert_eq!((given.term, given.for_ms), (Term(3), P));
        assert_eq!(promises.until(), Some(Millis(9_100)));
        // What was promised stays promised when nothing may be promised any more.
        promises.allow(None);
        assert_eq!(promises.give(&asks(3, &challenge), Millis(1_200), P), None);
        assert_eq!(promises.until(), Some(Millis(9_100)));
    }

    #[test]
    fn only_the_term_that_is_followed_is_promised_anything() {
        let promises = allowing(3);
        let challenge = promises.challenge(Millis(1_000));
        for term in [2, 4] {
            assert_eq!(promises.give(&asks(term, &challenge), Millis(1_000), P), None);
        }
        assert_eq!(promises.until(), None);
    }

    #[test]
    fn an_old_heartbeat_sent_again_binds_nobody() {
        let promises = allowing(3);
        assert_eq!(
            promises.give(&asks(3, ""), Millis(900), P),
            None,
            "no challenge was told yet"
        );
        let first = promises.challenge(Millis(1_000));
        let second = promises.challenge(Millis(6_000));
        assert_ne!(first, second);
        assert!(
            promises.give(&asks(3, &first), Millis(6_100), P).is_some(),
            "told just before"
        );
        let third = promises.challenge(Millis(11_000));
        assert_eq!(promises.give(&asks(3, &first), Millis(11_000), P), None);
        assert!(promises.give(&asks(3, &second), Millis(11_000), P).is_some());
        // Nobody asked for long: neither of them counts, whoever repeats it.
        for old in [&second, &third] {
            assert_eq!(promises.give(&asks(3, old), Millis(21_000), P), None);
        }
        let _ = promises.challenge(Millis(30_000));
        assert_eq!(promises.give(&asks(3, &third), Millis(30_000), P), None);
    }
}
