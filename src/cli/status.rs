//! `pgbaton status`: the cluster as its Lease shows it.

use std::fmt::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Value, json};

use super::access::{Cluster, LeaseSeen};
use super::table::table;
use super::{ClusterArgs, End, words};
use crate::core::record::{Durability, Member, Record};
use crate::core::report::{MemberReport, Report};

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `pgbaton status` and `pgbaton history`.
#[derive(Debug, Clone, clap::Args)]
pub struct StatusArgs {
    /// Where the cluster is.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Prints the status. Fails when the Lease is damaged, so that scripts notice.
pub(super) async fn run(args: &StatusArgs) -> anyhow::Result<End> {
    let cluster = Cluster::open(&args.cluster).await?;
    let seen = cluster.read().await?;
    match args.output {
        Output::Table => print!("{}", page(&cluster.name(), &seen)),
        Output::Json => println!("{:#}", json_page(&cluster.name(), &seen)),
    }
    Ok(if seen.record.is_ok() {
        End::Done
    } else {
        End::Failed
    })
}

fn json_page(name: &str, seen: &LeaseSeen) -> Value {
    let report = seen.report.as_ref();
    let order = seen.order.as_ref();
    json!({
        "cluster": name,
        "lease": {
            "holder": seen.holder,
            "transitions": seen.transitions,
            "renewed_ago_ms": seen.renewed_ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
            "duration_ms": u64::try_from(seen.duration.as_millis()).unwrap_or(u64::MAX),
        },
        "record": seen.record.as_ref().ok(),
        "record_error": seen.record.as_ref().err(),
        "report": report.and_then(|r| r.as_ref().ok()),
        "report_error": report.and_then(|r| r.as_ref().err()),
        "order": order.and_then(|o| o.as_ref().ok()),
        "order_error": order.and_then(|o| o.as_ref().err()),
        "order_result": seen.result,
    })
}

fn page(name: &str, seen: &LeaseSeen) -> String {
    let mut text = String::new();
    match &seen.record {
        Ok(record) => record_part(&mut text, name, seen, record),
        Err(damage) => {
            line(&mut text, format_args!("{damage}"));
            line(&mut text, format_args!("{}", leader(seen)));
        }
    }
    match &seen.report {
        Some(Ok(report)) => report_part(&mut text, seen, report),
        Some(Err(error)) => line(&mut text, format_args!("why: not known: {error}")),
        None => line(
            &mut text,
            format_args!("why: not known: no leader has reported yet"),
        ),
    }
    order_part(&mut text, seen);
    text
}

fn line(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{what}");
}

fn record_part(text: &mut String, name: &str, seen: &LeaseSeen, record: &Record) {
    let durability = match record.durability {
        Durability::Sync => "sync",
        Durability::Async => "async",
    };
    line(
        text,
        format_args!(
            "cluster {name}: {durability}, term {}, {}",
            record.term,
            leader(seen)
        ),
    );
    if record.is_never_initialised() {
        line(
            text,
            format_args!(
                "never initialised: waiting for the first primary (STANDBY_MODE=off), or for servers with data to be adopted; each \
                 member's events and its own /status say what is awaited"
            ),
        );
    }
    let report = seen.report.as_ref().and_then(|r| r.as_ref().ok());
    let rows: Vec<Vec<String>> = record.members.iter().map(|m| row(record, m, report)).collect();
    if !rows.is_empty() {
        let header = [
            "MEMBER",
            "ROLE",
            "TERM/TIMELINE",
            "SYNC",
            "LAG",
            "ADDRESS",
            "DATA",
            "STATE",
        ];
        text.push_str(&table(&header, &rows));
    }
    if record.paused {
        line(text, format_args!("paused: no takeover until 'pgbaton resume'"));
    }
    if let Some(step) = &record.step {
        line(text, format_args!("in progress: {step}"));
    }
}

fn leader(seen: &LeaseSeen) -> String {
    let Some(holder) = &seen.holder else {
        return "nobody holds the Lease".to_owned();
    };
    let member = holder.split('_').next().unwrap_or(holder);
    match seen.renewed_ago {
        Some(ago) if ago > seen.duration => format!(
            "{member} held the Lease and has not renewed it for {}: no leader",
            words::duration(ago)
        ),
        Some(ago) => format!("led by {member} (renewed {} ago)", words::duration(ago)),
        None => format!("led by {member}"),
    }
}

fn row(record: &Record, member: &Member, report: Option<&Report>) -> Vec<String> {
    let told: Option<&MemberReport> =
        report.and_then(|report| report.members.iter().find(|m| m.member == member.member));
    let is_primary = record.primary.as_ref().is_some_and(|p| p.member == member.member);
    let role = match told {
        Some(told) => told.role.clone(),
        None if is_primary => "primary".to_owned(),
        None => "unknown".to_owned(),
    };
    let timeline = told
        .and_then(|t| t.timeline)
        .or(record.timeline.filter(|_| is_primary))
        .map_or_else(|| "?".to_owned(), |t| t.to_string());
    let term = if is_primary {
        record.term.to_string()
    } else {
        "-".to_owned()
    };
    let sync = told.map(|t| t.sync.clone()).filter(|s| !s.is_empty());
    let lag = match told.and_then(|t| t.lag_bytes) {
        _ if is_primary => "-".to_owned(),
        Some(lag) => words::bytes(lag),
        None => "?".to_owned(),
    };
    vec![
        member.member.to_string(),
        role,
        format!("{term}/{timeline}"),
        sync.unwrap_or_else(|| recorded_sync(record, member).to_owned()),
        lag,
        address(member),
        member.data_id.to_string(),
        told.map_or_else(String::new, |t| t.state.clone()),
    ]
}

fn address(member: &Member) -> String {
    let (ip, port) = (&member.address.ip, member.address.postgres_port);
    if ip.contains(':') {
        format!("[{ip}]:{port}")
    } else {
        format!("{ip}:{port}")
    }
}

/// How the record counts a member for commits.
fn recorded_sync(record: &Record, member: &Member) -> &'static str {
    let data = member.data();
    if record.current_set().standbys.contains(&data) {
        "sync"
    } else if record.sync_sets.iter().any(|set| set.standbys.contains(&data)) {
        "former"
    } else {
        "-"
    }
}

fn report_part(text: &mut String, seen: &LeaseSeen, report: &Report) {
    line(text, format_args!("why: {}", report.why));
    // What a leader said that is gone does not hold now.
    let stale = seen.holder.is_none() || seen.renewed_ago.unwrap_or(Duration::ZERO) > seen.duration;
    let answer = words::could_fail_over(&report.could_fail_over);
    if stale {
        line(
            text,
            format_args!(
                "could fail over, as of {} (the last leader's word): {answer}",
                report.at
            ),
        );
    } else {
        line(text, format_args!("could fail over now: {answer}"));
    }
    for warning in &report.warnings {
        line(text, format_args!("warning: {warning}"));
    }
}

fn order_part(text: &mut String, seen: &LeaseSeen) {
    match &seen.order {
        Some(Err(error)) => line(
            text,
            format_args!("warning: the order on the Lease is ignored: {error}"),
        ),
        Some(Ok(order)) => {
            let words = words::order(order);
            match seen.result.as_ref().filter(|result| result.id == order.id) {
                Some(result) if result.state.is_final() => {}
                Some(result) => line(
                    text,
                    format_args!("ordered: {words}, since {}: {}", order.at, result.text),
                ),
                None => line(
                    text,
                    format_args!("ordered: {words}, since {}: not taken up yet", order.at),
                ),
            }
        }
        None => {}
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
pub(super) mod tests;
