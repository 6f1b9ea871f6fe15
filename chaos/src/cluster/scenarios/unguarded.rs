//! The original manifest, without guard and sidecar, applied again after a takeover: nobody can hold such a server back, so people must
//! be told at once, and nothing may follow it.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::TAKEOVER;
use super::delete::{apply_again, gone};
use crate::cluster::kube::{Kind, text};
use crate::cluster::target::Target;
use crate::names::CLUSTER;
use crate::oracles::observer;
use crate::oracles::sql;
use crate::oracles::trial::{Inflicted, Subject as _};

/// A member as people have it before pgbaton.
const PLAIN: &str = include_str!("../../../cluster/plain-member.yaml");
/// Until its server answers, on a loaded machine.
const STARTED: Duration = Duration::from_secs(120);
/// Lost when the member comes back.
const WRITE: &str = "CREATE TABLE IF NOT EXISTS written_alone (at timestamptz DEFAULT now())";
/// People must be told within this time (issue B, point 6).
const TOLD: Duration = Duration::from_secs(2);
/// How long nobody may follow it.
const ALONE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

pub async fn original(target: &Target) -> Result<Inflicted> {
    let primary = target.primary().await?;
    let volume = target.hosts()?.volume(&target.kube.namespace, &primary);
    let at = Instant::now();
    let set = target.kube.path(Kind::StatefulSet, &primary);
    target.kube.delete(&set, None).await?;
    let successor = target.taken_over(&primary, TAKEOVER).await?;
    gone(target, &primary).await?;
    // The guard leaves it behind so that nothing takes writes by itself. A machine that lost power has none.
    let signal = volume.join("pgdata/standby.signal");
    fs::remove_file(&signal).with_context(|| format!("cannot remove {}", signal.display()))?;
    apply_plain(target, &primary).await?;
    let told = tolerated(target, &primary, &successor).await;
    // Whatever it did: it is taken away, and the guarded manifest comes back.
    target.kube.delete(&set, None).await?;
    gone(target, &primary).await?;
    apply_again(target, &primary).await?;
    let did = format!(
        "deleted the StatefulSet of {primary}; {successor} took over; applied the original one without guard, which took writes: {}; \
         then the guarded one again",
        told?
    );
    Ok(Inflicted::lasting(at, Some(&primary), did))
}

/// StatefulSet and configuration of the original file; its headless Service is the same as deploy/'s but for labels.
async fn apply_plain(target: &Target, member: &str) -> Result<()> {
    let text = PLAIN
        .replace("NAME", member)
        .replace("\"MODE\"", "\"off\"")
        .replace("\"PRIMARY\"", "\"\"");
    let wanted: Vec<&str> = text
        .split("\n---\n")
        .filter(|object| !object.contains("kind: Service\n"))
        .collect();
    let file = tempfile::Builder::new().suffix(".yaml").tempfile()?;
    fs::write(file.path(), wanted.join("\n---\n"))?;
    let path = file.path().to_string_lossy().into_owned();
    target.kubectl(&["apply", "-f", &path]).await.map(|_| ())
}

/// Looks at what the cluster does while the server takes writes. Answers when people were told.
async fn tolerated(target: &Target, member: &str, leader: &str) -> Result<String> {
    let ip = takes_writes(target, member).await?;
    let (writes, since) = (Instant::now(), Timestamp::now());
    let leader_ip = target
        .pod(leader)
        .await?
        .ip
        .context("the leader has no address")?;
    let mut told: [Option<u128>; 3] = [None; 3];
    while told.iter().any(Option::is_none) {
        ensure!(
            writes.elapsed() < TOLD,
            "people were not told within {TOLD:?}: {}",
            times(&told)
        );
        let now = [
            status_says(leader_ip, member).await,
            metric_says(leader_ip).await,
            event_says(target, member, since).await,
        ];
        let ms = writes.elapsed().as_millis();
        for (seen, now) in told.iter_mut().zip(now) {
            if now && seen.is_none() {
                *seen = Some(ms);
            }
        }
        sleep(LOOK).await;
    }
    let until = Instant::now() + ALONE;
    while Instant::now() < until {
        not_followed(target, member, leader, ip).await?;
        sleep(LOOK * 4).await;
    }
    Ok(times(&told))
}

fn times(told: &[Option<u128>; 3]) -> String {
    let names = ["status", "metric", "Event"].iter().zip(told);
    let told = names
        .map(|(name, ms)| ms.map_or_else(|| format!("{name} not"), |ms| format!("{name} after {ms} ms")));
    told.collect::<Vec<_>>().join(", ")
}

async fn takes_writes(target: &Target, member: &str) -> Result<Ipv4Addr> {
    let deadline = Instant::now() + STARTED;
    loop {
        if let Ok(pod) = target.pod(member).await
            && let Some(ip) = pod.ip
            && sql::ask(&target.login, ip, WRITE).await.is_ok()
        {
            return Ok(ip);
        }
        ensure!(
            Instant::now() < deadline,
            "the unguarded server of {member} takes no writes after {STARTED:?}"
        );
        sleep(LOOK).await;
    }
}

async fn status_says(leader: Ipv4Addr, member: &str) -> bool {
    let Ok(status) = observer::status(leader).await else {
        return false;
    };
    let warnings = status["warnings"].as_array().into_iter().flatten();
    let mut texts = warnings.filter_map(Value::as_str);
    texts.any(|text| text.starts_with("a read-write server of this cluster") && text.contains(member))
}

async fn metric_says(leader: Ipv4Addr) -> bool {
    let metrics = observer::get(leader, "/metrics").await.unwrap_or_default();
    let mut lines = metrics.lines();
    lines.any(|line| line.starts_with("pgbaton_unguarded_servers{") && line.ends_with("} 1"))
}

/// An Event of this run: those of earlier ones stay for an hour. One may be older than the answer to the first write.
async fn event_says(target: &Target, member: &str, since: Timestamp) -> bool {
    let events = target.kube.list(Kind::Event).await.unwrap_or_default();
    events.iter().any(|event| {
        let at: Option<Timestamp> = text(event, "/eventTime").and_then(|at| at.parse().ok());
        text(event, "/reason").as_deref() == Some("UnguardedServer")
            && text(event, "/note").is_some_and(|note| note.contains(member))
            && at.is_some_and(|at| at.duration_since(since).as_secs() > -5)
    })
}

async fn not_followed(target: &Target, member: &str, leader: &str, ip: Ipv4Addr) -> Result<()> {
    let record = target
        .record()
        .await
        .context("the Lease has no readable record")?;
    let recorded = record.primary.as_ref().map(|primary| primary.member.as_str());
    ensure!(
        recorded == Some(leader),
        "the record names {recorded:?} as primary"
    );
    let counted = record
        .current_set()
        .standbys
        .iter()
        .any(|s| s.member.as_str() == member);
    ensure!(!counted, "{member} counts for commits without a guard");
    let service = target.kube.get(&target.kube.path(Kind::Service, CLUSTER)).await?;
    let selected = service
        .as_ref()
        .and_then(|service| text(service, "/spec/selector/app"));
    ensure!(
        selected.as_deref() == Some(leader),
        "the Service leads to {selected:?}"
    );
    let followers = sql::ask_one(&target.login, ip, "SELECT count(*) FROM pg_stat_replication").await?;
    ensure!(followers == "0", "{followers} servers follow the unguarded one");
    Ok(())
}
