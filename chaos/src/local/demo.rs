//! The demonstration and measuring run: a rig, clients, one fault after the other, a report of each.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pgbaton::core::record::Durability;
use tokio::time::{Instant, sleep};

use super::faults::Fault;
use super::load::{Backlog, Data, Load};
use super::member::Member;
use super::meter::Metered;
use super::rig::Rig;
use super::settings::Choice;
use super::watchers;
use crate::oracles::observer::{Entry, Observer};
use crate::oracles::trial::Trial;
use crate::oracles::workload::Workload;
use crate::oracles::writers::Oracle;
use crate::report::summary;
use crate::report::{FaultReport, Setting};

/// Until a new cluster is whole: initdb, two clones.
const FIRST_WHOLE: Duration = Duration::from_secs(120);
/// Until everybody has what pgbench made.
const LOADED_WHOLE: Duration = Duration::from_secs(120);
/// Clients write this long before a fault.
const WARM_UP: Duration = Duration::from_secs(2);
/// Then it is counted what a cluster that is well asks for.
const AT_REST: Duration = Duration::from_secs(5);
/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The rig.
    pub choice: Choice,
    /// One after the other.
    pub faults: Vec<Fault>,
    /// The whole list so many times.
    pub repeat: usize,
    /// Clients writing through the Service's address.
    pub clients: usize,
    /// Stay for play at the end, and leave the directory.
    pub keep: bool,
    /// JSON on stdout and nothing else there.
    pub json: bool,
}

/// Speaks to people: on stdout, or on stderr when stdout is for JSON.
#[derive(Debug, Clone, Copy)]
pub struct Voice {
    json: bool,
}

impl Voice {
    /// A line.
    pub fn say(self, text: &str) {
        if self.json {
            eprintln!("{text}");
        } else {
            println!("{text}");
        }
    }
}

/// Runs the plan; true when all went well. Ctrl-C ends it in order.
///
/// # Errors
/// When the rig could not be started, did not become whole, or could not be removed.
pub async fn run(plan: Plan) -> Result<bool> {
    let voice = Voice { json: plan.json };
    if let Some(fault) = plan
        .faults
        .iter()
        .find(|fault| fault.least_members() > plan.choice.members)
    {
        bail!(
            "the fault '{fault}' needs at least {} members",
            fault.least_members()
        );
    }
    voice.say("pgbaton-chaos: real PostgreSQL servers on this machine, for trying and testing, never for production");
    let rig = Rig::start(plan.choice.clone()).await?;
    introduce(&rig, voice);
    let mut reports = Reports::new(&plan, voice);
    let (result, interrupt) = tokio::select! {
        result = all_faults(&plan, &rig, &mut reports) => (result, false),
        () = interrupted() => {
            voice.say("interrupted: ending everything");
            (Ok(false), true)
        }
    };
    if !interrupt {
        reports.close();
    }
    let good = matches!(result, Ok(true));
    if plan.keep && result.is_ok() && !interrupt {
        invite(&rig, voice);
        interrupted().await;
    }
    // What went wrong is looked into later; what a person broke off is not.
    let keep = plan.keep || (!good && !interrupt);
    finish(rig, &plan, keep).await?;
    result
}

/// Ends the rig and says what is left of it.
async fn finish(rig: Rig, plan: &Plan, keep: bool) -> Result<()> {
    let voice = Voice { json: plan.json };
    let directory = rig.settings.directory.clone();
    let volumes: Vec<PathBuf> = rig.members.iter().map(Member::volume).collect();
    rig.end(keep).await?;
    if !keep {
        voice.say("ended: no process, no directory is left");
        return Ok(());
    }
    // Gigabytes that nobody asked to keep: the logs stay.
    let too_large = !plan.keep && plan.choice.data != Data::Small;
    if too_large {
        for volume in volumes {
            std::fs::remove_dir_all(&volume)
                .with_context(|| format!("cannot remove {}", volume.display()))?;
        }
    }
    let what = if too_large { "logs" } else { "logs and data" };
    voice.say(&format!("{what} stay in {}", directory.display()));
    Ok(())
}

/// Ctrl-C, or the polite signal of a supervisor.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let mut signals = Vec::new();
    for kind in [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ] {
        match signal(kind) {
            Ok(stream) => signals.push(stream),
            Err(error) => tracing::warn!("cannot listen for a signal: {error}"),
        }
    }
    let waits = signals.iter_mut().map(|stream| Box::pin(stream.recv()));
    futures_util::future::select_all(waits).await;
}

fn introduce(rig: &Rig, voice: Voice) {
    let settings = &rig.settings;
    voice.say(&format!("  directory {}", settings.directory.display()));
    voice.say(&format!("  PostgreSQL programs {}", settings.programs.display()));
    let user = settings
        .account
        .as_ref()
        .map_or_else(super::host::own_name, |account| account.name.clone());
    voice.say(&format!("  servers run as user {user}"));
    if let Some(note) = &settings.isolation_note {
        voice.say(&format!(
            "  no PID namespaces ({note}): containers run without; a guard that dies has its server ended by a process of its own"
        ));
    }
    voice.say(&format!(
        "  Service {}:5432, API server {}",
        settings.service_ip(),
        rig.store.api().url()
    ));
    for member in &rig.members {
        voice.say(&format!(
            "  {} at {}, status {}",
            member.name,
            member.ip,
            member.status_url()
        ));
    }
}

/// How to play with a rig that stays.
fn invite(rig: &Rig, voice: Voice) {
    let secret = &rig.settings.secret;
    voice.say("The cluster stays up until Ctrl-C. Some things to try:");
    voice.say(&format!(
        "  PGPASSWORD={} {} -h {} -U {} {}",
        secret.password,
        rig.settings.programs.join("psql").display(),
        rig.settings.service_ip(),
        secret.user,
        secret.database
    ));
    voice.say(&format!(
        "  {} status -n default --kubeconfig {}",
        rig.settings.pgbaton.display(),
        rig.kubeconfig.display()
    ));
    for member in &rig.members {
        if super::host::has_program("curl") {
            voice.say(&format!("  curl -s {}", member.status_url()));
        } else {
            voice.say(&format!("  in a browser: {}", member.status_url()));
        }
    }
    voice.say(&format!(
        "  tail -f {}/postgres-*/log/*.log",
        rig.settings.directory.display()
    ));
}

/// What is still to be done, and the reports of what was.
#[derive(Debug)]
struct Reports {
    voice: Voice,
    durability: &'static str,
    setting: Setting,
    to_do: VecDeque<Fault>,
    done: Vec<FaultReport>,
}

impl Reports {
    fn new(plan: &Plan, voice: Voice) -> Self {
        let all = (0..plan.repeat).flat_map(|_| plan.faults.iter().copied());
        Self {
            voice,
            durability: match plan.choice.durability {
                Durability::Sync => "sync",
                Durability::Async => "async",
            },
            setting: Setting {
                members: usize::from(plan.choice.members),
                data: plan.choice.data.name().to_owned(),
                backlog_mib: plan.choice.backlog_mib,
            },
            to_do: all.collect(),
            done: Vec::new(),
        }
    }

    fn add(&mut self, report: FaultReport) {
        if report.was_run() {
            self.voice.say(&report.text());
        }
        if self.voice.json {
            println!("{}", report.json());
        }
        self.done.push(report);
    }

    /// Whoever reads gets one report for each fault that was asked for, also when the run ended early.
    fn close(&mut self) {
        while let Some(fault) = self.to_do.pop_front() {
            let mut report = FaultReport::not_run(fault.name(), self.durability);
            report.setting.clone_from(&self.setting);
            self.add(report);
        }
        if let Some(table) = summary::for_people(&self.done) {
            self.voice.say(&table);
        }
    }
}

/// Until the first fault: a whole cluster.
async fn first_whole(plan: &Plan, rig: &Rig, observer: &Observer, voice: Voice) -> Result<()> {
    let began = Instant::now();
    voice.say("starting the members: the first one runs initdb, the others clone it");
    if let Err(missing) = shown(observer, began, voice, rig.wait_whole(FIRST_WHOLE)).await {
        if plan.json {
            print_timeline(observer, began, voice);
        }
        bail!(
            "the new cluster was not whole after {} s: {}. See the logs in {}",
            FIRST_WHOLE.as_secs(),
            missing.join("; "),
            rig.settings.directory.display()
        );
    }
    let primary = rig.primary().unwrap_or_default();
    voice.say(&format!(
        "whole after {} ms: {primary} is the primary, the others stream from it",
        began.elapsed().as_millis()
    ));
    Ok(())
}

/// A writer at each member's own address.
async fn judge_of(rig: &Rig) -> Result<Arc<Oracle>> {
    let oracle = Oracle::start(&rig.settings.login, rig.settings.service_ip()).await?;
    for member in &rig.members {
        oracle.watch(&member.name, member.ip);
    }
    Ok(Arc::new(oracle))
}

/// The database that was wished for, and what writes to it until it is dropped.
async fn loaded(rig: &Rig, observer: &Observer, voice: Voice) -> Result<Load> {
    let began = Instant::now();
    let load = shown(observer, began, voice, Load::start(rig)).await?;
    if let Err(missing) = rig.wait_whole(LOADED_WHOLE).await {
        bail!(
            "the cluster was not whole {} s after its data was made: {}",
            LOADED_WHOLE.as_secs(),
            missing.join("; ")
        );
    }
    Ok(load)
}

async fn all_faults(plan: &Plan, rig: &Rig, reports: &mut Reports) -> Result<bool> {
    let voice = reports.voice;
    let observer = watchers::start(&rig.store, &rig.members);
    first_whole(plan, rig, &observer, voice).await?;
    let _load = loaded(rig, &observer, voice).await?;
    let mut metered = Metered::start(rig).await;
    let workload = Workload::start(&rig.settings.login, rig.settings.service_ip(), plan.clients).await?;
    voice.say(&format!(
        "{} clients write through {}",
        plan.clients,
        rig.settings.service_ip()
    ));
    sleep(WARM_UP).await;
    metered.rest(AT_REST).await;
    let mut trial = Trial {
        subject: &metered,
        observer: &observer,
        workload,
        oracle: judge_of(rig).await?,
        known_lost: Vec::new(),
    };
    let all = reports.to_do.len();
    let mut good = true;
    while let Some(fault) = reports.to_do.pop_front() {
        let place = format!("{fault} ({} of {all})", all - reports.to_do.len());
        voice.say(&format!(
            "\nfault: {}",
            if all > 1 { place } else { fault.to_string() }
        ));
        let began = Instant::now();
        let tried = one_fault(fault, &reports.setting, rig, &mut trial);
        let report = shown(&observer, began, voice, tried).await;
        if plan.json && !report.is_good() {
            print_timeline(&observer, began, voice);
        }
        good &= report.is_good();
        let healed = report.detail.not_whole.is_empty() && report.detail.trouble.is_none();
        reports.add(report);
        if !healed {
            voice.say("the cluster is not whole: no further fault would say anything");
            break;
        }
    }
    trial.workload.stop().await;
    trial.oracle.stop().await;
    show_statuses(plan, rig, voice);
    Ok(good)
}

/// Inflicts it on the cluster that was wished for.
async fn one_fault(
    fault: Fault,
    setting: &Setting,
    rig: &Rig,
    trial: &mut Trial<'_, Metered<'_>>,
) -> FaultReport {
    let mut least = None;
    let inflict = async {
        if let Some(mib) = setting.backlog_mib {
            least = Some(Backlog::build(rig, mib).await?.release(rig).await?);
        }
        fault.inflict(rig).await
    };
    let mut report = trial.run(fault.name(), inflict).await;
    report.setting.clone_from(setting);
    report.detail.backlog_mib = least;
    report
}

fn show_statuses(plan: &Plan, rig: &Rig, voice: Voice) {
    let open = if plan.keep {
        ""
    } else {
        " (open while the cluster runs: --keep leaves it, KEEP=1 for make)"
    };
    voice.say(&format!("\nstatus of each member{open}:"));
    for member in &rig.members {
        voice.say(&format!("  {}  {}", member.name, member.status_url()));
    }
}

/// Does `work` and shows the timeline meanwhile, line by line. Programs that read JSON get it only when something went wrong, after it.
async fn shown<T>(observer: &Observer, from: Instant, voice: Voice, work: impl Future<Output = T>) -> T {
    let tell = async {
        if voice.json {
            std::future::pending::<()>().await;
        }
        observer.tell(from, |entry| say_entry(entry, from, voice)).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        // Everything that was seen before the work ended is told first.
        biased;
        () = tell => unreachable!("it waits for ever"),
        done = work => done,
    }
}

fn say_entry(entry: &Entry, from: Instant, voice: Voice) {
    let ms = entry.at.saturating_duration_since(from).as_millis();
    voice.say(&format!("  {ms:>7} ms  {:<11} {}", entry.who, entry.what));
}

fn print_timeline(observer: &Observer, from: Instant, voice: Voice) {
    for entry in observer.since(from) {
        say_entry(&entry, from, voice);
    }
}
