//! Clients that write through the Service's address and remember what they were told about each write.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::sql::{self, Connection, Login, Trouble};

/// Bound for a new connection: the Service's address is local.
const CONNECT_BOUND: Duration = Duration::from_millis(400);
/// Bound for one write, after which the client cancels it and takes a new connection.
const WRITE_BOUND: Duration = Duration::from_millis(1000);
/// Between two writes of a client.
const PAUSE: Duration = Duration::from_millis(4);
/// After a failure.
const RETRY: Duration = Duration::from_millis(15);
/// One client in this many takes a new connection for each write, as short-lived programs do.
const SHORT_LIVED: usize = 4;
/// How often the table is tried to be read.
const READS: u32 = 5;
/// The clients' table.
pub const TABLE: &str = "pgbaton_writes";

/// What a client knows of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, without a warning.
    Acknowledged,
    /// Answered with a warning, or not at all: either may be.
    Unknown,
    /// Never reached a server, or was refused by one.
    Failed,
    /// Refused by a standby (SQLSTATE 25006).
    ReadOnly,
}

/// One write.
#[derive(Debug, Clone, Copy)]
pub struct Write {
    /// Unique over all clients.
    pub id: i64,
    /// When it was sent (or its connection was asked for).
    pub sent: Instant,
    /// When its outcome was known.
    pub done: Instant,
    /// See there.
    pub outcome: Outcome,
}

/// Numbers over a window of time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes whose outcome is not known.
    pub unknown: u64,
    /// Failed ones.
    pub failed: u64,
    /// Answers of a read-only server.
    pub read_only: u64,
    /// Longest gap between two acknowledgements, over all clients, in milliseconds.
    pub outage_ms: u64,
}

/// The running clients.
#[derive(Debug)]
pub struct Workload {
    login: Login,
    service: Ipv4Addr,
    writes: Arc<Mutex<Vec<Write>>>,
    errors: Arc<Mutex<Vec<(Instant, String)>>>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Workload {
    /// Makes the table through the Service's address and starts `clients` clients.
    ///
    /// # Errors
    /// When the table cannot be made.
    pub async fn start(login: &Login, service: Ipv4Addr, clients: usize) -> Result<Self> {
        // Emptied: the clients of a run before used the same ids.
        let create = format!(
            "CREATE TABLE IF NOT EXISTS {TABLE} (id bigint PRIMARY KEY, at timestamptz DEFAULT now()); TRUNCATE {TABLE}"
        );
        sql::ask(login, service, &create)
            .await
            .context("cannot make the clients' table through the Service's address")?;
        let writes = Arc::new(Mutex::new(Vec::new()));
        let errors = Arc::new(Mutex::new(Vec::new()));
        let stop = watch::channel(false).0;
        let mut tasks = Vec::new();
        for number in 0..clients {
            let client = ClientTask {
                login: login.clone(),
                service,
                number,
                short_lived: number % SHORT_LIVED == SHORT_LIVED - 1,
                writes: writes.clone(),
                errors: errors.clone(),
            };
            tasks.push(tokio::spawn(client.run(stop.subscribe())));
        }
        Ok(Self {
            login: login.clone(),
            service,
            writes,
            errors,
            stop,
            tasks,
        })
    }

    /// Ends the clients after their writes at hand.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        for task in self.tasks.drain(..) {
            if tokio::time::timeout(WRITE_BOUND * 3, task).await.is_err() {
                tracing::warn!("a client did not end in time");
            }
        }
    }

    /// When the last write was acknowledged.
    #[must_use]
    pub fn last_acknowledged(&self) -> Option<Instant> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut newest = writes
            .iter()
            .rev()
            .filter(|write| write.outcome == Outcome::Acknowledged);
        newest.next().map(|write| write.done)
    }

    /// Writes acknowledged since `since` that were also sent after it.
    #[must_use]
    pub fn acknowledged_since(&self, since: Instant) -> usize {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = writes.iter().rev().take_while(|write| write.done >= since);
        newest
            .filter(|write| write.outcome == Outcome::Acknowledged && write.sent >= since)
            .count()
    }

    /// Numbers of the window.
    #[must_use]
    pub fn summary(&self, from: Instant, to: Instant) -> Summary {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        summarise(&writes, from, to)
    }

    /// The longest time without an acknowledgement.
    #[must_use]
    pub fn outage(&self, from: Instant, to: Instant) -> Range<Instant> {
        let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        longest_gap(&writes, from, to)
    }

    /// Acknowledged writes of the whole run that the primary does not hold.
    ///
    /// # Errors
    /// When the table cannot be read through the Service's address.
    pub async fn lost(&self) -> Result<Vec<i64>> {
        // Taken before the table is read: what is acknowledged now must be in it.
        let acknowledged: Vec<i64> = {
            let writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
            writes
                .iter()
                .filter(|write| write.outcome == Outcome::Acknowledged)
                .map(|write| write.id)
                .collect()
        };
        let text = format!("SELECT id FROM {TABLE}");
        let bound = Duration::from_secs(60);
        let mut tries = 1;
        let rows = loop {
            match sql::ask_within(&self.login, self.service, &text, bound).await {
                Ok(rows) => break rows,
                // A connection that was sent to a pod that is gone stays with it (conntrack) and never answers; the next one does.
                Err(_) if tries < READS => tries += 1,
                Err(error) => {
                    let what = "cannot read the clients' table through the Service's address";
                    return Err(error.context(format!("{what} in {READS} tries")));
                }
            }
        };
        let held: std::collections::HashSet<i64> = rows
            .iter()
            .filter_map(|row| row.first()?.as_deref()?.parse().ok())
            .collect();
        Ok(acknowledged.into_iter().filter(|id| !held.contains(id)).collect())
    }

    /// What went wrong since `from` and when, in order of the first time.
    #[must_use]
    pub fn error_spans(&self, from: Instant) -> Vec<Span> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: Vec<Span> = Vec::new();
        for (at, text) in errors.iter().filter(|(at, _)| *at >= from) {
            let ms = at.duration_since(from).as_millis();
            match spans.iter_mut().find(|span| span.text == *text) {
                Some(span) => {
                    span.count += 1;
                    span.last_ms = span.last_ms.max(ms);
                }
                None => spans.push(Span {
                    text: text.clone(),
                    count: 1,
                    first_ms: ms,
                    last_ms: ms,
                }),
            }
        }
        spans
    }

    /// What went wrong in the window, each text once with its number of times.
    #[must_use]
    pub fn errors(&self, from: Instant, to: Instant) -> std::collections::BTreeMap<String, usize> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counted = std::collections::BTreeMap::new();
        for (_, text) in errors.iter().filter(|(at, _)| *at >= from && *at <= to) {
            *counted.entry(text.clone()).or_insert(0) += 1;
        }
        counted
    }
}

/// When clients were told something: the first time and the last one, since the window's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What.
    pub text: String,
    /// How often.
    pub count: usize,
    /// First time, in ms.
    pub first_ms: u128,
    /// Last time, in ms.
    pub last_ms: u128,
}

fn summarise(writes: &[Write], from: Instant, to: Instant) -> Summary {
    let outage = longest_gap(writes, from, to);
    let mut summary = Summary::default();
    let inside = |write: &&Write| write.done >= from && write.done <= to;
    for write in writes.iter().filter(inside) {
        match write.outcome {
            Outcome::Acknowledged => summary.acknowledged += 1,
            Outcome::Unknown => summary.unknown += 1,
            Outcome::Failed => summary.failed += 1,
            Outcome::ReadOnly => summary.read_only += 1,
        }
    }
    let longest = outage.end.saturating_duration_since(outage.start);
    summary.outage_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    summary
}

/// The longest time without an acknowledgement. The gaps at both ends of the window count from the last one before it and to its end.
fn longest_gap(writes: &[Write], from: Instant, to: Instant) -> Range<Instant> {
    let acknowledged = |write: &&Write| write.outcome == Outcome::Acknowledged && write.done <= to;
    let mut all: Vec<Instant> = writes
        .iter()
        .filter(acknowledged)
        .map(|write| write.done)
        .collect();
    all.sort();
    let inside = all.partition_point(|at| *at < from);
    let before = inside.checked_sub(1).map_or(from, |last| all[last]);
    let mut longest = before..before;
    let mut last = before;
    for at in all[inside..].iter().copied().chain([to]) {
        if at.saturating_duration_since(last) > longest.end.saturating_duration_since(longest.start) {
            longest = last..at;
        }
        last = at;
    }
    longest
}

struct ClientTask {
    login: Login,
    service: Ipv4Addr,
    number: usize,
    short_lived: bool,
    writes: Arc<Mutex<Vec<Write>>>,
    errors: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl ClientTask {
    async fn run(self, stop: watch::Receiver<bool>) {
        let name = format!("client {}", self.number);
        let config = sql::config(&self.login, self.service, &name);
        let mut connection: Option<Connection> = None;
        // Ids of one client rise by one; its number is in the upper bits.
        let mut id = i64::try_from(self.number).unwrap_or_default() << 40;
        while !*stop.borrow() {
            id += 1;
            let sent = Instant::now();
            let open = match connection.take() {
                Some(open) => Ok(open),
                None => Connection::open(&config, CONNECT_BOUND).await,
            };
            let outcome = match open {
                Ok(open) => {
                    // Only what was written on a connection counts as sent.
                    let sent = Instant::now();
                    let outcome = self.write(&open, id).await;
                    self.note(id, sent, outcome);
                    if outcome == Outcome::Acknowledged && !self.short_lived {
                        connection = Some(open);
                    }
                    outcome
                }
                Err(trouble) => {
                    self.complain("connect", &trouble);
                    let outcome = Outcome::Failed;
                    self.note(id, sent, outcome);
                    outcome
                }
            };
            sleep(if outcome == Outcome::Acknowledged {
                PAUSE
            } else {
                RETRY
            })
            .await;
        }
    }

    async fn write(&self, connection: &Connection, id: i64) -> Outcome {
        let warnings = connection.warnings();
        let text = format!("INSERT INTO {TABLE} (id) VALUES ({id})");
        match connection.run(&text, WRITE_BOUND).await {
            Ok(_) if connection.warnings() == warnings => Outcome::Acknowledged,
            Ok(_) => Outcome::Unknown,
            Err(trouble) => {
                self.complain("write", &trouble);
                outcome_of(&trouble)
            }
        }
    }

    fn note(&self, id: i64, sent: Instant, outcome: Outcome) {
        let write = Write {
            id,
            sent,
            done: Instant::now(),
            outcome,
        };
        self.writes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(write);
    }

    fn complain(&self, what: &str, trouble: &Trouble) {
        let entry = (Instant::now(), format!("{what}: {trouble}"));
        self.errors
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(entry);
    }
}

/// An error with a SQLSTATE of severity ERROR rolled the write back; a connection that broke leaves it unknown.
fn outcome_of(trouble: &Trouble) -> Outcome {
    match trouble.code() {
        Some("25006") => Outcome::ReadOnly,
        // The connection was ended by the server (57P01 and its kin): the commit may have happened just before.
        Some(code) if code.starts_with("57P") => Outcome::Unknown,
        Some(_) => Outcome::Failed,
        None => Outcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(start: Instant, ms: u64, outcome: Outcome) -> Write {
        let done = start + Duration::from_millis(ms);
        Write {
            id: 0,
            sent: done,
            done,
            outcome,
        }
    }

    #[test]
    fn the_outage_is_the_longest_gap_over_all_clients() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let writes = [
            write(start, 0, Outcome::Acknowledged),
            write(start, 100, Outcome::Acknowledged),
            write(start, 300, Outcome::Unknown),
            write(start, 350, Outcome::ReadOnly),
            // Two clients may note in another order than they were answered in.
            write(start, 700, Outcome::Acknowledged),
            write(start, 600, Outcome::Acknowledged),
            write(start, 900, Outcome::Failed),
        ];
        let summary = summarise(&writes, at(50), at(1000));
        assert_eq!(
            summary,
            Summary {
                acknowledged: 3,
                unknown: 1,
                failed: 1,
                read_only: 1,
                outage_ms: 500
            }
        );
    }

    #[test]
    fn an_outage_that_lasts_to_the_end_of_the_window_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let writes = [write(start, 10, Outcome::Acknowledged)];
        assert_eq!(summarise(&writes, at(0), at(2000)).outage_ms, 1990);
        assert_eq!(summarise(&writes, at(1000), at(2000)).outage_ms, 1990);
    }
}
