//! Are there ever two servers that take writes? An independent writer at each member's own address, past the Service.
//!
//! Terms are put in order by timelines: a term's first write is on the timeline that its promotion made, timeline numbers are never
//! given out twice, and a server that goes on in place keeps its own. So two servers took writes side by side when a server acknowledged
//! a write that was sent to it after another one had acknowledged one on a later timeline; or when two ever acknowledged on the
//! same timeline; or when one did on a timeline that the record does not know (a promotion that nobody ordered).
//! A write sent before and answered late is no fault: the new primary may hold it (reference/schedules.md).

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::sql::{self, Connection, Login, Trouble};

const CONNECT_BOUND: Duration = Duration::from_millis(400);
const WRITE_BOUND: Duration = Duration::from_millis(1000);
/// Between two tries on a server that answers.
const PAUSE: Duration = Duration::from_millis(5);
/// Between two tries on one that refuses connections.
const RETRY: Duration = Duration::from_millis(10);
/// The oracle's table.
const TABLE: &str = "pgbaton_oracle";

/// An acknowledged write of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The member's name.
    pub server: String,
    /// The timeline it wrote on.
    pub timeline: u32,
    /// When the write was sent to it.
    pub sent: Instant,
    /// When it answered.
    pub at: Instant,
}

/// The running writers.
#[derive(Debug)]
pub struct Oracle {
    login: Login,
    acknowledged: Arc<Mutex<Vec<Acknowledgement>>>,
    stop: watch::Sender<bool>,
    writers: Mutex<BTreeMap<(String, Ipv4Addr), JoinHandle<()>>>,
}

impl Oracle {
    /// Makes the table through the Service's address. Writers are started by `watch`.
    ///
    /// # Errors
    /// When the table cannot be made.
    pub async fn start(login: &Login, service: Ipv4Addr) -> Result<Self> {
        let create =
            format!("CREATE TABLE IF NOT EXISTS {TABLE} (server text, at timestamptz DEFAULT now())");
        sql::ask(login, service, &create)
            .await
            .context("cannot make the oracle's table through the Service's address")?;
        Ok(Self {
            login: login.clone(),
            acknowledged: Arc::new(Mutex::new(Vec::new())),
            stop: watch::channel(false).0,
            writers: Mutex::new(BTreeMap::new()),
        })
    }

    /// Tries to write at this address from now to the end, as `server`'s. An address that was left for another one is kept: somebody
    /// may still take writes there.
    pub fn watch(&self, server: &str, ip: Ipv4Addr) {
        let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        writers.entry((server.to_owned(), ip)).or_insert_with(|| {
            let writer = Writer {
                login: self.login.clone(),
                server: server.to_owned(),
                ip,
                acknowledged: self.acknowledged.clone(),
            };
            tokio::spawn(writer.run(self.stop.subscribe()))
        });
    }

    /// Ends the writers.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let writers = std::mem::take(&mut *self.writers.lock().unwrap_or_else(PoisonError::into_inner));
        for task in writers.into_values() {
            if tokio::time::timeout(WRITE_BOUND * 3, task).await.is_err() {
                tracing::warn!("a writer of the oracle did not end in time");
            }
        }
    }

    /// What is wrong with the acknowledgements from `from` on, judged against the whole run; none: never two servers.
    /// `recorded` are the timelines that the record knows, none for a cluster whose record could not be read.
    #[must_use]
    pub fn two_writable(&self, from: Instant, recorded: Option<&BTreeSet<u32>>) -> Option<String> {
        let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        judge(&all, from, recorded)
    }
}

/// First acknowledgement of each server on each timeline.
fn firsts(all: &[Acknowledgement]) -> BTreeMap<(u32, &str), Instant> {
    let mut firsts: BTreeMap<(u32, &str), Instant> = BTreeMap::new();
    for one in all {
        let first = firsts.entry((one.timeline, &one.server)).or_insert(one.at);
        *first = (*first).min(one.at);
    }
    firsts
}

fn judge(all: &[Acknowledgement], from: Instant, recorded: Option<&BTreeSet<u32>>) -> Option<String> {
    let firsts = firsts(all);
    let lowest = firsts.keys().next().map(|&(timeline, _)| timeline);
    for one in all.iter().filter(|one| one.at >= from) {
        let known =
            recorded.is_none_or(|known| known.contains(&one.timeline)) || Some(one.timeline) == lowest;
        if !known {
            return Some(format!(
                "{} acknowledged a write on timeline {}, which the record does not know",
                one.server, one.timeline
            ));
        }
        for (&(timeline, server), &first) in &firsts {
            if server == one.server {
                continue;
            }
            if timeline == one.timeline {
                return Some(format!(
                    "{} and {server} both acknowledged writes on timeline {timeline}",
                    one.server
                ));
            }
            if timeline > one.timeline && one.sent > first {
                let after = one.sent.duration_since(first).as_millis();
                return Some(format!(
                    "{} acknowledged a write on timeline {}, sent {after} ms after {server} had acknowledged one on timeline {timeline}",
                    one.server, one.timeline
                ));
            }
        }
    }
    None
}

struct Writer {
    login: Login,
    server: String,
    ip: Ipv4Addr,
    acknowledged: Arc<Mutex<Vec<Acknowledgement>>>,
}

impl Writer {
    async fn run(self, stop: watch::Receiver<bool>) {
        let mut config = sql::config(&self.login, self.ip, "pgbaton-oracle");
        // A standby's refusals, some hundred a second, are not for the server's log.
        config.options("-c log_min_messages=fatal");
        let mut connection: Option<Connection> = None;
        while !*stop.borrow() {
            let open = match connection.take() {
                Some(open) => open,
                None => match Connection::open(&config, CONNECT_BOUND).await {
                    Ok(open) => open,
                    Err(_) => {
                        sleep(RETRY).await;
                        continue;
                    }
                },
            };
            let warnings = open.warnings();
            let sent = Instant::now();
            match self.write(&open).await {
                Ok(timeline) => {
                    // With a warning the write is here and perhaps nowhere else: not acknowledged.
                    if open.warnings() == warnings
                        && let Some(timeline) = timeline
                    {
                        self.note(timeline, sent);
                    }
                    connection = Some(open);
                }
                Err(trouble) if trouble.is_read_only() => connection = Some(open),
                Err(_) => {}
            }
            sleep(PAUSE).await;
        }
    }

    /// Writes a row and tells the timeline that it is on.
    async fn write(&self, connection: &Connection) -> Result<Option<u32>, Trouble> {
        let text = format!(
            "INSERT INTO {TABLE} (server) VALUES ('{}') RETURNING pg_walfile_name(pg_current_wal_insert_lsn())",
            self.server
        );
        let rows = connection.run(&text, WRITE_BOUND).await?;
        let file = rows.first().and_then(|row| row.get(0));
        Ok(file.and_then(|name| u32::from_str_radix(name.get(..8)?, 16).ok()))
    }

    fn note(&self, timeline: u32, sent: Instant) {
        let one = Acknowledgement {
            server: self.server.clone(),
            timeline,
            sent,
            at: Instant::now(),
        };
        self.acknowledged
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(start: Instant, server: &str, timeline: u32, sent: u64, at: u64) -> Acknowledgement {
        Acknowledgement {
            server: server.to_owned(),
            timeline,
            sent: start + Duration::from_millis(sent),
            at: start + Duration::from_millis(at),
        }
    }

    #[test]
    fn one_server_after_the_other_is_fine() {
        let start = Instant::now();
        let all = [
            acknowledged(start, "postgres-1", 1, 0, 1),
            acknowledged(start, "postgres-1", 1, 10, 11),
            acknowledged(start, "postgres-2", 2, 20, 21),
            acknowledged(start, "postgres-1", 3, 40, 41),
        ];
        assert_eq!(judge(&all, start, Some(&BTreeSet::from([1, 2, 3]))), None);
    }

    #[test]
    fn a_write_sent_before_and_answered_late_is_fine() {
        let start = Instant::now();
        let all = [
            acknowledged(start, "postgres-2", 2, 20, 21),
            acknowledged(start, "postgres-1", 1, 15, 90),
        ];
        assert_eq!(judge(&all, start, None), None);
    }

    #[test]
    fn a_write_sent_to_the_old_server_after_the_new_one_answered_is_not() {
        let start = Instant::now();
        let all = [
            acknowledged(start, "postgres-2", 2, 20, 21),
            acknowledged(start, "postgres-1", 1, 22, 23),
        ];
        let found = judge(&all, start, None).unwrap_or_default();
        assert!(
            found.contains("postgres-1 acknowledged a write on timeline 1, sent 1 ms after postgres-2"),
            "{found}"
        );
        // What was wrong before the window was reported then.
        assert_eq!(judge(&all, start + Duration::from_millis(50), None), None);
    }

    #[test]
    fn two_servers_on_one_timeline_are_not() {
        let start = Instant::now();
        let all = [
            acknowledged(start, "postgres-2", 2, 20, 21),
            acknowledged(start, "postgres-3", 2, 10, 12),
        ];
        assert!(judge(&all, start, None).is_some());
    }

    #[test]
    fn a_timeline_that_the_record_does_not_know_is_not() {
        let start = Instant::now();
        let all = [
            acknowledged(start, "postgres-1", 1, 0, 1),
            acknowledged(start, "postgres-3", 2, 10, 12),
        ];
        assert!(judge(&all, start, Some(&BTreeSet::from([1]))).is_some());
    }
}
