//! The sidecar's end of the guard's socket: a watch that keeps the status fresh, and orders, each on a connection of its own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::brain::Input;
use crate::core::record::Evidence;
use crate::guard::protocol::{
    Answer, MAX_LINE, Order, PROTOCOL_VERSION, Request, SOCKET_NAME, Stamp, Status,
};
use crate::guard::refusal;
use crate::lease::{LiveClock, boottime};

/// How long one watch waits for news: also the age that a status has at most.
const WATCH_WAIT: Duration = Duration::from_millis(1_000);
/// Longest time for an answer beyond what was asked to be waited for.
const ANSWER_SLACK: Duration = Duration::from_millis(1_000);
/// Longest time for reading why the guard did not begin.
const READ: Duration = Duration::from_millis(200);
/// How the trouble with a guard that did not begin starts; its own words follow.
pub(super) const REFUSES: &str = "the guard did not begin: ";
/// Between two tries to reach the guard.
const RETRY: Duration = Duration::from_millis(50);

/// Where the guard is, and the numbers of the orders given.
#[derive(Debug)]
pub struct GuardLink {
    run_dir: PathBuf,
    socket: PathBuf,
    sequence: AtomicU64,
}

impl GuardLink {
    /// The guard whose run directory this is.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            socket: run_dir.join(SOCKET_NAME),
            sequence: AtomicU64::new(0),
        }
    }

    /// A sequence number above every earlier one, also of an earlier life of this process on the same kernel.
    pub fn next_sequence(&self) -> u64 {
        let now = boottime().0;
        let next = |last: u64| Some(now.max(last.saturating_add(1)));
        self.sequence
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, next)
            .map_or(now, |last| now.max(last.saturating_add(1)))
    }

    /// Sends one request and reads its answer within `budget`.
    ///
    /// # Errors
    /// For people. After `sent` an order may have been carried out all the same; the status tells.
    pub async fn ask(&self, order: Order, stamp: Option<Stamp>, budget: Duration) -> Result<Answer, String> {
        let asking = async {
            let mut stream = self.connect().await?;
            exchange(&mut stream, order, stamp).await
        };
        match tokio::time::timeout(budget, asking).await {
            Ok(answer) => answer,
            Err(_) => Err(format!(
                "the guard did not answer within {} ms",
                budget.as_millis()
            )),
        }
    }

    async fn connect(&self) -> Result<BufReader<UnixStream>, String> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| {
            format!(
                "the guard's socket {} cannot be reached: {e}",
                self.socket.display()
            )
        })?;
        Ok(BufReader::new(stream))
    }

    /// Keeps the loop informed of the guard's status; ends when the loop is gone.
    pub async fn watch(&self, clock: LiveClock, inputs: mpsc::Sender<Input>) {
        let mut last_words = LastWords::default();
        loop {
            let ended = self.watch_once(&clock, &inputs).await;
            let Err(mut reason) = ended else { return };
            if let Some(told) = last_words.read(&self.run_dir).await {
                reason = format!("{REFUSES}{told}");
            }
            if inputs.send(Input::GuardLost { reason }).await.is_err() {
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Ok: the loop is gone.
    async fn watch_once(&self, clock: &LiveClock, inputs: &mpsc::Sender<Input>) -> Result<(), String> {
        let budget = WATCH_WAIT + ANSWER_SLACK;
        let mut stream = within(budget, self.connect()).await?;
        // No guard has this revision: the first answer comes at once.
        let mut revision = u64::MAX;
        loop {
            let asked_at = clock.now();
            let wait_ms = u64::try_from(WATCH_WAIT.as_millis()).unwrap_or(1_000);
            let order = if revision == u64::MAX {
                Order::Status
            } else {
                Order::Watch { revision, wait_ms }
            };
            let answer = within(budget, exchange(&mut stream, order, None)).await?;
            let (Answer::Ok { status } | Answer::Failed { status, .. }) = answer else {
                return Err(format!("the guard refused to tell its status: {answer:?}"));
            };
            // A watch that changed was answered at that moment; one that did not holds for the whole wait.
            let asked_at = if status.revision == revision {
                asked_at
            } else {
                clock.now()
            };
            revision = status.revision;
            if inputs
                .send(Input::Guard(Box::new(Evidence {
                    value: *status,
                    asked_at,
                })))
                .await
                .is_err()
            {
                return Ok(());
            }
        }
    }
}

/// What a guard that refused to begin has left, read beside the loop: the disk may hang.
#[derive(Default)]
struct LastWords {
    reading: Option<JoinHandle<Option<String>>>,
}

impl LastWords {
    /// None: there are none, or the disk is slow. At most one read is under way.
    async fn read(&mut self, run_dir: &Path) -> Option<String> {
        let run_dir = run_dir.to_owned();
        let reading = self
            .reading
            .get_or_insert_with(|| tokio::task::spawn_blocking(move || refusal::read(&run_dir)));
        let read = tokio::time::timeout(READ, reading).await.ok()?;
        self.reading = None;
        read.ok()?
    }
}

async fn within<T>(budget: Duration, work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(budget, work).await {
        Ok(done) => done,
        Err(_) => Err(format!(
            "the guard did not answer within {} ms",
            budget.as_millis()
        )),
    }
}

async fn exchange(
    stream: &mut BufReader<UnixStream>,
    order: Order,
    stamp: Option<Stamp>,
) -> Result<Answer, String> {
    let request = Request {
        version: PROTOCOL_VERSION,
        order,
        stamp,
    };
    let mut line = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
    line.push(b'\n');
    let broken = |e: std::io::Error| format!("the connection to the guard broke: {e}");
    stream.write_all(&line).await.map_err(broken)?;
    let mut answer = Vec::new();
    let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    (&mut *stream)
        .take(limit)
        .read_until(b'\n', &mut answer)
        .await
        .map_err(broken)?;
    if answer.last() != Some(&b'\n') {
        return Err("the guard closed the connection without an answer".to_owned());
    }
    serde_json::from_slice(&answer).map_err(|e| format!("the guard's answer is not readable: {e}"))
}

/// The stamp of an order meant for the guard and data that `status` shows.
#[must_use]
pub fn stamp(term: crate::core::types::Term, sequence: u64, status: &Status) -> Stamp {
    Stamp {
        term,
        sequence,
        boot_id: status.boot_id.clone(),
        system_identifier: status.system_identifier,
        data_id: status.data_id.clone(),
    }
}
