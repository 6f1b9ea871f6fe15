//! The command line. Each command has a module; those of people talk to the API server only.

mod access;
mod checks;
pub mod failover;
pub mod guard;
pub mod history;
pub mod install;
pub mod logging;
mod order;
pub mod prepare;
mod refused;
pub mod rollout;
pub mod sidecar;
pub mod status;
mod table;
mod words;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::core::orders::OrderKind;
use crate::core::types::MemberName;

/// How a command ended, as exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// 0: done.
    Done,
    /// 1: refused or failed; nothing is half done.
    Failed,
    /// 2: not understood; nothing was tried.
    Usage,
    /// 3: no answer in time; it may have been done or not.
    Unknown,
}

impl From<End> for ExitCode {
    fn from(end: End) -> Self {
        Self::from(match end {
            End::Done => 0,
            End::Failed => 1,
            End::Usage => 2,
            End::Unknown => 3,
        })
    }
}

/// Automated failover for PostgreSQL on Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "pgbaton", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run PostgreSQL under a permit (main process of the postgres container)
    Guard(Box<guard::GuardArgs>),
    /// Observe, decide and act for one member (container beside PostgreSQL)
    Sidecar(Box<sidecar::Args>),
    /// Put this program into a directory, for PostgreSQL's container (init container, where there are no native sidecars)
    Install(install::InstallArgs),
    /// Check and prepare PostgreSQL's volume before the guard starts (init container of PostgreSQL's image)
    Prepare(prepare::PrepareArgs),
    /// Show the cluster, and whether it could fail over now
    Status(status::StatusArgs),
    /// Hand the primary role over on purpose, losing nothing
    Switchover(SwitchoverArgs),
    /// Bring changed templates (images, resources) into the pods: standbys, switchover, old primary
    Rollout(rollout::RolloutArgs),
    /// Promote a member without proof: acknowledged commits may be lost
    Failover(failover::FailoverArgs),
    /// No takeover until resume; the primary goes on
    Pause(OrderArgs),
    /// End a pause
    Resume(OrderArgs),
    /// Write a damaged record anew from one member's data
    Adopt(AdoptArgs),
    /// Show the last terms: who led, why, and how long the takeover took
    History(status::StatusArgs),
}

/// Where the cluster is.
#[derive(Debug, Clone, Args)]
pub struct ClusterArgs {
    /// Namespace of the cluster (default: that of the kubeconfig's context, or of the pod)
    #[arg(short, long, env = "POD_NAMESPACE", value_parser = checks::namespace_value)]
    pub namespace: Option<String>,
    /// Name of the Lease that holds the record
    #[arg(long, env = "PGBATON_LEASE", default_value = "postgres", value_parser = checks::lease_value)]
    pub lease: String,
    /// Kubeconfig (default: the pod's service account, or ~/.kube/config)
    #[arg(long, env = "KUBECONFIG", value_parser = checks::path_value)]
    pub kubeconfig: Option<PathBuf>,
}

/// What every order takes.
#[derive(Debug, Clone, Args)]
pub struct OrderArgs {
    /// Where the cluster is.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// How long to wait for the end; an order that nobody took up by then is withdrawn
    #[arg(long, default_value = "60s", value_parser = checks::order_timeout)]
    pub timeout: std::time::Duration,
    /// Replace an order of somebody else that was never answered
    #[arg(long)]
    pub replace: bool,
}

/// `pgbaton switchover`.
#[derive(Debug, Clone, Args)]
pub struct SwitchoverArgs {
    /// The member to hand over to (default: the fittest standby)
    #[arg(long, value_name = "MEMBER")]
    pub to: Option<MemberName>,
    /// Common options.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// `pgbaton adopt`.
#[derive(Debug, Clone, Args)]
pub struct AdoptArgs {
    /// The member whose data count
    #[arg(long, value_name = "MEMBER")]
    pub to: MemberName,
    /// Common options.
    #[command(flatten)]
    pub order: OrderArgs,
}

/// Reads the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; with a closed terminal there is nobody to tell.
            if !error.use_stderr() {
                let _ = error.print();
                return End::Done.into();
            }
            let subcommand = std::env::args().nth(1).unwrap_or_default();
            let text = checks::with_environment(&error, &Cli::command(), &subcommand);
            eprint!("{text}");
            if subcommand == "sidecar" {
                refused::tell(&text);
            }
            return End::Usage.into();
        }
    };
    match cli.command {
        Command::Guard(args) => guard::run(*args).unwrap_or_else(|error| failed("pgbaton guard", &error)),
        Command::Sidecar(args) => sidecar::run(*args),
        Command::Install(args) => ended("pgbaton install", install::run(&args)),
        Command::Prepare(args) => ended("pgbaton prepare", prepare::run(args)),
        person => ended("pgbaton", for_person(person)),
    }
}

fn ended(who: &str, result: anyhow::Result<End>) -> ExitCode {
    result.map_or_else(|error| failed(who, &error), ExitCode::from)
}

fn failed(who: &str, error: &anyhow::Error) -> ExitCode {
    eprintln!("{who}: {error:#}");
    End::Failed.into()
}

fn for_person(command: Command) -> anyhow::Result<End> {
    logging::for_person();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match command {
            // They have been taken in `main`.
            Command::Guard(_) | Command::Sidecar(_) | Command::Install(_) | Command::Prepare(_) => {
                Ok(End::Usage)
            }
            Command::Status(args) => status::run(&args).await,
            Command::History(args) => history::run(&args).await,
            Command::Failover(args) => failover::run(&args).await,
            Command::Rollout(args) => rollout::run(&args).await,
            Command::Switchover(args) => order::run(&args.order, OrderKind::Switchover, args.to).await,
            Command::Pause(args) => order::run(&args, OrderKind::Pause, None).await,
            Command::Resume(args) => order::run(&args, OrderKind::Resume, None).await,
            Command::Adopt(args) => order::run(&args.order, OrderKind::Adopt, Some(args.to)).await,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_is_wrong_on_the_command_line_is_refused() {
        let good = [
            "pgbaton status -n prod -o json",
            "pgbaton switchover",
            "pgbaton switchover --to postgres-2 --timeout 5s",
            "pgbaton failover --to postgres-2 --accept-data-loss --cluster default/postgres",
            "pgbaton adopt --to postgres-1",
            "pgbaton rollout --dry-run",
            "pgbaton rollout -y --restart --member postgres-1 --member postgres-2 --timeout 15m",
            "pgbaton pause",
            "pgbaton history",
            "pgbaton install /pgbaton-bin",
            "pgbaton prepare --pgdata /data/pgdata --archive-dir /data/archive --user 70",
        ];
        let bad = [
            "pgbaton",
            "pgbaton failover --to postgres-2",
            "pgbaton failover --accept-data-loss",
            "pgbaton switchover --to Postgres_2",
            "pgbaton switchover --timeout soon",
            "pgbaton adopt",
            "pgbaton rollout postgres-1",
            "pgbaton rollout --member Postgres_1",
            "pgbaton rollout --timeout 0s",
            "pgbaton pause --to postgres-1",
            "pgbaton install",
            "pgbaton status -o xml",
            "pgbaton status -n Prod",
            "pgbaton status -n a.b",
            "pgbaton status -n=",
            "pgbaton status --lease a_b",
            "pgbaton switchover --timeout 0s",
            "pgbaton switchover --timeout 2d",
            "pgbaton switchover --timeout 60",
        ];
        for line in good {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in bad {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
        let error = Cli::try_parse_from(["pgbaton", "status", "-n", "Prod"]).unwrap_err();
        let text = checks::with_environment(&error, &Cli::command(), "status");
        for part in ["--namespace", "(POD_NAMESPACE)", "as in default"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }
}
