//! `/events`: the page as a stream (server-sent events). A change is told at once, everything else once a second. Bounded: how many
//! watch, how often each is told, how long one may leave what it was sent unread, and how long a stream lives.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::http::cluster::Feed;

/// How much is streamed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Streams at once; who comes later is told to poll.
    pub streams: usize,
    /// Least time between two pages to one watcher.
    pub gap: Duration,
    /// Time between two pages that differ in ages and positions only.
    pub steady: Duration,
    /// After so long without a page a comment says that the stream lives.
    pub heartbeat: Duration,
    /// How long a watcher may take nothing before it is cut off.
    pub stall: Duration,
    /// A stream's life; the browser opens the next by itself.
    pub life: Duration,
}

impl Limits {
    /// In the sidecar.
    pub const USUAL: Self = Self {
        streams: 32,
        gap: Duration::from_millis(200),
        steady: Duration::from_secs(1),
        heartbeat: Duration::from_secs(5),
        stall: Duration::from_secs(10),
        life: Duration::from_secs(540),
    };
}

/// Cuts a connection off: one for each, put into its requests.
#[derive(Debug, Clone, Default)]
pub struct HangUp(pub Arc<Notify>);

/// The streams of one endpoint. Clones share the places.
#[derive(Debug, Clone)]
pub struct Streams {
    limits: Limits,
    places: Arc<Semaphore>,
}

impl Streams {
    /// None yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            places: Arc::new(Semaphore::new(limits.streams)),
        }
    }

    /// A stream of the pages, if there is a place.
    pub fn open(&self, feed: watch::Receiver<Arc<Feed>>, hang_up: HangUp) -> Response {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let text = format!(
                "{} streams are open, which is all that there are: ask for /cluster from time to time\n",
                self.limits.streams
            );
            return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "5")], text).into_response();
        };
        let (out, sent) = mpsc::channel(1);
        // Ends with the connection, or when its life is over.
        tokio::spawn(tell(feed, out, self.limits, hang_up, place));
        let body = unfold(sent, |mut sent| async {
            let next: Bytes = sent.recv().await?;
            Some((Ok::<_, Infallible>(next), sent))
        });
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ];
        (headers, Body::from_stream(body)).into_response()
    }
}

async fn tell(
    mut feed: watch::Receiver<Arc<Feed>>,
    out: mpsc::Sender<Bytes>,
    limits: Limits,
    hang_up: HangUp,
    _place: OwnedSemaphorePermit,
) {
    let over = sleep(limits.life);
    tokio::pin!(over);
    let mut last: Option<(Instant, u64)> = None;
    feed.mark_changed();
    loop {
        let next = tokio::select! {
            () = out.closed() => return,
            () = &mut over => return,
            changed = feed.changed() => {
                if changed.is_err() {
                    return;
                }
                if let Some((at, _)) = last {
                    sleep_until(at + limits.gap).await;
                }
                let page = feed.borrow_and_update().clone();
                let due = last.is_none_or(|(at, news)| news != page.news() || at.elapsed() >= limits.steady);
                if !due {
                    continue;
                }
                last = Some((Instant::now(), page.news()));
                event(&page.told())
            }
            () = sleep(limits.heartbeat) => Bytes::from_static(b": nothing new\n\n"),
        };
        match timeout(limits.stall, out.send(next)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::debug!("status endpoint: a watcher reads nothing and is cut off");
                hang_up.0.notify_one();
                return;
            }
        }
    }
}

/// JSON on one line as an event. The browser comes back a second after a stream's end.
fn event(json: &[u8]) -> Bytes {
    let mut text = Vec::with_capacity(json.len() + 24);
    text.extend_from_slice(b"retry: 1000\ndata: ");
    text.extend_from_slice(json);
    text.extend_from_slice(b"\n\n");
    Bytes::from(text)
}
