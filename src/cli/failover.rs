//! `pgbaton failover`: the one order that may lose data. Says what, and asks for the cluster's name.

use std::fmt::Write as _;
use std::io::{BufRead, IsTerminal, Write};

use super::access::{Cluster, LeaseSeen};
use super::order::{give, interrupted, new_order};
use super::{End, OrderArgs, words};
use crate::core::orders::OrderKind;
use crate::core::types::MemberName;

/// `pgbaton failover`.
#[derive(Debug, Clone, clap::Args)]
pub struct FailoverArgs {
    /// The member to promote
    #[arg(long, value_name = "MEMBER")]
    pub to: MemberName,
    /// Commits that this member does not hold are lost for good, acknowledged ones too
    #[arg(long, required = true)]
    pub accept_data_loss: bool,
    /// The cluster's name (namespace/lease) instead of the question
    #[arg(long = "cluster", value_name = "NAMESPACE/LEASE")]
    pub cluster_name: Option<String>,
    /// Common options.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Asks, then gives the order.
pub(super) async fn run(args: &FailoverArgs) -> anyhow::Result<End> {
    let cluster = Cluster::open(&args.order.cluster).await?;
    let seen = cluster.read().await?;
    let mut out = std::io::stdout();
    print!("{}", what_may_be_lost(&seen, &args.to));
    out.flush()?;
    let name = match &args.cluster_name {
        Some(name) => name.clone(),
        None if std::io::stdin().is_terminal() => {
            print!("Type the cluster's name ({}) to go on: ", cluster.name());
            out.flush()?;
            let mut line = String::new();
            std::io::stdin().lock().read_line(&mut line)?;
            line.trim().to_owned()
        }
        None => {
            eprintln!(
                "pgbaton: there is no terminal to ask on: give --cluster {}",
                cluster.name()
            );
            return Ok(End::Usage);
        }
    };
    if name != cluster.name() {
        eprintln!(
            "pgbaton: '{name}' is not this cluster's name ({}): nothing was ordered",
            cluster.name()
        );
        return Ok(End::Usage);
    }
    let order = new_order(OrderKind::Failover, Some(args.to.clone()))?;
    Ok(give(&cluster, &order, &args.order, &mut out, interrupted()).await)
}

/// What a person should know before.
fn what_may_be_lost(seen: &LeaseSeen, to: &MemberName) -> String {
    let mut text = format!("Failover to {to} without proof that it holds every acknowledged commit.\n");
    let report = seen.report.as_ref().and_then(|r| r.as_ref().ok());
    if let Ok(record) = &seen.record {
        if let Some(primary) = &record.primary {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "Recorded primary: {} (term {}).",
                primary.member, record.term
            );
        }
        if let Some(wal) = record.leader_wal {
            let _ = writeln!(
                text,
                "Its WAL was at {} on {}.",
                wal.lsn,
                words::moment(wal.at_unix_ms)
            );
        }
    }
    let told = report.and_then(|r| r.members.iter().find(|m| m.member == *to).map(|m| (r, m)));
    match told.and_then(|(report, member)| Some((report, member.lag_bytes?))) {
        Some((report, lag)) => {
            let _ = writeln!(text, "{to} lacked {} of WAL on {}.", words::bytes(lag), report.at);
        }
        None => {
            let _ = writeln!(text, "How much {to} lacks is not known.");
        }
    }
    if let Some(report) = report {
        let answer = words::could_fail_over(&report.could_fail_over);
        let _ = writeln!(
            text,
            "A takeover without loss was possible on {}: {answer}.",
            report.at
        );
    }
    text.push_str("What it lacks is lost for good; members that hold it are rewound or cloned.\n");
    text
}

#[cfg(test)]
#[path = "failover_tests.rs"]
mod tests;
