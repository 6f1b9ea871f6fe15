//! Follows the one Lease by watch, and notices when the watch has gone quiet for a bad reason.

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use tokio::time::{Instant, timeout};

use super::store::{News, Store, Verdict};

/// Bounds of the watcher.
#[derive(Debug, Clone, Copy)]
pub struct WatchTimes {
    /// Longest wait for the answer to one request, and for the start of a watch.
    pub request: Duration,
    /// Silence of the watch after which a read checks whether it still works. A held Lease is renewed more often, so at
    /// rest no such read is made.
    pub quiet: Duration,
    /// First pause after a failure; it doubles up to `pause_max`.
    pub pause_min: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Default for WatchTimes {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(2),
            quiet: Duration::from_secs(2),
            pause_min: Duration::from_millis(100),
            pause_max: Duration::from_secs(2),
        }
    }
}

/// Longest life of one watch, in seconds; the API server ends it then.
const WATCH_SECONDS: u32 = 290;

/// Keeps the view up to date. Run it as a task of its own; it ends only by being dropped.
pub struct LeaseWatcher {
    pub(super) api: Api<Lease>,
    pub(super) name: String,
    pub(super) store: Arc<Store>,
    pub(super) times: WatchTimes,
}

impl fmt::Debug for LeaseWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LeaseWatcher")
            .field("name", &self.name)
            .field("times", &self.times)
            .finish_non_exhaustive()
    }
}

/// Why one watch ended.
enum End {
    /// In the ordinary course: its time was up, or its version is too old.
    Over,
    /// It had stalled, or the API server failed.
    Failed(Option<u16>, String),
}

impl From<kube::Error> for End {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::Failed(
                Some(status.code),
                match status.code {
                    401 | 403 => format!(
                        "{}; pgbaton needs list, watch and patch on this Lease: check the Role and its binding",
                        status.message
                    ),
                    _ => status.message.clone(),
                },
            ),
            other => Self::Failed(None, chain(&other)),
        }
    }
}

/// An error with all its causes: kube's own text often leaves out the one that helps.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    // Bounded, should a chain ever loop.
    for _ in 0..8 {
        let Some(error) = cause else { break };
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

impl LeaseWatcher {
    /// Watches for ever.
    pub async fn run(self) -> Infallible {
        let mut pause = self.times.pause_min;
        loop {
            let began = Instant::now();
            let end = self.watch_once().await;
            if let End::Failed(code, text) = end {
                tracing::debug!(code, text, "the watch of the Lease failed; reading it again");
                self.store.trouble(code, text);
            }
            // One that worked for a while was no failure to start.
            if began.elapsed() > self.times.pause_max.saturating_mul(2) {
                pause = self.times.pause_min;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(self.times.pause_max);
        }
    }

    /// Reads, then watches from there on until that ends.
    async fn watch_once(&self) -> End {
        let version = match self.read().await {
            Ok((_, version)) => version,
            Err(end) => return end,
        };
        let parameters = WatchParams::default()
            .fields(&self.selector())
            .timeout(WATCH_SECONDS);
        match timeout(self.times.request, self.api.watch(&parameters, &version)).await {
            Err(_) => self.too_slow("start a watch of"),
            Ok(Err(error)) => error.into(),
            Ok(Ok(events)) => self.follow(events).await,
        }
    }

    /// Takes in events. Each wait is bounded by `quiet`: a connection that was cut without a word (a partition, a stopped
    /// API server) looks like a Lease that does not change.
    async fn follow(&self, events: impl Stream<Item = kube::Result<WatchEvent<Lease>>>) -> End {
        let mut events = pin!(events);
        loop {
            let event = tokio::select! {
                // What has arrived already is older than what a read would bring.
                biased;
                event = events.next() => event,
                () = tokio::time::sleep(self.times.quiet) => {
                    if let Some(end) = self.check().await { return end }
                    continue;
                }
                () = self.store.doubt.notified() => {
                    if let Some(end) = self.check().await { return end }
                    continue;
                }
            };
            match event {
                None => return End::Over,
                Some(Err(error)) => return error.into(),
                Some(Ok(WatchEvent::Error(status))) if status.code == 410 => return End::Over,
                Some(Ok(WatchEvent::Error(status))) => {
                    return End::Failed(Some(status.code), status.message);
                }
                Some(Ok(WatchEvent::Bookmark(_))) => self.store.heard(self.store.question().asked_at),
                Some(Ok(WatchEvent::Added(lease) | WatchEvent::Modified(lease))) => {
                    if self.is_ours(&lease) {
                        self.store.offer(News::Watched(lease));
                    }
                }
                Some(Ok(WatchEvent::Deleted(lease))) => {
                    if self.is_ours(&lease) {
                        let version = lease.metadata.resource_version.unwrap_or_default();
                        self.store.offer(News::Deleted(version));
                    }
                }
            }
        }
    }

    /// Reads while the watch is open; an end when the watch missed something or the API server is away.
    async fn check(&self) -> Option<End> {
        match self.read().await {
            Err(end) => Some(end),
            // The read is newer than the watch, or the world went back: begin again from the read.
            Ok((Verdict::Accepted, _)) => Some(End::Over),
            Ok((Verdict::Same | Verdict::Older, _)) => None,
        }
    }

    /// One consistent read: what became of it, and the version to watch from.
    async fn read(&self) -> Result<(Verdict, String), End> {
        let question = self.store.question();
        let parameters = ListParams::default().fields(&self.selector());
        let list = match timeout(self.times.request, self.api.list(&parameters)).await {
            Err(_) => return Err(self.too_slow("read")),
            Ok(Err(error)) => return Err(error.into()),
            Ok(Ok(list)) => list,
        };
        let version = list.metadata.resource_version.unwrap_or_default();
        let lease = list.items.into_iter().find(|lease| self.is_ours(lease));
        let verdict = self.store.offer(News::Listed(question, lease, version.clone()));
        Ok((verdict, version))
    }

    fn selector(&self) -> String {
        format!("metadata.name={}", self.name)
    }

    fn is_ours(&self, lease: &Lease) -> bool {
        lease.metadata.name.as_deref() == Some(self.name.as_str())
    }

    fn too_slow(&self, what: &str) -> End {
        End::Failed(
            None,
            format!(
                "the API server did not answer a request to {what} the Lease within {} ms",
                self.times.request.as_millis()
            ),
        )
    }
}
