//! `pgbaton rollout`: brings changed templates into the pods, standbys first, by the rights of whoever runs it.
//! What is done next is judged in `core::rollout`; here it is read, asked and done.

mod go;
mod look;
mod waiting;
mod words;

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::Duration;

use super::access::Cluster;
use super::order::interrupted;
use super::{ClusterArgs, End, checks};
use crate::core::types::MemberName;
use go::Rollout;

/// `pgbaton rollout`.
#[derive(Debug, Clone, clap::Args)]
pub struct RolloutArgs {
    /// Where the cluster is.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Only this member's pod; may be given several times (default: all)
    #[arg(long = "member", value_name = "MEMBER")]
    pub members: Vec<MemberName>,
    /// Renew pods too whose templates have not changed
    #[arg(long)]
    pub restart: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask before it begins
    #[arg(short, long)]
    pub yes: bool,
    /// How long to wait for each member until it is whole again
    #[arg(long, default_value = "10m", value_parser = checks::order_timeout)]
    pub timeout: Duration,
}

/// Shows the plan, asks, and does it.
pub(super) async fn run(args: &RolloutArgs) -> anyhow::Result<End> {
    let cluster = Cluster::open(&args.cluster).await?;
    let mut out = std::io::stdout();
    let mut rollout = Rollout::new(&cluster, args, &mut out);
    if let ControlFlow::Break(end) = rollout.begin().await {
        return Ok(end);
    }
    if args.dry_run {
        return Ok(End::Done);
    }
    if !args.yes
        && let ControlFlow::Break(end) = ask()?
    {
        return Ok(end);
    }
    // Until here Ctrl-C ends the program, with nothing done.
    Ok(rollout.go(interrupted()).await)
}

fn ask() -> anyhow::Result<ControlFlow<End>> {
    if !std::io::stdin().is_terminal() {
        eprintln!("pgbaton: there is no terminal to ask on: give --yes, or --dry-run to see the plan only");
        return Ok(ControlFlow::Break(End::Usage));
    }
    print!("Begin? [y/N] ");
    std::io::stdout().flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if matches!(line.trim(), "y" | "Y" | "yes") {
        return Ok(ControlFlow::Continue(()));
    }
    eprintln!("pgbaton: nothing was done");
    Ok(ControlFlow::Break(End::Usage))
}

#[cfg(test)]
mod tests;
