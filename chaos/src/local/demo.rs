//! The demonstration and measuring run: a rig, clients, one fault after the other, a report of each.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};
use pgbaton::core::record::{Durability, Record};
use tokio::time::{Instant, sleep};

use super::faults::{Fault, Inflicted};
use super::observer::{Entry, Observer};
use super::oracle::Oracle;
use super::report::{Detail, FaultReport};
use super::rig::Rig;
use super::settings::Choice;
use super::whole;
use super::workload::Workload;

/// Until a new cluster is whole: initdb, two clones.
const FIRST_WHOLE: Duration = Duration::from_secs(120);
/// Until a cluster is whole again after a fault is over: a Lease's duration, a clone, and time to spare on a loaded machine.
const WHOLE_AGAIN: Duration = Duration::from_secs(90);
/// Clients write this long before a fault.
const WARM_UP: Duration = Duration::from_secs(2);
/// After the cluster is whole, for what shows late (a second writer, a second takeover).
const SETTLE: Duration = Duration::from_secs(1);
/// Clients must be served again within this time after the cluster is whole.
const SERVED_BOUND: Duration = Duration::from_secs(10);

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
    let (result, interrupt) = tokio::select! {
        result = all_faults(&plan, &rig, voice) => (result, false),
        () = interrupted() => {
            voice.say("interrupted: ending everything");
            (Ok(false), true)
        }
    };
    let good = matches!(result, Ok(true));
    if plan.keep && result.is_ok() && !interrupt {
        invite(&rig, voice);
        interrupted().await;
    }
    // What went wrong is looked into later; what a person broke off is not.
    let keep = plan.keep || (!good && !interrupt);
    let directory = rig.settings.directory.clone();
    rig.end(keep).await?;
    if keep {
        voice.say(&format!("logs and data stay in {}", directory.display()));
    } else {
        voice.say("ended: no process, no directory is left");
    }
    result
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
            "  this kernel gives no PID namespaces ({note}): containers run without; a guard ends its server itself"
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
        "  PGPASSWORD={} psql -h {} -U {} {}",
        secret.password,
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
        voice.say(&format!("  curl -s {}", member.status_url()));
    }
    voice.say(&format!(
        "  tail -f {}/postgres-*/log/*.log",
        rig.settings.directory.display()
    ));
}

async fn all_faults(plan: &Plan, rig: &Rig, voice: Voice) -> Result<bool> {
    let began = Instant::now();
    voice.say("starting the members: the first one runs initdb, the others clone it");
    let observer = Observer::start(&rig.store, &rig.members);
    if let Err(missing) = shown(&observer, began, voice, rig.wait_whole(FIRST_WHOLE)).await {
        if plan.json {
            print_timeline(&observer, began, voice);
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
    let workload = Workload::start(&rig.settings, plan.clients).await?;
    let oracle = Oracle::start(&rig.settings, &rig.members).await?;
    voice.say(&format!(
        "{} clients write through {}",
        plan.clients,
        rig.settings.service_ip()
    ));
    sleep(WARM_UP).await;
    let mut good = true;
    'all: for round in 0..plan.repeat {
        for &fault in &plan.faults {
            let place = format!("{fault} ({} of {})", round + 1, plan.repeat);
            voice.say(&format!(
                "\nfault: {}",
                if plan.repeat > 1 { place } else { fault.to_string() }
            ));
            let began = Instant::now();
            let inflicted = one_fault(rig, fault, &observer, &workload, &oracle);
            let report = shown(&observer, began, voice, inflicted).await;
            if plan.json && !report.is_good() {
                print_timeline(&observer, began, voice);
            }
            voice.say(&report.text());
            if plan.json {
                println!("{}", report.json());
            }
            good &= report.is_good();
            if !report.detail.not_whole.is_empty() || report.detail.trouble.is_some() {
                voice.say("the cluster is not whole: no further fault would say anything");
                break 'all;
            }
        }
    }
    workload.stop().await;
    oracle.stop().await;
    voice.say("");
    for member in &rig.members {
        voice.say(&format!("status of {}: {}", member.name, member.status_url()));
    }
    Ok(good)
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

/// Inflicts one fault, waits until the cluster is whole, and judges what it did.
async fn one_fault(
    rig: &Rig,
    fault: Fault,
    observer: &Observer,
    workload: &Workload,
    oracle: &Oracle,
) -> FaultReport {
    let before = whole::record(&rig.store);
    let began = Instant::now();
    let (inflicted, mut trouble) = match fault.inflict(rig).await {
        Ok(inflicted) => {
            observer.note("fault", &inflicted.did);
            (inflicted, None)
        }
        Err(error) => {
            let did = "could not be inflicted".to_owned();
            (
                Inflicted {
                    at: began,
                    over: Instant::now(),
                    hit: None,
                    did,
                },
                Some(format!("{error:#}")),
            )
        }
    };
    let whole = rig.wait_whole(WHOLE_AGAIN).await;
    if whole.is_ok() {
        observer.note("cluster", "whole: one primary, all others stream from it");
    }
    let rejoined_ms = whole.is_ok().then(|| millis(inflicted.over.elapsed()));
    let mut not_whole = whole.err().unwrap_or_default();
    // Whole is one thing, serving another: clients must get an answer again too.
    if not_whole.is_empty() && !served_again(workload, Instant::now()).await {
        not_whole.push(format!(
            "no client's write was acknowledged within {} s",
            SERVED_BOUND.as_secs()
        ));
    }
    sleep(SETTLE).await;
    let ended = Instant::now();
    let after = whole::record(&rig.store);
    let lost = match workload.lost().await {
        Ok(lost) => lost,
        Err(error) => {
            trouble = trouble.or(Some(format!("whether writes were lost is not known: {error:#}")));
            Vec::new()
        }
    };
    let recorded = after.as_ref().map(timelines);
    let two_writable = oracle.two_writable(inflicted.at, recorded.as_ref());
    let by = |hit: &String| rejoined_by(observer, hit, inflicted.at, before.as_ref(), after.as_ref());
    let rejoined_by = inflicted
        .hit
        .as_ref()
        .filter(|_| not_whole.is_empty())
        .and_then(by);
    let (why, phases_ms) = newest_term(before.as_ref(), after.as_ref()).unzip();
    let summary = workload.summary(inflicted.at, ended);
    FaultReport {
        fault: fault.to_string(),
        durability: durability(rig).to_owned(),
        outage_ms: summary.outage_ms,
        acknowledged: summary.acknowledged,
        lost: lost.len() as u64,
        two_writable: two_writable.is_some(),
        read_only_errors: summary.read_only,
        old_primary: before.as_ref().and_then(primary),
        new_primary: after.as_ref().and_then(primary),
        rejoined_ms,
        rejoined_by,
        phases_ms: phases_ms.unwrap_or_default(),
        detail: Detail {
            did: inflicted.did,
            why,
            unknown: summary.unknown,
            failed: summary.failed,
            client_errors: workload.errors(inflicted.at, ended),
            lost_ids: lost.into_iter().take(20).collect(),
            two_writable,
            not_whole,
            trouble,
        },
    }
}

fn durability(rig: &Rig) -> &'static str {
    match rig.settings.choice.durability {
        Durability::Sync => "sync",
        Durability::Async => "async",
    }
}

fn primary(record: &Record) -> Option<String> {
    Some(record.primary.as_ref()?.member.as_str().to_owned())
}

async fn served_again(workload: &Workload, since: Instant) -> bool {
    while since.elapsed() < SERVED_BOUND {
        if workload.acknowledged_since(since) > 0 {
            return true;
        }
        sleep(Duration::from_millis(20)).await;
    }
    false
}

/// Timelines that the record knows: those promoted to and those they left, and the primary's own.
fn timelines(record: &Record) -> BTreeSet<u32> {
    let promoted = record
        .promotions
        .iter()
        .flat_map(|promotion| [promotion.timeline.0, promotion.parent.0]);
    promoted
        .chain(record.timeline.map(|timeline| timeline.0))
        .collect()
}

/// Why and phases of the last term, when it is a later one than before.
fn newest_term(before: Option<&Record>, after: Option<&Record>) -> Option<(String, Vec<(String, u64)>)> {
    let newest = after?.history.last()?;
    let known = before
        .and_then(|record| record.history.last())
        .map(|entry| entry.term);
    (known != Some(newest.term)).then(|| (newest.why.clone(), newest.phases.clone()))
}

/// Same data: followed. New data: what its guard was seen to do since `from`.
fn rejoined_by(
    observer: &Observer,
    hit: &str,
    from: Instant,
    before: Option<&Record>,
    after: Option<&Record>,
) -> Option<String> {
    let data = |record: Option<&Record>| {
        record?
            .members
            .iter()
            .find(|member| member.member.as_str() == hit)
            .map(|member| member.data_id.clone())
    };
    let now = data(after)?;
    if Some(now) == data(before) {
        return Some("follow".to_owned());
    }
    let entries = observer.since(from);
    let seen = entries
        .into_iter()
        .rev()
        .filter(|entry| entry.who == hit)
        .find_map(|entry| entry.operation);
    Some(seen.unwrap_or_else(|| "rewind or clone".to_owned()))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
