//! What clients pay for pgbaton while nothing happens: the same pgbench on the same cluster, in turn with sidecars and guards at work and with all
//! of them standing still. A span is shorter than a permit, so they go on afterwards as if nothing had been.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::time::sleep;

use super::kubelet::Role;
use super::pgbench;
use super::process;
use super::rig::Rig;
use super::settings::Choice;
use super::whole;

/// Until a new cluster is whole.
const FIRST_WHOLE: Duration = Duration::from_secs(120);
/// First rounds of everything after the start.
const SETTLE: Duration = Duration::from_secs(10);
/// Of one measurement: with the time that pgbench needs to start and end, well below a permit (8 s).
const SPAN: Duration = Duration::from_secs(5);
/// Between two measurements: sidecars and guards catch up.
const BETWEEN: Duration = Duration::from_secs(2);
/// Of one run of pgbench.
const RUN_BOUND: Duration = Duration::from_secs(60);
/// pgbench's scale: 10 is 150 MB.
const SCALE: u32 = 10;

/// What was measured. Transactions a second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TpsReport {
    /// Clients of pgbench.
    pub clients: u16,
    /// With sidecars and guards at work, pair by pair.
    pub with: Vec<f64>,
    /// With all of them standing still.
    pub without: Vec<f64>,
    /// Median over the pairs of what is lost, in percent; below zero: less than the noise.
    pub cost_percent: f64,
}

/// Measures; ends what it started.
///
/// # Errors
/// When the cluster could not be started, measured or removed, or a member took over meanwhile.
pub async fn run(choice: Choice, pairs: u16, clients: u16) -> Result<TpsReport> {
    let rig = Rig::start(choice).await?;
    let measured = measure(&rig, pairs, clients).await;
    rig.end(measured.is_err()).await?;
    measured
}

async fn measure(rig: &Rig, pairs: u16, clients: u16) -> Result<TpsReport> {
    if let Err(missing) = rig.wait_whole(FIRST_WHOLE).await {
        bail!("the new cluster was not whole: {}", missing.join("; "));
    }
    let make = ["-i", "-q", &format!("-s{SCALE}")].map(str::to_owned);
    pgbench::run(&rig.settings, &make, RUN_BOUND).await?;
    sleep(SETTLE).await;
    let first = term(rig)?;
    // The first one warms up.
    span(rig, clients).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        // Not always the same one first: the database grows.
        for stands_still in [pair % 2 == 0, pair % 2 != 0] {
            sleep(BETWEEN).await;
            if stands_still {
                let still = StandStill::begin(rig)?;
                without.push(span(rig, clients).await?);
                drop(still);
            } else {
                with.push(span(rig, clients).await?);
            }
        }
    }
    sleep(BETWEEN).await;
    ensure!(
        term(rig)? == first,
        "a member took over in the measurement: sidecars stood still for too long"
    );
    let mut costs: Vec<f64> = with
        .iter()
        .zip(&without)
        .map(|(w, o)| 100.0 * (1.0 - w / o))
        .collect();
    costs.sort_by(f64::total_cmp);
    let middle = costs.len() / 2;
    let median = if costs.len().is_multiple_of(2) && middle > 0 {
        f64::midpoint(costs[middle - 1], costs[middle])
    } else {
        costs.get(middle).copied().unwrap_or_default()
    };
    Ok(TpsReport {
        clients,
        with,
        without,
        cost_percent: (median * 100.0).round() / 100.0,
    })
}

fn term(rig: &Rig) -> Result<u64> {
    let record = whole::record(&rig.store).context("the Lease has no readable record")?;
    Ok(record.term.0)
}

/// Transactions a second.
async fn span(rig: &Rig, clients: u16) -> Result<f64> {
    let arguments = [
        "-n".to_owned(),
        format!("-T{}", SPAN.as_secs()),
        format!("-c{clients}"),
        "-j2".to_owned(),
    ];
    let said = pgbench::run(&rig.settings, &arguments, RUN_BOUND).await?;
    tps(&said).with_context(|| format!("pgbench told no figure: {said}"))
}

fn tps(said: &str) -> Option<f64> {
    let line = said.lines().find_map(|line| line.strip_prefix("tps = "))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Every sidecar and guard stands still until this is dropped; the servers run on.
struct StandStill(Vec<i32>);

impl StandStill {
    fn begin(rig: &Rig) -> Result<Self> {
        let mut still = Self(Vec::new());
        for kubelet in &rig.kubelets {
            for role in [Role::Sidecar, Role::Server] {
                let container = kubelet.container(role);
                let container =
                    container.with_context(|| format!("{} has no container", kubelet.member().name))?;
                let pid = container.init_pid();
                still.0.push(pid);
                process::signal(pid, Signal::SIGSTOP)?;
            }
        }
        Ok(still)
    }
}

impl Drop for StandStill {
    fn drop(&mut self) {
        for pid in &self.0 {
            if let Err(error) = process::signal(*pid, Signal::SIGCONT) {
                tracing::error!("process {pid} stands still: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn pgbenchs_figure_is_read() {
        let said = "latency average = 1.5 ms\ninitial connection time = 20 ms\ntps = 5312.25 (without initial connection time)\n";
        assert_eq!(super::tps(said), Some(5312.25));
        assert_eq!(super::tps("tps = \n"), None);
    }
}
