//! What is kept of a run: the report, the timeline, the Lease's history, Events, and the logs of all containers.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::Instant;

use super::kube::{Kind, text};
use super::target::Target;
use super::watchers::LeaseHistory;
use crate::oracles::observer::Observer;
use crate::oracles::workload::{Span, Workload};
use crate::report::FaultReport;

/// Lines of each container's log that are kept.
const LOG_LINES: u32 = 2000;

/// Writes everything into `directory`, which is made.
///
/// # Errors
/// When a file cannot be written; what the cluster does not tell is noted in its place.
pub async fn write(
    directory: &Path,
    target: &Target,
    observer: &Observer,
    workload: &Workload,
    leases: &LeaseHistory,
    from: Instant,
    report: &FaultReport,
) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let put = |name: &str, content: &str| {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    };
    put("report.json", &report.json())?;
    put("report.txt", &report.text())?;
    put("timeline.txt", &timeline(observer, from))?;
    let spans = workload.error_spans(from);
    let line = |s: &Span| {
        format!(
            "{:>8} to {:>8} ms, {:>6} times: {}\n",
            s.first_ms, s.last_ms, s.count, s.text
        )
    };
    put("client-errors.txt", &spans.iter().map(line).collect::<String>())?;
    let leases: Vec<String> = {
        let leases = leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.iter().map(Value::to_string).collect()
    };
    put("leases.jsonl", &leases.join("\n"))?;
    let events = target.kube.list(Kind::Event).await;
    put(
        "events.txt",
        &events.map_or_else(|e| format!("{e:#}"), |events| event_lines(&events)),
    )?;
    for member in &target.members {
        for container in ["sidecar", "postgres"] {
            for previous in [false, true] {
                let path = target.kube.path(Kind::Pod, &format!("{member}-0"));
                let path =
                    format!("{path}/log?container={container}&tailLines={LOG_LINES}&previous={previous}");
                if let Ok(log) = target.kube.text(&path).await {
                    let which = if previous { "-previous" } else { "" };
                    put(&format!("{member}-{container}{which}.log"), &log)?;
                }
            }
        }
    }
    Ok(())
}

fn timeline(observer: &Observer, from: Instant) -> String {
    let mut lines = String::new();
    for entry in observer.since(from) {
        let ms = entry.at.saturating_duration_since(from).as_millis();
        let _ = writeln!(lines, "{ms:>8} ms  {:<12} {}", entry.who, entry.what);
    }
    lines
}

fn event_lines(events: &[Value]) -> String {
    let mut lines: Vec<String> = events
        .iter()
        .map(|event| {
            let part = |pointer| text(event, pointer).unwrap_or_default();
            let at = [part("/eventTime"), part("/deprecatedLastTimestamp")].concat();
            let about = [part("/regarding/kind"), part("/regarding/name")].join("/");
            format!(
                "{at} {} {about} {}: {}",
                part("/type"),
                part("/reason"),
                part("/note")
            )
        })
        .collect();
    lines.sort();
    lines.join("\n")
}
