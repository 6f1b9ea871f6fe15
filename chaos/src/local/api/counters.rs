//! Who asked for what how often: the project promises few requests at rest, so they are counted here.

use super::lock;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestKey {
    /// User; empty when the token belonged to nobody.
    pub user: String,
    /// `get`, `list`, `create`, `update`, `patch`, `delete`.
    pub verb: &'static str,
    /// Plural name (`leases`), `leases/status` for a subresource, `selfsubjectaccessreviews`, or `other`.
    pub resource: String,
}

/// Watches of one user on one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watches {
    /// How many were opened since the start.
    pub opened: u64,
    /// How many are open now.
    pub open: u64,
}

/// The counters at one moment. Watches are not among the requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Requests that arrived, also those that were refused.
    pub requests: BTreeMap<RequestKey, u64>,
    /// Watches by (user, plural name).
    pub watches: BTreeMap<(String, String), Watches>,
}

impl Requests {
    /// All requests of a user, watches not counted.
    #[must_use]
    pub fn of(&self, user: &str) -> u64 {
        self.requests
            .iter()
            .filter(|(k, _)| k.user == user)
            .map(|(_, n)| n)
            .sum()
    }

    /// Requests of a user with this verb on this resource.
    #[must_use]
    pub fn count(&self, user: &str, verb: &str, resource: &str) -> u64 {
        let same = |k: &RequestKey| k.user == user && k.verb == verb && k.resource == resource;
        self.requests
            .iter()
            .filter(|(k, _)| same(k))
            .map(|(_, n)| n)
            .sum()
    }

    /// Watches that a user opened, and those open now, over all resources.
    #[must_use]
    pub fn watches_of(&self, user: &str) -> Watches {
        let of_user = self.watches.iter().filter(|((u, _), _)| u == user);
        of_user.fold(Watches::default(), |sum, (_, w)| Watches {
            opened: sum.opened + w.opened,
            open: sum.open + w.open,
        })
    }

    /// What came since an earlier snapshot (`open` stays what it is now).
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut new = self.clone();
        for (key, count) in &mut new.requests {
            *count = count.saturating_sub(earlier.requests.get(key).copied().unwrap_or_default());
        }
        new.requests.retain(|_, count| *count > 0);
        for (key, watches) in &mut new.watches {
            let before = earlier.watches.get(key).copied().unwrap_or_default();
            watches.opened = watches.opened.saturating_sub(before.opened);
        }
        new
    }
}

/// The live counters.
#[derive(Debug, Default)]
pub struct Counters {
    now: Mutex<Requests>,
}

impl Counters {
    pub(super) fn snapshot(&self) -> Requests {
        lock(&self.now).clone()
    }

    pub(super) fn request(&self, user: &str, verb: &'static str, resource: String) {
        let key = RequestKey {
            user: user.to_owned(),
            verb,
            resource,
        };
        *lock(&self.now).requests.entry(key).or_default() += 1;
    }

    /// Counts a watch; it counts as open until the returned value is dropped.
    pub(super) fn watch(self: &Arc<Self>, user: &str, resource: &str) -> OpenWatch {
        let key = (user.to_owned(), resource.to_owned());
        let mut now = lock(&self.now);
        let watches = now.watches.entry(key.clone()).or_default();
        watches.opened += 1;
        watches.open += 1;
        OpenWatch {
            counters: Arc::clone(self),
            key,
        }
    }
}

/// A watch that is open.
#[derive(Debug)]
pub struct OpenWatch {
    counters: Arc<Counters>,
    key: (String, String),
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        if let Some(watches) = lock(&self.counters.now).watches.get_mut(&self.key) {
            watches.open = watches.open.saturating_sub(1);
        }
    }
}
