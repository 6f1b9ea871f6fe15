//! An API server in the process: HTTP on a loopback address, the few kinds that pgbaton uses, and faults on
//! order. For trying and testing only: no TLS, nothing on disk, no admission, no controllers.
//!
//! [`store`] is the pure core (objects, versions, patches, rules); the rest is a thin HTTP side. Where pgbaton
//! depends on how Kubernetes behaves, this server behaves the same, and `tests/api_contract` say so for both.
//!
//! Known to differ: no namespaces (a write into one that does not exist succeeds), no addresses for Services, no
//! server-side apply, no managed fields, no finalizers (an orphaning deletion ends at once) and no `scale`.

pub mod access;
pub mod counters;
mod events;
mod faults;
mod forms;
mod http;
mod json_patch;
pub mod kinds;
mod lifetime;
mod listener;
pub mod patch;
mod request;
pub mod selector;
mod shared;
pub mod status;
pub mod store;
#[cfg(test)]
mod store_tests;
pub mod types;
mod validation;
mod watch;

pub use access::{ADMIN, Rule};
pub use counters::{RequestKey, Requests, Watches};
pub use faults::Cut;
pub use kinds::Kind;
pub use patch::PatchType;
pub use status::ApiError;
pub use types::{Change, ChangeType, DeleteOptions, Deleted, Propagation};

use access::Access;
use listener::Listening;
use selector::Selector;
use serde_json::{Value, json};
use shared::{Shared, fresh, token};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use store::Store;
use tokio::sync::broadcast;
use types::{Part, Target};

/// Sizes of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Changes kept for each kind; a watch that asks for an older version gets 410.
    pub log_limit: usize,
    /// Events kept; the oldest go first.
    pub event_limit: usize,
    /// Changes that a subscriber may lag behind before it misses some.
    pub subscriber_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            log_limit: 2000,
            event_limit: 1000,
            subscriber_limit: 4096,
        }
    }
}

/// The server. Clones are handles to the same one; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    listening: Arc<tokio::sync::Mutex<Option<Listening>>>,
}

impl ApiServer {
    /// Starts the server on a loopback address; port 0 takes a free one and keeps it through [`Self::down`].
    pub async fn start(address: SocketAddr, options: Options) -> io::Result<Self> {
        if !address.ip().is_loopback() {
            let text =
                format!("the embedded API server is for this machine only: {address} is no loopback address");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let store = Store::new(options.log_limit, options.event_limit);
        let shared = Arc::new(Shared::new(
            store,
            Access::new(token()),
            options.subscriber_limit.max(1),
        ));
        let listening = Listening::start(address, Arc::clone(&shared)).await?;
        let address = listening.address;
        Ok(Self {
            shared,
            address,
            listening: Arc::new(tokio::sync::Mutex::new(Some(listening))),
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Adds a user, or replaces its token and rules.
    pub fn add_user(&self, name: &str, token: &str, rules: Vec<Rule>) {
        lock(&self.shared.access).add(name, token, rules);
    }

    /// A kubeconfig (YAML) for a user, or for [`ADMIN`]; none when there is no such user.
    #[must_use]
    pub fn kubeconfig(&self, user: &str, namespace: &str) -> Option<String> {
        let token = lock(&self.shared.access).token(user)?.to_owned();
        // JSON is YAML, and quotes whatever a name may contain.
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "rig",
            "clusters": [{ "name": "rig", "cluster": { "server": self.url() } }],
            "users": [{ "name": user, "user": { "token": token } }],
            "contexts": [{ "name": "rig", "context": { "cluster": "rig", "user": user, "namespace": namespace } }],
        });
        Some(format!("{text:#}\n"))
    }

    // ---- the rig's own access: no HTTP, no rules, no faults, and status is written with the rest ----

    /// An object (events in core/v1 form).
    #[must_use]
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.shared.with_store(|store| store.find(kind, namespace, name))
    }

    /// All objects of a kind in a namespace.
    #[must_use]
    pub fn list(&self, kind: Kind, namespace: &str) -> Vec<Arc<Value>> {
        self.shared
            .with_store(|store| store.list(kind, Some(namespace), &Selector::default()))
    }

    /// Creates an object; `apiVersion` and `kind` may be left out.
    pub fn create(&self, kind: Kind, namespace: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.shared
            .with_store(|store| store.create(&target(kind, namespace, ""), object, &fresh()))
    }

    /// Patches an object, its status included.
    pub fn patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        how: PatchType,
        patch: &Value,
    ) -> Result<Arc<Value>, ApiError> {
        self.shared
            .with_store(|store| store.patch(&target(kind, namespace, name), how, patch))
    }

    /// Deletes an object. With a grace of 0 seconds a pod is gone at once: that is the kubelet's last word.
    pub fn delete(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        self.shared
            .with_store(|store| store.delete(&target(kind, namespace, name), options, &fresh()))
    }

    /// Every change from now on, in order, whoever made it. A receiver that lags more than
    /// [`Options::subscriber_limit`] changes behind is told so (`Lagged`) and must look at everything anew.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Change>> {
        self.shared.subscribe()
    }

    /// The newest resourceVersion given out.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.shared.with_store(|store| store.version())
    }

    /// How often who asked for what.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.shared.counters.snapshot()
    }

    // ---- faults; each holds for requests over HTTP only ----

    /// Stops listening (connections are refused) and closes all connections. The objects stay, and the rig's
    /// own access goes on.
    pub async fn down(&self) {
        if let Some(listening) = self.listening.lock().await.take() {
            listening.stop().await;
        }
    }

    /// Listens again on the same address. Does nothing when it is up.
    pub async fn up(&self) -> io::Result<()> {
        let mut listening = self.listening.lock().await;
        if listening.is_none() {
            *listening = Some(Listening::start(self.address, Arc::clone(&self.shared)).await?);
        }
        Ok(())
    }

    /// As a restart of the real server: all connections closed, objects kept, the log of changes forgotten, so
    /// that a watch from an older version gets 410.
    pub async fn restart(&self) -> io::Result<()> {
        self.down().await;
        self.shared.with_store(Store::forget_changes);
        self.up().await
    }

    /// Each request waits this long before it is looked at; zero ends it.
    pub fn latency(&self, latency: Duration) {
        self.shared.faults.set_latency(latency);
    }

    /// The next `count` requests (watches too, of any user) fail with this HTTP status and change nothing.
    pub fn fail_next(&self, count: usize, code: u16) {
        self.shared.faults.fail_next(count, code);
    }

    /// The next request with this verb (`patch`) on this kind (`Lease` or `leases`) is carried out and never
    /// answered. Several such orders add up.
    pub fn drop_reply_next(&self, verb: &str, kind: &str) {
        self.shared.faults.drop_reply_next(verb, kind);
    }

    /// Cuts a user off silently ([`Cut::Silent`]), or lets it through again.
    pub fn cut_user(&self, user: &str, cut: bool) {
        self.cut_user_as(user, cut.then_some(Cut::Silent));
    }

    /// Cuts a user off in a chosen way; none lets it through again.
    pub fn cut_user_as(&self, user: &str, cut: Option<Cut>) {
        self.shared.faults.cut_user(user, cut);
    }

    /// Cuts everybody off, as if the server hung; none lets them through again.
    pub fn cut_everyone(&self, cut: Option<Cut>) {
        self.shared.faults.cut_everyone(cut);
    }
}

fn target<'a>(kind: Kind, namespace: &'a str, name: &'a str) -> Target<'a> {
    Target {
        resource: kind.resource(),
        namespace,
        name,
        part: Part::Everything,
        dry_run: false,
    }
}

/// Locks; a panic elsewhere while it was held leaves the value as usable as before.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
