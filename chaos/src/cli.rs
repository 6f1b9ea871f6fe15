//! The command line of `pgbaton-chaos`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use pgbaton::core::record::{Availability, Durability};
use tracing_subscriber::EnvFilter;

use crate::cluster;
use crate::cluster::cli::ClusterCommand;
use crate::local::demo::{self, Plan};
use crate::local::faults::Fault;
use crate::local::load::Data;
use crate::local::settings::Choice;
use crate::local::{rest, settings, tps, watchdog};
use crate::report::FaultReport;
use crate::report::bench::{self, Ground};
use crate::report::evidence;
use crate::report::summary;

/// Breaks a pgbaton cluster on purpose and says what its clients saw. For trying and testing, never for production.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts a cluster of real PostgreSQL servers on this machine, breaks it, and reports
    Demo(DemoArguments),
    /// Lists the faults
    Faults,
    /// Looks at a cluster at which nothing is done: what it costs, and whether anybody takes over nevertheless. One JSON object
    Rest(RestArguments),
    /// Runs pgbench in turn with sidecars and guards at work and with all of them standing still. One JSON object
    Tps(TpsArguments),
    /// Scenarios on a real Kubernetes
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Makes a table of reports: reads the lines of 'demo --json' on stdin, writes rows of Markdown
    Table {
        /// Write the table's head too
        #[arg(long)]
        head: bool,
        /// With the goals of this ground, and the phases of the takeovers
        #[arg(long, value_name = "GROUND")]
        goals: Option<Ground>,
    },
    /// Makes the page of all long checks of the files that they append to: writes Markdown
    Evidence {
        /// docs/evidence
        folder: PathBuf,
        /// Only what 'make bench' noted
        #[arg(long)]
        bench: bool,
    },
    /// Ends what a killed rig left behind (started by the rig itself)
    #[command(hide = true)]
    Watchdog {
        /// The rig's directory
        directory: PathBuf,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DurabilityChoice {
    Sync,
    Async,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AvailabilityChoice {
    Available,
    Strict,
}

#[derive(Debug, Parser)]
struct DemoArguments {
    /// Number of PostgreSQL servers
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(settings::MOST_MEMBERS)))]
    members: u8,
    /// Whether an acknowledged commit must survive any takeover
    #[arg(long, value_enum, default_value = "sync")]
    durability: DurabilityChoice,
    /// What happens to writes in sync durability when no standby is left
    #[arg(long, value_enum, default_value = "available")]
    availability: AvailabilityChoice,
    /// What to do to the cluster; may be given several times ('pgbaton-chaos faults' lists them)
    #[arg(long = "fault", value_name = "NAME", default_value = "postmaster-kill")]
    faults: Vec<Fault>,
    /// Run the list of faults this many times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Clients that write through the Service's address
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=60))]
    clients: u16,
    /// What the database holds beside the table of the clients that measure
    #[arg(long, value_enum, default_value_t)]
    data: Data,
    /// Before each fault: a long query on every standby holds replay back (max_standby_streaming_delay = -1) while a table is loaded, until
    /// each has at least this many MiB of WAL to replay; then the queries end, and the fault comes
    #[arg(long, value_name = "MIB", num_args = 0..=1, default_missing_value = "256", value_parser = clap::value_parser!(u64).range(1..=1024))]
    backlog: Option<u64>,
    /// Leave the cluster running at the end, until Ctrl-C, and its directory after that
    #[arg(long)]
    keep: bool,
    /// One JSON object for each fault on stdout, and nothing else there
    #[arg(long)]
    json: bool,
    /// All addresses are 127.0.SUBNET.x: choose another one to run several clusters at once
    #[arg(long, default_value_t = 0)]
    subnet: u8,
    /// Directory of all files, new or empty [default: a new one in $XDG_RUNTIME_DIR or /tmp]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// The binary under test [default: pgbaton beside this executable]
    #[arg(long, value_name = "PATH")]
    pgbaton: Option<PathBuf>,
    /// Containers without PID namespaces, as on a kernel that forbids them
    #[arg(long, hide = true)]
    no_namespaces: bool,
    /// Environment of every sidecar, as NAME=VALUE; may be given several times
    #[arg(long = "sidecar-env", value_name = "NAME=VALUE", value_parser = name_and_value)]
    sidecar_env: Vec<(String, String)>,
}

#[derive(Debug, Parser)]
struct RestArguments {
    /// How long
    #[arg(long = "for", value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    window: Duration,
    /// Clients that write through the Service's address
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=60))]
    clients: u16,
    /// A thread on each core that never rests
    #[arg(long)]
    busy: bool,
    /// How much later the API server answers
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    api_latency: Duration,
    /// All addresses are 127.0.SUBNET.x: choose another one to run several clusters at once
    #[arg(long, default_value_t = 0)]
    subnet: u8,
    /// The binary under test [default: pgbaton beside this executable]
    #[arg(long, value_name = "PATH")]
    pgbaton: Option<PathBuf>,
}

impl From<RestArguments> for rest::Plan {
    fn from(given: RestArguments) -> Self {
        Self {
            choice: Choice {
                subnet: given.subnet,
                pgbaton: given.pgbaton,
                ..Choice::default()
            },
            window: given.window,
            clients: usize::from(given.clients),
            busy: given.busy,
            api_latency: given.api_latency,
        }
    }
}

#[derive(Debug, Parser)]
struct TpsArguments {
    /// How often each of the two is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=200))]
    pairs: u16,
    /// Clients of pgbench
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=60))]
    clients: u16,
    /// All addresses are 127.0.SUBNET.x: choose another one to run several clusters at once
    #[arg(long, default_value_t = 0)]
    subnet: u8,
    /// The binary under test [default: pgbaton beside this executable]
    #[arg(long, value_name = "PATH")]
    pgbaton: Option<PathBuf>,
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(format!("'{text}' is not NAME=VALUE")),
    }
}

impl From<DemoArguments> for Plan {
    fn from(given: DemoArguments) -> Self {
        Self {
            choice: Choice {
                members: given.members,
                durability: match given.durability {
                    DurabilityChoice::Sync => Durability::Sync,
                    DurabilityChoice::Async => Durability::Async,
                },
                availability: match given.availability {
                    AvailabilityChoice::Available => Availability::Available,
                    AvailabilityChoice::Strict => Availability::Strict,
                },
                subnet: given.subnet,
                directory: given.dir,
                pgbaton: given.pgbaton,
                namespaces: !given.no_namespaces,
                chaos: None,
                sidecar_env: given.sidecar_env,
                member_sidecar_env: Vec::new(),
                guard_env: Vec::new(),
                plain: false,
                data: given.data,
                backlog_mib: given.backlog,
            },
            faults: given.faults,
            repeat: usize::from(given.repeat),
            clients: usize::from(given.clients),
            keep: given.keep,
            json: given.json,
        }
    }
}

/// Parses the arguments and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("PGBATON_CHAOS_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,kube_client=off"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    match arguments.command {
        Command::Demo(given) => run(demo::run(given.into())),
        Command::Rest(given) => run(async {
            let report = rest::run(given.into()).await?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(report.is_good())
        }),
        Command::Tps(given) => run(async {
            let choice = Choice {
                subnet: given.subnet,
                pgbaton: given.pgbaton,
                ..Choice::default()
            };
            let report = tps::run(choice, given.pairs, given.clients).await?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(true)
        }),
        Command::Faults => {
            for fault in Fault::ALL.into_iter().chain([Fault::Random]) {
                println!("{fault:<29} {}", fault.description());
            }
            ExitCode::SUCCESS
        }
        Command::Cluster(command) => cluster::cli::main(command),
        Command::Table { head, goals } => table(head, goals),
        Command::Evidence { folder, bench } => show_evidence(&folder, bench),
        Command::Watchdog { directory } => {
            watchdog::watch(&directory);
            ExitCode::SUCCESS
        }
    }
}

fn show_evidence(folder: &Path, bench: bool) -> ExitCode {
    let made = if bench {
        evidence::bench(folder)
    } else {
        evidence::page(folder)
    };
    match made {
        Ok(page) => {
            print!("{page}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn table(head: bool, goals: Option<Ground>) -> ExitCode {
    let mut reports: Vec<FaultReport> = Vec::new();
    for (number, line) in std::io::stdin().lines().enumerate() {
        let read = line.map_err(|error| error.to_string());
        match read.and_then(|line| serde_json::from_str(&line).map_err(|error| error.to_string())) {
            Ok(report) => reports.push(report),
            Err(error) => {
                eprintln!("error: line {} is no report: {error}", number + 1);
                return ExitCode::FAILURE;
            }
        }
    }
    let (first, rows) = match goals {
        Some(ground) => (bench::markdown_head(), bench::markdown_rows(&reports, ground)),
        None => (summary::markdown_head(), summary::markdown_rows(&reports)),
    };
    if head {
        print!("{first}");
    }
    print!("{rows}");
    ExitCode::SUCCESS
}

fn run(work: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(work) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}
