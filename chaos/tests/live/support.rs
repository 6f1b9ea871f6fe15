//! A rig of the real binary, what it says, and the commands of people.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgbaton::core::record::Record;
use pgbaton_chaos::local::api::{Kind, Rule};
use pgbaton_chaos::local::kubelet::{Kubelet, Role};
use pgbaton_chaos::local::rig::Rig;
use pgbaton_chaos::local::settings::{Choice, NAMESPACE};
use pgbaton_chaos::local::{watchdog, whole};
use pgbaton_chaos::names::SIDECAR_PORT;
use pgbaton_chaos::oracles::sql;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

/// Generous: the machine may be loaded.
pub const BOUND: Duration = Duration::from_secs(120);
/// A rollout of a whole cluster takes a minute or two.
const COMMAND_BOUND: Duration = Duration::from_secs(300);
const ASK_BOUND: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
/// Lines of each log that are shown when a test fails.
const SHOWN: usize = 25;

/// Clusters at a time: most of them wait for a Lease to run out, or do nothing on purpose.
static FEW: Semaphore = Semaphore::const_new(2);

/// For tests whose time is that of a Lease running out.
pub fn short_lease(choice: &mut Choice) {
    let short = ("PGBATON_LEASE_DURATION".to_owned(), "4s".to_owned());
    choice.sidecar_env.push(short);
}

/// A running rig; a test that fails shows its logs.
pub struct Live {
    rig: Option<Rig>,
    _one_of_few: SemaphorePermit<'static>,
}

/// How a command of people ended.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Live {
    /// Starts a rig; returns before it is whole.
    pub async fn start(subnet: u8, change: impl FnOnce(&mut Choice)) -> Self {
        let one_of_few = FEW.acquire().await.unwrap();
        let chaos = PathBuf::from(env!("CARGO_BIN_EXE_pgbaton-chaos"));
        let pgbaton = chaos.with_file_name("pgbaton");
        assert!(
            pgbaton.is_file(),
            "there is no {}: run 'cargo build --release --workspace', or 'make test'",
            pgbaton.display()
        );
        let mut choice = Choice {
            subnet,
            pgbaton: Some(pgbaton),
            chaos: Some(chaos),
            ..Choice::default()
        };
        change(&mut choice);
        Self {
            rig: Some(Rig::start(choice).await.unwrap()),
            _one_of_few: one_of_few,
        }
    }

    /// A whole cluster, in which a standby could take over.
    pub async fn whole(subnet: u8, change: impl FnOnce(&mut Choice)) -> Self {
        let live = Self::start(subnet, change).await;
        live.until_settled().await;
        live
    }

    /// Whole, and with no former sync set left that a takeover would have to prove too.
    pub async fn until_settled(&self) {
        self.until_whole().await;
        let deadline = Instant::now() + BOUND;
        while self.record().is_none_or(|record| record.sync_sets.len() > 1) {
            assert!(
                Instant::now() < deadline,
                "former sync sets stay: {:#?}",
                self.record()
            );
            sleep(LOOK).await;
        }
        if self.rig().members.len() > 1 {
            let primary = self.rig().primary().unwrap();
            let could = |page: &Value| page["could_fail_over"]["yes"] == Value::Bool(true);
            self.until_status(&primary, "it could fail over", could).await;
        }
    }

    pub fn rig(&self) -> &Rig {
        self.rig.as_ref().unwrap()
    }

    pub async fn until_whole(&self) {
        if let Err(missing) = self.rig().wait_whole(BOUND).await {
            panic!("not whole after {BOUND:?}: {}", missing.join("; "));
        }
    }

    pub fn member(&self, name: &str) -> &Kubelet {
        self.rig().kubelet(name).unwrap()
    }

    pub fn record(&self) -> Option<Record> {
        whole::record(&self.rig().store)
    }

    pub fn term(&self) -> u64 {
        self.record().unwrap().term.0
    }

    /// One answer over HTTP: status code and body.
    pub async fn get(&self, member: &str, path: &str) -> Option<(u16, String)> {
        let ip = self.member(member).member().ip;
        let ask = async {
            let mut stream = TcpStream::connect((ip, SIDECAR_PORT)).await.ok()?;
            let request = format!("GET {path} HTTP/1.0\r\nHost: {ip}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
        };
        timeout(ASK_BOUND, ask).await.ok()?
    }

    /// As `get`, once the answer is 200: what is served is as old as the member's last look.
    pub async fn get_good(&self, member: &str, path: &str) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            let answer = self.get(member, path).await;
            if let Some((200, body)) = answer {
                return body;
            }
            assert!(Instant::now() < deadline, "{member}{path}: {answer:?}");
            sleep(LOOK).await;
        }
    }

    /// The member's status page, checked against its schema.
    pub async fn status(&self, member: &str) -> Option<Value> {
        let (code, body) = self.get(member, "/status").await?;
        assert_eq!(code, 200, "{member}: {body}");
        let page: Value = serde_json::from_str(&body).unwrap();
        let wrong = super::schema::wrong(&page);
        assert!(wrong.is_empty(), "{member}: {wrong:?} in {page:#}");
        Some(page)
    }

    /// Waits until a member's status page satisfies the condition.
    pub async fn until_status(&self, member: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + BOUND;
        let mut last = Value::Null;
        while Instant::now() < deadline {
            if let Some(page) = self.status(member).await {
                if holds(&page) {
                    return page;
                }
                last = page;
            }
            sleep(LOOK).await;
        }
        panic!("{member} not within {BOUND:?}: {what}: {last:#}");
    }

    /// Waits until one of a member's warnings contains all the words.
    pub async fn until_warned(&self, member: &str, words: &[&str]) {
        let what = format!("a warning with {words:?}");
        self.until_status(member, &what, |page| {
            let warnings = page["warnings"].as_array().into_iter().flatten();
            let mut texts = warnings.filter_map(Value::as_str);
            texts.any(|text| words.iter().all(|word| text.contains(word)))
        })
        .await;
    }

    /// `pgbaton` with a person's rights.
    pub async fn pgbaton(&self, words: &[&str]) -> Ran {
        self.pgbaton_as(&self.rig().kubeconfig, words).await
    }

    /// `pgbaton` with the rights of this kubeconfig.
    pub async fn pgbaton_as(&self, kubeconfig: &Path, words: &[&str]) -> Ran {
        let settings = &self.rig().settings;
        let run = tokio::process::Command::new(&settings.pgbaton)
            .args(words)
            .args(["-n", NAMESPACE, "--kubeconfig"])
            .arg(kubeconfig)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = timeout(COMMAND_BOUND, run).await.unwrap().unwrap();
        Ran {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Gives a member these rules under the token that it has.
    pub fn set_rules(&self, member: &str, rules: Vec<Rule>) {
        let api = self.rig().store.api();
        let text = api.kubeconfig(member, NAMESPACE).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        let token = config["users"][0]["user"]["token"].as_str().unwrap().to_owned();
        api.add_user(member, &token, rules);
    }

    /// Waits until there is an Event with this reason by this member, and gives its text.
    pub async fn until_event(&self, member: &str, reason: &str) -> String {
        let deadline = Instant::now() + BOUND;
        loop {
            let events = self.rig().store.api().list(Kind::Event, NAMESPACE);
            let found = events
                .iter()
                .find(|event| event["reason"] == reason && event["reportingInstance"] == member);
            if let Some(event) = found {
                return event["message"].as_str().unwrap_or_default().to_owned();
            }
            assert!(
                Instant::now() < deadline,
                "{member} posted no Event {reason}: {events:#?}"
            );
            sleep(LOOK).await;
        }
    }

    /// Kills a member's processes and keeps it down.
    pub async fn away(&self, member: &str) {
        let kubelet = self.member(member);
        kubelet.hold(true);
        kubelet.kill();
        kubelet.gone().await.unwrap();
    }

    /// The server at this member's address takes a write.
    pub async fn takes_writes(&self, member: &str) -> bool {
        let text = "CREATE TABLE IF NOT EXISTS live_test (id int); INSERT INTO live_test VALUES (1)";
        let ip = self.member(member).member().ip;
        sql::ask(&self.rig().settings.login, ip, text).await.is_ok()
    }

    /// What a container of a member logged.
    pub fn log(&self, member: &str, role: Role) -> String {
        let path = self.member(member).member().log(role.container());
        String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
    }

    pub async fn end(mut self) {
        let rig = self.rig.take().unwrap();
        let directory = rig.settings.directory.clone();
        rig.end(false).await.unwrap();
        assert!(!directory.exists());
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let Some(rig) = &self.rig else { return };
        for member in &rig.members {
            for role in Role::ALL {
                show_end(&member.log(role.container()));
            }
        }
        if std::env::var_os("PGBATON_KEEP").is_some_and(|value| value == "1") {
            let _ = watchdog::keep_directory(&rig.settings.directory);
            eprintln!("logs and data stay in {}", rig.settings.directory.display());
        }
    }
}

fn show_end(log: &Path) {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    eprintln!("--- {}", log.display());
    for line in &lines[lines.len().saturating_sub(SHOWN)..] {
        eprintln!("{line}");
    }
}
