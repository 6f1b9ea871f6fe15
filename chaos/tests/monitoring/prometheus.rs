//! A Prometheus of its own on loopback, and questions to it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgbaton_chaos::local::settings::{NAMESPACE, Settings};
use pgbaton_chaos::names::SIDECAR_PORT;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::rules::RULES;
use super::support::BOUND;
use super::{promtool, read, repository};

const PORT: u16 = 9090;
const ASK_BOUND: Duration = Duration::from_secs(10);
/// Warnings that wait do so for this long here.
pub const SHORT_FOR: &str = "5s";

/// Not looked at: rightly so, it fires where this machine's disk is full. Its own test has a recording on a small file system.
const OF_THE_MACHINE: &str = "PgbatonVolumeFilling";

/// Ends with this value.
pub struct Prometheus {
    child: Child,
    ip: Ipv4Addr,
    /// Its files; its log is shown when it does not start.
    directory: TempDir,
}

impl Prometheus {
    /// Scrapes the members of this rig every second, as a PodMonitor would, with the rules and shorter waits.
    pub async fn start(settings: &Settings) -> Self {
        let programs = promtool::programs(&repository());
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("rules.yaml"), shortened(&read(RULES))).unwrap();
        std::fs::write(at("prometheus.yaml"), configuration(settings)).unwrap();
        let log = std::fs::File::create(at("log")).unwrap();
        let ip = settings.ip(200);
        let child = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", at("prometheus.yaml").display()))
            .arg(format!("--storage.tsdb.path={}", at("data").display()))
            .arg(format!("--web.listen-address={ip}:{PORT}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let started = Self { child, ip, directory };
        let deadline = Instant::now() + BOUND;
        while started.get("/-/ready").await.is_none() {
            assert!(
                Instant::now() < deadline,
                "Prometheus is not ready:\n{}",
                started.log()
            );
            sleep(Duration::from_millis(100)).await;
        }
        started
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The body of a good answer.
    async fn get(&self, path: &str) -> Option<String> {
        let ask = async {
            let mut stream = TcpStream::connect((self.ip, PORT)).await.ok()?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.ip);
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            (head.split_whitespace().nth(1)? == "200").then(|| body.to_owned())
        };
        timeout(ASK_BOUND, ask).await.ok()?
    }

    async fn data(&self, path: &str) -> Value {
        let answer = self.get(path).await;
        let answer = answer.unwrap_or_else(|| panic!("{path}: no good answer\n{}", self.log()));
        serde_json::from_str::<Value>(&answer).unwrap()["data"].take()
    }

    /// Alerts that fire now, with their texts.
    pub async fn firing(&self) -> Vec<Value> {
        let data = self.data("/api/v1/alerts").await;
        let all = data["alerts"].as_array().cloned().unwrap_or_default();
        let counts = |alert: &Value| alert["state"] == "firing" && name(alert) != OF_THE_MACHINE;
        all.into_iter().filter(counts).collect()
    }

    /// Waits until the alerts that fire are exactly these; how long it took.
    pub async fn until_firing(&self, wanted: &[&str]) -> Duration {
        let began = Instant::now();
        loop {
            let firing = self.firing().await;
            let names: BTreeSet<&str> = firing.iter().map(name).collect();
            if names == wanted.iter().copied().collect() {
                for alert in &firing {
                    texts_are_whole(alert);
                }
                return began.elapsed();
            }
            assert!(
                began.elapsed() < BOUND,
                "not within {BOUND:?}: exactly {wanted:?} fire; those that do: {firing:#?}"
            );
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits until a query has an answer.
    pub async fn until(&self, query: &str) {
        let deadline = Instant::now() + BOUND;
        let path = format!("/api/v1/query?query={}", encoded(query));
        while self.data(&path).await["result"]
            .as_array()
            .is_none_or(Vec::is_empty)
        {
            assert!(Instant::now() < deadline, "no answer within {BOUND:?}: {query}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The series of a query over a time, a sample a second.
    pub async fn over(&self, query: &str, from: f64, to: f64) -> Vec<Value> {
        let query = encoded(query);
        let path = format!("/api/v1/query_range?query={query}&start={from}&end={to}&step=1");
        let data = self.data(&path).await;
        data["result"].as_array().cloned().unwrap_or_default()
    }

    /// Names of the alerts that fired at some moment since then. The last step of a range may lie before the last evaluation: what fires now
    /// is asked for beside it.
    pub async fn fired_since(&self, from: f64) -> BTreeSet<String> {
        let firing = "ALERTS{alertstate=\"firing\"}";
        let mut series = self.over(firing, from, now()).await;
        let path = format!("/api/v1/query?query={}", encoded(firing));
        let data = self.data(&path).await;
        series.extend(data["result"].as_array().cloned().unwrap_or_default());
        let of = |series: &Value| series["metric"]["alertname"].as_str().map(str::to_owned);
        let named = series.iter().filter_map(of);
        named.filter(|name| name != OF_THE_MACHINE).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn name(alert: &Value) -> &str {
    alert["labels"]["alertname"].as_str().unwrap_or_default()
}

/// A template that names what there is not leaves an error or a hole.
fn texts_are_whole(alert: &Value) {
    for key in ["summary", "description", "runbook_url"] {
        let text = alert["annotations"][key].as_str().unwrap_or_default();
        let bad =
            text.is_empty() || text.contains("<no value>") || text.contains("<error") || text.contains("{{");
        assert!(!bad, "{}: {key}: {text}", name(alert));
    }
    let about = [NAMESPACE, "postgres"];
    let summary = alert["annotations"]["summary"].as_str().unwrap_or_default();
    assert!(about.iter().all(|word| summary.contains(word)), "{summary}");
}

/// The `for:` of warnings cut to `SHORT_FOR`; all else is as shipped. Critical alerts wait as they do: a machine that is busy may need some
/// seconds for a takeover.
fn shortened(rules: &str) -> String {
    let mut alerts = rules.split("  - alert: ");
    let mut text = alerts.next().unwrap_or_default().to_owned();
    let mut cut = 0;
    for alert in alerts {
        text.push_str("  - alert: ");
        for line in alert.lines() {
            if line.starts_with("    for: ") && alert.contains("severity: warning") {
                cut += 1;
                let _ = writeln!(text, "    for: {SHORT_FOR}");
            } else {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    assert!(cut >= 6, "the rules are not written as expected");
    text
}

fn configuration(settings: &Settings) -> String {
    let members = settings.choice.members;
    let targets: Vec<String> = (1..=members)
        .map(|index| format!("'{}:{SIDECAR_PORT}'", settings.member_ip(index)))
        .collect();
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yaml]\nscrape_configs:\n\
         - job_name: postgres\n  honor_labels: true\n  static_configs:\n  - targets: [{}]\n    labels: {{namespace: {NAMESPACE}}}\n",
        targets.join(", ")
    )
}

/// As the part of a URL behind `=`.
fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            out.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// The wall clock, in seconds since 1970.
pub fn now() -> f64 {
    let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    since.as_secs_f64()
}

/// Nothing is started where it would not be found.
#[test]
fn it_is_there() {
    let programs = promtool::programs(&repository());
    for program in ["prometheus", "promtool"] {
        assert!(Path::new(&programs).join(program).is_file(), "{program}");
    }
}
