//! Runs scenarios one after the other against one cluster, and says what its clients saw.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::artefacts;
use super::hosts::Hosts;
use super::kube::Kube;
use super::scenarios::Scenario;
use super::target::{Target, Tools};
use super::watchers;
use crate::oracles::sql;
use crate::oracles::trial::{Subject, Trial};
use crate::oracles::workload::Workload;
use crate::oracles::writers::Oracle;
use crate::report::FaultReport;

/// Until the cluster is whole before the first scenario.
const FIRST_WHOLE: Duration = Duration::from_secs(180);
/// Until the Service leads to its primary.
const FIRST_SERVED: Duration = Duration::from_secs(60);
/// Of clients before the first scenario.
const WARM_UP: Duration = Duration::from_secs(2);

/// What to run, and on what.
#[derive(Debug)]
pub struct Plan {
    /// In this order.
    pub scenarios: Vec<Scenario>,
    /// The namespace.
    pub namespace: String,
    /// Writers through the Service.
    pub clients: usize,
    /// Where each run's artefacts go; none: only of runs that were not well, in a new directory.
    pub artefacts: Option<PathBuf>,
    /// The machine's own hosts.
    pub hosts: Option<Hosts>,
    /// kubectl, pgbaton and the kubeconfig.
    pub tools: Tools,
}

/// Waits until the Service leads to the primary: on a host of clients kube-proxy follows some time after everything else is whole.
async fn first_served(target: &Target) -> Result<()> {
    let began = Instant::now();
    loop {
        let Err(error) = sql::ask(&target.login, target.service, "SELECT 1").await else {
            break;
        };
        if began.elapsed() > FIRST_SERVED {
            return Err(error.context("the cluster is whole, and Service 'postgres' leads nowhere"));
        }
        sleep(Duration::from_millis(100)).await;
    }
    if began.elapsed() > Duration::from_secs(1) {
        eprintln!("the Service led nowhere for {} ms", began.elapsed().as_millis());
    }
    Ok(())
}

/// Runs them; each report as it comes to `report`. Stops at the first one after which the cluster is not whole.
///
/// # Errors
/// When the cluster cannot be used at all.
pub async fn run(plan: Plan, mut report: impl FnMut(&FaultReport)) -> Result<bool> {
    let kube = Kube::connect(&plan.tools.kubeconfig, &plan.namespace).await?;
    let target = Target::find(kube, plan.hosts.clone(), plan.tools.clone()).await?;
    if let Err(missing) = target.wait_whole_since(Timestamp::now(), FIRST_WHOLE).await {
        anyhow::bail!(
            "the cluster is not whole before the first scenario: {}",
            missing.join("; ")
        );
    }
    first_served(&target).await?;
    let oracle = Arc::new(Oracle::start(&target.login, target.service).await?);
    let (observer, leases) = watchers::start(&target, &oracle);
    let mut trial = Trial {
        subject: &target,
        observer: &observer,
        workload: Workload::start(&target.login, target.service, plan.clients).await?,
        oracle: oracle.clone(),
        known_lost: Vec::new(),
    };
    sleep(WARM_UP).await;
    let mut good = true;
    for (number, scenario) in plan.scenarios.iter().enumerate() {
        if scenario.needs_hosts() && plan.hosts.is_none() {
            report(&FaultReport::not_possible(&scenario.name()));
            continue;
        }
        eprintln!("{scenario}: {}", scenario.description());
        let began = Instant::now();
        let result = trial.run(&scenario.name(), scenario.inflict(&target)).await;
        good &= result.is_good();
        report(&result);
        let directory = plan
            .artefacts
            .clone()
            .or_else(|| (!result.is_good()).then(std::env::temp_dir));
        if let Some(directory) = directory {
            let name = format!("pgbaton-{scenario}-{number}-{}", std::process::id());
            let directory = directory.join(name);
            artefacts::write(
                &directory,
                &target,
                &observer,
                &trial.workload,
                &leases,
                began,
                &result,
            )
            .await
            .context("the artefacts could not be written")?;
            eprintln!("artefacts: {}", directory.display());
        }
        if !result.detail.not_whole.is_empty() {
            eprintln!("the cluster is not whole: the other scenarios are not run");
            break;
        }
    }
    trial.workload.stop().await;
    oracle.stop().await;
    Ok(good)
}
