//! `pgbaton-chaos cluster`: scenarios on a real Kubernetes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use super::hosts::Hosts;
use super::run::{self, Plan};
use super::scenarios::Scenario;
use super::target::Tools;
use crate::report::FaultReport;
use crate::report::summary;

/// `pgbaton-chaos cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Runs scenarios and judges them
    Run(Box<RunArguments>),
    /// Lists the scenarios
    List,
}

/// `pgbaton-chaos cluster run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// What to do; may be given several times ('pgbaton-chaos cluster list')
    #[arg(
        long = "scenario",
        value_name = "NAME",
        required = true,
        hide_possible_values = true
    )]
    scenarios: Vec<Scenario>,
    /// Run the list this many times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Namespace of the members
    #[arg(short, long, default_value = "psql-namespace")]
    namespace: String,
    /// Kubeconfig with the rights of a cluster's administrator
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: PathBuf,
    /// State of the machine's own cluster [without: only what the Kubernetes API can do]
    #[arg(long, env = "PGBATON_CLUSTER_STATE")]
    state: Option<PathBuf>,
    /// Directory of the cluster's scripts
    #[arg(long, default_value = "chaos/cluster")]
    scripts: PathBuf,
    /// kubectl, with arguments separated by spaces
    #[arg(long, env = "PGBATON_KUBECTL", default_value = "kubectl")]
    kubectl: String,
    /// Clients that write through the Service
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=60))]
    clients: u16,
    /// Keep the artefacts of every run here [without: only of those that were not well]
    #[arg(long)]
    artefacts: Option<PathBuf>,
    /// One JSON object for each scenario on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// Runs the command.
#[must_use]
pub fn main(command: ClusterCommand) -> ExitCode {
    match command {
        ClusterCommand::List => {
            for scenario in Scenario::once_each() {
                let needs = if scenario.needs_hosts() { "hosts" } else { "API" };
                println!("{scenario:<18} {needs:<6} {}", scenario.description());
            }
            ExitCode::SUCCESS
        }
        ClusterCommand::Run(arguments) => match run_all(*arguments) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::from(2)
            }
        },
    }
}

fn run_all(given: RunArguments) -> anyhow::Result<bool> {
    // Fails only when one is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let scripts = std::path::absolute(&given.scripts)?;
    let hosts = given
        .state
        .as_deref()
        .map(|state| Hosts::at(state, &scripts))
        .transpose()?;
    let plan = Plan {
        scenarios: (0..given.repeat).flat_map(|_| given.scenarios.clone()).collect(),
        namespace: given.namespace,
        clients: usize::from(given.clients),
        artefacts: given.artefacts,
        hosts,
        tools: Tools {
            kubeconfig: given.kubeconfig,
            pgbaton: std::env::current_exe()?.with_file_name("pgbaton"),
            kubectl: given.kubectl.split_whitespace().map(str::to_owned).collect(),
        },
    };
    let mut reports: Vec<FaultReport> = Vec::new();
    let json = given.json;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let all = run::run(plan, |report| {
        if json {
            println!("{}", report.json());
        } else {
            println!("{}", report.text());
        }
        reports.push(report.clone());
    });
    let good = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        // What is dropped half way takes its faults back (Undo).
        tokio::select! {
            good = all => good,
            _ = tokio::signal::ctrl_c() => bail!("interrupted; what was done to the hosts is taken back"),
            _ = terminated.recv() => bail!("told to end; what was done to the hosts is taken back"),
        }
    })?;
    if let Some(table) = summary::for_people(&reports) {
        eprintln!("{table}");
    }
    Ok(good)
}
