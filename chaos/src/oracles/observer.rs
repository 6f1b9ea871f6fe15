//! The timeline: what the record, the Service and each sidecar's status said, with the time since a start.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgbaton::core::record::Step;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::whole::record_of;
use crate::names::SIDECAR_PORT;

/// Between two looks at a sidecar's status: often enough for people, cheap for the sidecar.
pub const LOOK: Duration = Duration::from_millis(100);
const ASK_BOUND: Duration = Duration::from_millis(500);
/// More than any status; what is longer is cut off and then not JSON.
const STATUS_LIMIT: u64 = 1 << 20;

/// One line of the timeline.
#[derive(Debug, Clone)]
pub struct Entry {
    /// When it was seen.
    pub at: Instant,
    /// Who said it: a member, `record`, `service`.
    pub who: String,
    /// What.
    pub what: String,
    /// The guard's operation that was seen to run: `initialise`, `clone`, `rewind`.
    pub operation: Option<String>,
}

/// All lines so far.
#[derive(Debug)]
pub struct Log {
    entries: Mutex<Vec<Entry>>,
    /// How many there are, for those who wait for the next one.
    length: watch::Sender<usize>,
}

impl Log {
    /// Adds a line.
    pub fn add(&self, who: &str, what: String, operation: Option<String>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(Entry {
            at: Instant::now(),
            who: who.to_owned(),
            what,
            operation,
        });
        self.length.send_replace(entries.len());
    }
}

/// Watches until dropped.
#[derive(Debug)]
pub struct Observer {
    log: Arc<Log>,
    tasks: Vec<JoinHandle<()>>,
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            log: Arc::new(Log {
                entries: Mutex::new(Vec::new()),
                length: watch::Sender::new(0),
            }),
            tasks: Vec::new(),
        }
    }
}

impl Observer {
    /// Runs a watcher, which adds lines, until this is dropped.
    pub fn spawn<W: Future<Output = ()> + Send + 'static>(&mut self, watcher: impl FnOnce(Arc<Log>) -> W) {
        self.tasks.push(tokio::spawn(watcher(self.log.clone())));
    }

    /// Adds a line of somebody else's, such as what was done to the cluster.
    pub fn note(&self, who: &str, what: &str) {
        self.log.add(who, what.to_owned(), None);
    }

    /// Tells each line as it comes, those since `from` first; ends only when dropped.
    pub async fn tell(&self, from: Instant, mut say: impl FnMut(&Entry)) {
        let mut length = self.log.length.subscribe();
        let mut told = 0;
        loop {
            length.borrow_and_update();
            let fresh: Vec<Entry> = {
                let entries = self.log.entries.lock().unwrap_or_else(PoisonError::into_inner);
                entries.iter().skip(told).cloned().collect()
            };
            told += fresh.len();
            fresh.iter().filter(|entry| entry.at >= from).for_each(&mut say);
            if length.changed().await.is_err() {
                return;
            }
        }
    }

    /// What was seen from `from` on, in order.
    #[must_use]
    pub fn since(&self, from: Instant) -> Vec<Entry> {
        let entries = self.log.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut since: Vec<Entry> = entries.iter().filter(|entry| entry.at >= from).cloned().collect();
        since.sort_by_key(|entry| entry.at);
        since
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A member's lines: one whenever what its sidecar says is another thing than before.
#[derive(Debug, Default)]
pub struct MemberLines {
    last: Option<(String, Option<String>)>,
}

impl MemberLines {
    /// Asks the sidecar at this address and adds a line when there is news. No address: there is no pod.
    pub async fn look(&mut self, log: &Log, member: &str, ip: Option<Ipv4Addr>) {
        let now = match ip {
            None => ("there is no pod".to_owned(), None),
            Some(ip) => match status(ip).await {
                Ok(status) => (summary(&status), operation(&status)),
                Err(_) => ("its sidecar does not answer".to_owned(), None),
            },
        };
        // That something lasts, some milliseconds more each time, is no news.
        let key = (without_times(&now.0), now.1.clone());
        if self.last.as_ref() != Some(&key) {
            log.add(member, now.0, now.1);
            self.last = Some(key);
        }
    }
}

/// The lines of the Lease and its record, and of the Service.
#[derive(Debug, Default)]
pub struct ObjectLines {
    last: BTreeMap<&'static str, String>,
    selected: Option<String>,
}

impl ObjectLines {
    /// Adds a line for each fact of the Lease that is another one than before.
    pub fn lease(&mut self, log: &Log, lease: Option<&Value>) {
        for (key, value) in lease_facts(lease) {
            if self.last.get(key) != Some(&value) {
                if !value.is_empty() {
                    log.add("record", format!("{key}: {value}"), None);
                }
                self.last.insert(key, value);
            }
        }
    }

    /// Adds a line when the Service leads elsewhere than before.
    pub fn service(&mut self, log: &Log, service: Option<&Value>) {
        let selected = service
            .and_then(|service| service.pointer("/spec/selector/app")?.as_str())
            .unwrap_or("nobody")
            .to_owned();
        if self.selected.as_ref() != Some(&selected) {
            log.add("service", format!("new connections go to {selected}"), None);
            self.selected = Some(selected);
        }
    }
}

/// The text without its numbers of milliseconds.
#[must_use]
pub fn without_times(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let is_time = |at: usize| {
        words[at].parse::<u64>().is_ok() && words.get(at + 1).is_some_and(|next| next.starts_with("ms"))
    };
    let kept = (0..words.len()).filter(|&at| !is_time(at)).map(|at| words[at]);
    kept.collect::<Vec<_>>().join(" ")
}

/// Role, reason and running operation; the rest of a status changes all the time.
fn summary(status: &Value) -> String {
    let text = |path: &str| {
        status
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    // `why` is a text, or a code with a text.
    let why = if text("/why").is_empty() {
        text("/why/text")
    } else {
        text("/why")
    };
    let parts = [
        text("/role"),
        why,
        operation(status).map_or_else(String::new, |kind| format!("{kind} runs{}", progress(status))),
    ];
    parts
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(": ")
}

fn operation(status: &Value) -> Option<String> {
    Some(status.pointer("/guard/operation/kind")?.as_str()?.to_owned())
}

/// In steps of a quarter: a line of the timeline each.
fn progress(status: &Value) -> String {
    let percent = status.pointer("/guard/operation/percent").and_then(Value::as_f64);
    match percent {
        Some(percent) if percent >= 75.0 => ", three quarters done".to_owned(),
        Some(percent) if percent >= 50.0 => ", half done".to_owned(),
        Some(percent) if percent >= 25.0 => ", a quarter done".to_owned(),
        _ => String::new(),
    }
}

fn lease_facts(lease: Option<&Value>) -> Vec<(&'static str, String)> {
    let Some(lease) = lease else {
        return vec![("Lease", "deleted".to_owned())];
    };
    let holder = lease
        .pointer("/spec/holderIdentity")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let holder = holder.split('_').next().unwrap_or_default();
    let mut facts = vec![
        ("Lease", "present".to_owned()),
        (
            "holder",
            if holder.is_empty() {
                "nobody".to_owned()
            } else {
                holder.to_owned()
            },
        ),
    ];
    let Some(record) = record_of(lease) else {
        facts.push(("record", "missing or unreadable".to_owned()));
        return facts;
    };
    let primary = record.primary.as_ref();
    facts.push((
        "primary",
        primary.map_or_else(String::new, |p| format!("{} in term {}", p.member, record.term)),
    ));
    facts.push(("step", record.step.as_ref().map_or_else(String::new, step_text)));
    facts.push(("sync set", record.current_set().names()));
    facts.push((
        "released",
        record
            .released
            .map_or_else(String::new, |term| format!("term {term}")),
    ));
    if let Some(newest) = record.history.last() {
        facts.push((
            "why",
            format!("{} leads term {}: {}", newest.member, newest.term, newest.why),
        ));
    }
    facts
}

fn step_text(step: &Step) -> String {
    match step {
        Step::Initialising { by } => format!("{by} initialises the cluster"),
        Step::Adopting { by } => format!("{by} adopts its data"),
        Step::Handover { from, to, why, .. } => format!("{from} hands over to {to}: {why}"),
        Step::Promoting { member } => format!("{member} is being promoted"),
        Step::Restarting { member } => format!("{member} restarts in place"),
    }
}

/// The sidecar's `GET /status`.
///
/// # Errors
/// When it does not answer in time, or not with a JSON object.
pub async fn status(ip: Ipv4Addr) -> Result<Value> {
    let body = get(ip, "/status").await?;
    serde_json::from_str(&body).with_context(|| format!("the sidecar at {ip} did not answer with JSON"))
}

/// What the sidecar at this address answers at `path`.
///
/// # Errors
/// When it does not answer in time, or not with status 200.
pub async fn get(ip: Ipv4Addr, path: &str) -> Result<String> {
    let asked = timeout(ASK_BOUND, request(ip, path)).await;
    asked.with_context(|| format!("the sidecar at {ip} did not answer within {ASK_BOUND:?}"))?
}

async fn request(ip: Ipv4Addr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect((ip, SIDECAR_PORT)).await?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {ip}:{SIDECAR_PORT}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(STATUS_LIMIT).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else {
        bail!("not an HTTP answer");
    };
    let code = head.split_whitespace().nth(1).unwrap_or_default();
    if code != "200" {
        bail!("HTTP status {code}");
    }
    Ok(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_lasts_is_no_news() {
        let first = without_times("standby: follows postgres-2, not streaming for 252 ms");
        assert_eq!(
            first,
            without_times("standby: follows postgres-2, not streaming for 1000 ms")
        );
        assert_ne!(
            first,
            without_times("standby: follows postgres-3, not streaming for 252 ms")
        );
        let why = "waiting for the Lease to run out in 1249 ms, 2 members";
        assert_eq!(
            without_times(why),
            "waiting for the Lease to run out in ms, 2 members"
        );
    }
}
