//! What can be made to go wrong between a client and the store.

use super::lock;
use super::status::ApiError;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::sync::watch;

/// A lost answer is held back no longer than this; then its connection is closed.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);

/// How a user is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Requests, answers and watches stand still, as in a partition that drops packets; they go on afterwards
    /// for clients that still wait. (Connecting itself still works: the user is known by the request only.)
    Silent,
    /// Connections are closed as soon as they are known to be this user's, as with packets rejected.
    Closed,
}

/// Who is cut off now.
#[derive(Clone, Debug, Default)]
pub(super) struct Cuts {
    everyone: Option<Cut>,
    users: BTreeMap<String, Cut>,
}

impl Cuts {
    pub(super) fn of(&self, user: &str) -> Option<Cut> {
        self.everyone.or_else(|| self.users.get(user).copied())
    }
}

/// The faults in force.
#[derive(Debug)]
pub(super) struct Faults {
    cuts: watch::Sender<Cuts>,
    latency: Mutex<Duration>,
    failing: Mutex<(usize, u16)>,
    dropping: Mutex<Vec<(String, String)>>,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self {
            cuts: watch::Sender::new(Cuts::default()),
            latency: Mutex::new(Duration::ZERO),
            failing: Mutex::new((0, 0)),
            dropping: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn cut_everyone(&self, cut: Option<Cut>) {
        self.cuts.send_modify(|c| c.everyone = cut);
    }

    pub(super) fn cut_user(&self, user: &str, cut: Option<Cut>) {
        self.cuts.send_modify(|c| {
            match cut {
                Some(cut) => c.users.insert(user.to_owned(), cut),
                None => c.users.remove(user),
            };
        });
    }

    pub(super) fn cuts(&self) -> watch::Receiver<Cuts> {
        self.cuts.subscribe()
    }

    /// Waits until the user is not cut off. (A closed cut ends the connection, and this wait with it.)
    pub(super) async fn pass(&self, user: &str) {
        // The sender lives in `self`, so the only error (it is gone) cannot come.
        let _ = self
            .cuts
            .subscribe()
            .wait_for(|cuts| cuts.of(user).is_none())
            .await;
    }

    pub(super) fn set_latency(&self, latency: Duration) {
        *lock(&self.latency) = latency;
    }

    pub(super) async fn delay(&self) {
        let latency = *lock(&self.latency);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    pub(super) fn fail_next(&self, count: usize, code: u16) {
        *lock(&self.failing) = (count, code);
    }

    pub(super) fn failure(&self) -> Result<(), ApiError> {
        let mut failing = lock(&self.failing);
        if failing.0 == 0 {
            return Ok(());
        }
        failing.0 -= 1;
        Err(ApiError::injected(failing.1))
    }

    pub(super) fn drop_reply_next(&self, verb: &str, kind: &str) {
        lock(&self.dropping).push((verb.to_owned(), kind.to_owned()));
    }

    /// Whether the answer to this request is to be lost. Asked once per request: it uses the fault up.
    pub(super) fn loses_reply(&self, verb: &str, names: [&str; 2]) -> bool {
        let mut dropping = lock(&self.dropping);
        let hit = dropping
            .iter()
            .position(|(v, k)| v == verb && names.iter().any(|n| n.eq_ignore_ascii_case(k)));
        hit.is_some_and(|i| {
            dropping.remove(i);
            true
        })
    }

    /// The answer that never comes: the client gives up first.
    pub(super) async fn silence() {
        tokio::time::sleep(LONGEST_SILENCE).await;
    }
}
