//! A watch: one line of JSON for each change, until its time is over.

use super::counters::OpenWatch;
use super::events::to_served;
use super::kinds::Resource;
use super::request::{Objects, Parameters};
use super::selector::Selector;
use super::shared::Shared;
use super::status::ApiError;
use super::types::{Change, ChangeType};
use axum::body::Bytes;
use futures_util::stream::{self, Stream};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a watch lasts that asks for no time of its own.
const DEFAULT_TIME: Duration = Duration::from_secs(1800);
/// The longest that a watch can ask for.
const LONGEST_TIME: Duration = Duration::from_secs(24 * 3600);
/// How often a bookmark is sent to who wants them.
const BOOKMARKS: Duration = Duration::from_secs(60);

struct Watch {
    shared: Arc<Shared>,
    user: String,
    resource: &'static Resource,
    namespace: Option<String>,
    selector: Selector,
    /// Changes up to this version have been sent.
    after: u64,
    lines: VecDeque<Value>,
    changed: watch::Receiver<u64>,
    deadline: Instant,
    bookmarks: bool,
    next_bookmark: Instant,
    finished: bool,
    _open: OpenWatch,
}

/// Starts a watch. Errors that the real server tells in the stream (410) come in the stream.
pub(super) fn start(
    shared: &Arc<Shared>,
    user: &str,
    objects: Objects,
    parameters: &Parameters,
    open: OpenWatch,
) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + use<>, ApiError> {
    let asked = parameters.version()?;
    let seconds = parameters.number("timeoutSeconds")?.filter(|s| *s > 0);
    let time = seconds
        .map_or(DEFAULT_TIME, Duration::from_secs)
        .min(LONGEST_TIME);
    let bookmarks = parameters.flag("allowWatchBookmarks");
    let streaming_list = parameters.flag("sendInitialEvents");
    let now = Instant::now();
    let changed = shared.version_changes();
    let mut watch = Watch {
        shared: Arc::clone(shared),
        user: user.to_owned(),
        resource: objects.resource,
        namespace: objects.namespace,
        selector: objects.selector,
        after: asked,
        lines: VecDeque::new(),
        changed,
        deadline: now + time,
        bookmarks,
        next_bookmark: now + BOOKMARKS,
        finished: false,
        _open: open,
    };
    if asked == 0 || streaming_list {
        // The real server takes a watch from nothing for a streamed list, and marks its end for who takes bookmarks.
        watch.send_present(bookmarks);
    }
    Ok(stream::unfold(watch, Watch::next))
}

impl Watch {
    /// Everything that exists, as ADDED; the list and the version after which changes follow are one moment.
    fn send_present(&mut self, mark_end: bool) {
        let (present, version) = self.shared.with_store(|store| {
            (
                store.list(self.resource.kind, self.namespace.as_deref(), &self.selector),
                store.version(),
            )
        });
        self.after = version;
        for object in present {
            self.lines
                .push_back(json!({ "type": "ADDED", "object": self.served(&object) }));
        }
        if mark_end {
            let annotations = json!({ "k8s.io/initial-events-end": "true" });
            self.lines.push_back(self.bookmark(&annotations));
        }
    }

    fn served(&self, object: &Value) -> Value {
        to_served(self.resource, object.clone())
    }

    fn bookmark(&self, annotations: &Value) -> Value {
        let mut metadata = json!({ "resourceVersion": self.after.to_string() });
        if !annotations.is_null() {
            metadata["annotations"] = annotations.clone();
        }
        let object = json!({
            "kind": self.resource.kind_name, "apiVersion": self.resource.api_version(), "metadata": metadata,
        });
        json!({ "type": "BOOKMARK", "object": object })
    }

    /// Puts what has happened since into the queue.
    fn collect(&mut self) {
        let kind = self.resource.kind;
        let (changes, version) = self
            .shared
            .with_store(|store| (store.changes_after(kind, self.after), store.version()));
        match changes {
            Ok(changes) => {
                for change in changes {
                    if let Some(line) = self.line(&change) {
                        self.lines.push_back(line);
                    }
                }
                // A version from the future (of another server's life) is kept: only newer changes are sent.
                self.after = self.after.max(version);
            }
            Err(expired) => {
                self.lines
                    .push_back(json!({ "type": "ERROR", "object": expired.to_status() }));
                self.finished = true;
            }
        }
    }

    /// A change as this watch sees it: an object that comes into its selection is ADDED, one that leaves it is
    /// DELETED.
    fn line(&self, change: &Change) -> Option<Value> {
        let here = self
            .namespace
            .as_deref()
            .is_none_or(|ns| change.object["metadata"]["namespace"] == ns);
        if !here {
            return None;
        }
        let before = change.previous.as_ref().is_some_and(|p| self.selector.matches(p));
        let after = change.change != ChangeType::Deleted && self.selector.matches(&change.object);
        let word = match (before, after) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        };
        Some(json!({ "type": word, "object": self.served(&change.object) }))
    }

    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        loop {
            self.shared.faults.pass(&self.user).await;
            if let Some(line) = self.lines.pop_front() {
                let mut text = line.to_string();
                text.push('\n');
                return Some((Ok(Bytes::from(text)), self));
            }
            if self.finished {
                return None;
            }
            self.changed.borrow_and_update();
            self.collect();
            if !self.lines.is_empty() {
                continue;
            }
            let until = if self.bookmarks {
                self.deadline.min(self.next_bookmark)
            } else {
                self.deadline
            };
            tokio::select! {
                // Only the end of the server itself ends this channel.
                changed = self.changed.changed() => if changed.is_err() { return None },
                () = sleep_until(until) => self.time_is_up(),
            }
        }
    }

    fn time_is_up(&mut self) {
        let now = Instant::now();
        if self.bookmarks {
            let line = self.bookmark(&Value::Null);
            self.lines.push_back(line);
            self.next_bookmark = now + BOOKMARKS;
        }
        self.finished = now >= self.deadline;
    }
}
