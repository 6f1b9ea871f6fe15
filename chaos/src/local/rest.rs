//! A cluster at which nothing is done: what it costs, and whether anybody takes over nevertheless, also when the machine is busy and the API
//! server slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::api::Requests;
use super::kubelet::{Kubelet, Role};
use super::meter;
use super::process;
use super::rig::Rig;
use super::settings::Choice;
use super::whole;
use crate::oracles::workload::Workload;

/// Until a new cluster is whole.
const FIRST_WHOLE: Duration = Duration::from_secs(120);
/// First rounds of everything after the start, and the guard gives up what the start needed.
const SETTLE: Duration = Duration::from_secs(20);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long the cluster has at the end to be whole, on a machine that is not busy any more.
const WHOLE_AT_LAST: Duration = Duration::from_secs(60);
/// Clock ticks of `/proc/<pid>/stat` in a second: fixed in Linux' ABI (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS: f64 = 100.0;

/// What to look at.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The rig.
    pub choice: Choice,
    /// How long.
    pub window: Duration,
    /// Clients that write through the Service's address.
    pub clients: usize,
    /// A thread on each core that never rests.
    pub busy: bool,
    /// How much later the API server answers.
    pub api_latency: Duration,
}

/// What one member cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cost {
    /// Its name.
    pub member: String,
    /// It led.
    pub leads: bool,
    /// Largest resident memory of the sidecar, KiB.
    pub sidecar_kib: u64,
    /// Of the guard.
    pub guard_kib: u64,
    /// Percent of a core, sidecar.
    pub sidecar_cpu: f64,
    /// Percent of a core, guard.
    pub guard_cpu: f64,
    /// Requests to the API server in a second, watches not counted.
    pub requests: f64,
    /// Those that write, so many writes of etcd.
    pub writes: f64,
    /// Watches open.
    pub watches: u64,
    /// Questions to other members in a second, heartbeats among them.
    #[serde(default)]
    pub questions: f64,
    /// Bytes of them and of their answers in a second, without HTTP's own.
    #[serde(default)]
    pub peer_bytes: f64,
}

/// What was seen.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestReport {
    /// Seconds.
    pub seconds: u64,
    /// A thread on each core never rested.
    pub busy: bool,
    /// The API server answered so many milliseconds later.
    pub api_latency_ms: u64,
    /// Writing clients.
    pub clients: usize,
    /// Terms that began in the window: nothing was done, so none should.
    pub takeovers: u64,
    /// Longest time without an acknowledged write, where clients write.
    pub outage_ms: Option<u64>,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Lost ones.
    pub lost: u64,
    /// What is missing to be whole at the end; empty: whole.
    pub not_whole: Vec<String>,
    /// Of each member.
    pub costs: Vec<Cost>,
}

impl RestReport {
    /// Nobody took over, nothing was lost, all are whole.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.takeovers == 0 && self.lost == 0 && self.not_whole.is_empty()
    }
}

/// Looks; ends what it started.
///
/// # Errors
/// When the cluster could not be started, looked at, or removed.
pub async fn run(plan: Plan) -> Result<RestReport> {
    let rig = Rig::start(plan.choice.clone()).await?;
    let seen = look(&plan, &rig).await;
    let good = seen.as_ref().is_ok_and(RestReport::is_good);
    let directory = rig.settings.directory.clone();
    rig.end(!good).await?;
    if !good {
        eprintln!("logs and data stay in {}", directory.display());
    }
    seen
}

async fn look(plan: &Plan, rig: &Rig) -> Result<RestReport> {
    if let Err(missing) = rig.wait_whole(FIRST_WHOLE).await {
        bail!("the new cluster was not whole: {}", missing.join("; "));
    }
    let workload = match plan.clients {
        0 => None,
        clients => Some(Workload::start(&rig.settings.login, rig.settings.service_ip(), clients).await?),
    };
    sleep(SETTLE).await;
    let first_term = term(rig)?;
    let load = plan.busy.then(Load::start);
    rig.store.api().latency(plan.api_latency);
    let began = Instant::now();
    let window = watch(rig, plan.window).await?;
    let seconds = began.elapsed();
    let takeovers = term(rig)?.saturating_sub(first_term);
    let mut costs = window.costs(rig, seconds).await?;
    rig.store.api().latency(Duration::ZERO);
    drop(load);
    let primary = rig.primary();
    for cost in &mut costs {
        cost.leads = Some(&cost.member) == primary.as_ref();
    }
    let ended = Instant::now();
    let not_whole = rig.wait_whole(WHOLE_AT_LAST).await.err().unwrap_or_default();
    let summary = workload.as_ref().map(|w| w.summary(began, ended));
    let mut lost = 0;
    if let Some(workload) = workload {
        lost = workload.lost().await?.len() as u64;
        workload.stop().await;
    }
    Ok(RestReport {
        seconds: seconds.as_secs(),
        busy: plan.busy,
        api_latency_ms: u64::try_from(plan.api_latency.as_millis()).unwrap_or(u64::MAX),
        clients: plan.clients,
        takeovers,
        outage_ms: summary.as_ref().map(|s| s.outage_ms),
        acknowledged: summary.as_ref().map_or(0, |s| s.acknowledged),
        lost,
        not_whole,
        costs,
    })
}

fn term(rig: &Rig) -> Result<u64> {
    let record = whole::record(&rig.store).context("the Lease has no readable record")?;
    Ok(record.term.0)
}

/// One container's process: pid, ticks at the start, largest resident memory.
struct Watched {
    pid: i32,
    ticks: u64,
    kib: u64,
}

impl Watched {
    fn of(kubelet: &Kubelet, role: Role) -> Result<Self> {
        let container = kubelet.container(role);
        let pid = container.with_context(|| format!("{} has no container", kubelet.member().name))?;
        let pid = pid.init_pid();
        let mut watched = Self {
            pid,
            ticks: process::cpu_ticks(pid).context("the process is gone")?,
            kib: 0,
        };
        watched.look();
        Ok(watched)
    }

    /// A process that is gone is noticed at the end.
    fn look(&mut self) {
        self.kib = self.kib.max(process::resident_kib(self.pid).unwrap_or_default());
    }

    fn cpu_percent(&self, time: Duration) -> Result<f64> {
        let ticks = process::cpu_ticks(self.pid).context("a process ended in the window")?;
        Ok(100.0 * ticks.saturating_sub(self.ticks) as f64 / TICKS / time.as_secs_f64())
    }
}

struct Window {
    processes: Vec<[Watched; 2]>,
    requests: Requests,
    /// Of each member: questions and bytes so far.
    traffic: Vec<[u64; 2]>,
}

/// Counters of the sidecars' own metrics.
async fn traffic(rig: &Rig) -> Result<Vec<[u64; 2]>> {
    let asked = rig.members.iter().map(|member| meter::peer_counters(member.ip));
    futures_util::future::try_join_all(asked).await
}

async fn watch(rig: &Rig, time: Duration) -> Result<Window> {
    let both = |kubelet: &Arc<Kubelet>| {
        Ok([
            Watched::of(kubelet, Role::Sidecar)?,
            Watched::of(kubelet, Role::Server)?,
        ])
    };
    let mut window = Window {
        processes: rig.kubelets.iter().map(both).collect::<Result<_>>()?,
        requests: rig.store.api().requests(),
        traffic: traffic(rig).await?,
    };
    let until = Instant::now() + time;
    while Instant::now() < until {
        sleep(LOOK).await;
        window.processes.iter_mut().flatten().for_each(Watched::look);
    }
    Ok(window)
}

impl Window {
    async fn costs(&self, rig: &Rig, time: Duration) -> Result<Vec<Cost>> {
        let traffic = traffic(rig).await?;
        let seconds = time.as_secs_f64();
        let requests = rig.store.api().requests().since(&self.requests);
        let mut costs = Vec::new();
        for (place, (kubelet, [sidecar, guard])) in rig.kubelets.iter().zip(&self.processes).enumerate() {
            let more = |what: usize| traffic[place][what].saturating_sub(self.traffic[place][what]);
            let grown = |what: usize| rounded(more(what) as f64 / seconds);
            let member = kubelet.member().name.clone();
            let writes: u64 = requests
                .requests
                .iter()
                .filter(|(key, _)| key.user == member && meter::writes(key))
                .map(|(_, count)| count)
                .sum();
            costs.push(Cost {
                leads: false,
                sidecar_kib: sidecar.kib,
                guard_kib: guard.kib,
                sidecar_cpu: rounded(sidecar.cpu_percent(time)?),
                guard_cpu: rounded(guard.cpu_percent(time)?),
                requests: rounded(requests.of(&member) as f64 / seconds),
                writes: rounded(writes as f64 / seconds),
                watches: requests.watches_of(&member).open,
                questions: grown(0),
                peer_bytes: grown(1),
                member,
            });
        }
        Ok(costs)
    }
}

fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A thread for each core that never rests; ends when dropped.
struct Load {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let ended = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let ended = Arc::clone(&ended);
            std::thread::spawn(move || {
                let mut number: u64 = 1;
                while !ended.load(Ordering::Relaxed) {
                    number =
                        std::hint::black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            })
        };
        let threads = (0..cores).map(spin).collect();
        Self { ended, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It cannot panic.
            let _ = thread.join();
        }
    }
}
