//! Records what members say through real faults, second by second, for promtool's unit tests. Not a test: `make monitoring-record` runs it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgbaton_chaos::local::api::{Cut, Kind};
use pgbaton_chaos::local::faults::Fault;
use pgbaton_chaos::local::rig::Rig;
use pgbaton_chaos::local::settings::{Choice, NAMESPACE};
use pgbaton_chaos::names::SIDECAR_PORT;
use pgbaton_chaos::oracles::{observer, sql};
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::repository;
use super::series::Recording;
use super::skewed;
use super::support::Live;

/// Names of the recordings that are wanted, separated by commas; not set: all. Each has a subnet of its own, so that several processes can record.
const ONLY: &str = "PGBATON_RECORD";
/// A pgbaton of an older version.
const OLDER: &str = "PGBATON_OLDER";
/// Below this line of a unit test's file nothing is written by hand.
const MARK: &str =
    "  # Recorded by `make monitoring-record`: nothing below is written by hand.\n  input_series:\n";
/// Before each fault.
const QUIET: Duration = Duration::from_secs(15);
const SQL_BOUND: Duration = Duration::from_secs(30);

/// Scrapes members while something is done to them.
struct Recorder {
    recording: Arc<Mutex<Recording>>,
    work: tokio::task::JoinHandle<()>,
}

impl Recorder {
    fn start(rigs: &[&Rig]) -> Self {
        let recording = Arc::new(Mutex::new(Recording::default()));
        let ips: Vec<_> = rigs.iter().flat_map(|r| r.members.iter().map(|m| m.ip)).collect();
        let into = recording.clone();
        let work = tokio::spawn(async move {
            let mut second = interval(Duration::from_secs(1));
            second.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                second.tick().await;
                let one = async |ip| {
                    let asked = observer::get(ip, "/metrics");
                    let answer = tokio::time::timeout(Duration::from_millis(900), asked).await;
                    let text = answer.ok()?.ok()?;
                    Some((format!("{ip}:{SIDECAR_PORT}"), text))
                };
                let texts = futures_util::future::join_all(ips.iter().map(|ip| one(*ip))).await;
                into.lock().unwrap().add(&texts, NAMESPACE);
            }
        });
        Self { recording, work }
    }

    /// Writes the file's series; `hold`: what members said last goes on for so many seconds.
    async fn end(self, name: &str, hold: usize) {
        self.work.abort();
        let _ = self.work.await;
        let recording = self.recording.lock().unwrap();
        let path = repository().join(format!("deploy/monitoring/tests/{name}.yaml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let (head, _) = text
            .split_once(MARK)
            .unwrap_or_else(|| panic!("{name} has no line '{MARK}'"));
        std::fs::write(&path, format!("{head}{MARK}{}", recording.block(hold))).unwrap();
        eprintln!("{name}: {} seconds, and {hold} held", recording.seconds());
    }
}

fn wanted(name: &str) -> bool {
    let Ok(names) = std::env::var(ONLY) else {
        return true;
    };
    names.split(',').any(|wanted| wanted == name)
}

async fn cluster(subnet: u8, members: u8, change: impl FnOnce(&mut Choice)) -> Live {
    Live::whole(subnet, |choice| {
        choice.members = members;
        change(choice);
    })
    .await
}

async fn ask(live: &Live, member: &str, text: &str) -> String {
    let ip = live.member(member).member().ip;
    sql::ask_within(&live.rig().settings.login, ip, text, SQL_BOUND)
        .await
        .unwrap()
        .into_iter()
        .flatten()
        .flatten()
        .last()
        .unwrap_or_default()
}

fn primary(live: &Live) -> String {
    live.rig().primary().unwrap()
}

fn standby(live: &Live) -> String {
    let standbys = live.rig().standby_kubelets().unwrap();
    standbys[0].member().name.clone()
}

async fn seconds(count: u64) {
    sleep(Duration::from_secs(count)).await;
}

/// The server of a member killed, and three switchovers.
async fn takeovers() {
    let live = cluster(150, 3, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    Fault::PostmasterKill.inflict(live.rig()).await.unwrap();
    for _ in 0..3 {
        live.until_settled().await;
        seconds(3).await;
        Fault::Switchover.inflict(live.rig()).await.unwrap();
    }
    live.until_settled().await;
    seconds(5).await;
    recorder.end("takeovers", 60).await;
    live.end().await;
}

/// The only standby away, while 1.2 GB of WAL are written.
async fn standby_lost() {
    let live = cluster(151, 2, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let (leader, lost) = (primary(&live), standby(&live));
    live.away(&lost).await;
    seconds(20).await;
    for _ in 0..75 {
        let fill = "SET synchronous_commit = local; SELECT pg_logical_emit_message(false, 'recorded', 'wal'); SELECT pg_switch_wal()";
        ask(&live, &leader, fill).await;
    }
    seconds(10).await;
    recorder.end("standby-lost", 330).await;
    live.end().await;
}

/// Takeovers paused, and then the primary's pod away.
async fn paused() {
    let live = cluster(152, 3, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    live.pgbaton(&["pause"]).await;
    seconds(15).await;
    live.away(&primary(&live)).await;
    seconds(45).await;
    recorder.end("paused", 300).await;
    live.end().await;
}

/// All members away at once.
async fn all_away() {
    let live = cluster(153, 2, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    for member in ["postgres-1", "postgres-2"] {
        live.away(member).await;
    }
    seconds(45).await;
    recorder.end("all-away", 0).await;
    live.end().await;
}

/// A standby's StatefulSet without guard and sidecar, as the original manifest has it, its server promoted by the start.
async fn foreign() {
    let live = cluster(154, 3, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let name = standby(&live);
    live.away(&name).await;
    let rig = live.rig();
    let mut set = rig.store.get(Kind::StatefulSet, &name).unwrap();
    let pod = &mut set["spec"]["template"]["spec"];
    let server = &mut pod["containers"][0];
    let entrypoint = server["command"].as_array().unwrap().last().unwrap().clone();
    server["command"] = json!([entrypoint]);
    pod["initContainers"] = json!([]);
    let patch = json!({ "spec": { "template": set["spec"]["template"] } });
    rig.store.patch(Kind::StatefulSet, &name, &patch).unwrap();
    let _ = std::fs::remove_file(live.member(&name).member().pgdata().join("standby.signal"));
    live.member(&name).hold(false);
    live.member(&name).delete_pod().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !live.takes_writes(&name).await {
        assert!(Instant::now() < deadline, "{name} takes no writes");
        seconds(1).await;
    }
    seconds(15).await;
    recorder.end("foreign", 0).await;
    live.end().await;
}

/// Two clusters of one name, scraped into one namespace: one cluster of pgbaton's never has two primaries.
async fn two_primaries() {
    let live = cluster(155, 2, |_| {}).await;
    let other = Live::whole(162, |choice| choice.members = 1).await;
    Fault::Switchover.inflict(live.rig()).await.unwrap();
    if primary(&live) != "postgres-2" {
        panic!("the switchover ended at {}", primary(&live));
    }
    live.until_settled().await;
    // The other one is scraped once its members are added to the targets.
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let second = Recorder::start(&[other.rig()]);
    seconds(20).await;
    second.work.abort();
    let _ = second.work.await;
    let later = std::mem::take(&mut *second.recording.lock().unwrap());
    recorder.recording.lock().unwrap().merge(&later);
    recorder.end("two-primaries", 90).await;
    other.end().await;
    live.end().await;
}

/// Replay paused on a standby while others write.
async fn behind() {
    let live = cluster(156, 2, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let (leader, late) = (primary(&live), standby(&live));
    ask(&live, &late, "SELECT pg_wal_replay_pause()").await;
    for _ in 0..45 {
        assert!(live.takes_writes(&leader).await);
        seconds(1).await;
    }
    recorder.end("behind", 150).await;
    live.end().await;
}

/// An archive command that fails.
async fn archive() {
    let live = cluster(157, 2, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let leader = primary(&live);
    ask(&live, &leader, "ALTER SYSTEM SET archive_command = 'false'").await;
    ask(&live, &leader, "SELECT pg_reload_conf()").await;
    let fill = "SELECT pg_logical_emit_message(true, 'recorded', 'wal'); SELECT pg_switch_wal()";
    ask(&live, &leader, fill).await;
    seconds(20).await;
    recorder.end("archive", 330).await;
    live.end().await;
}

/// Volumes of 1.5 GB that somebody fills.
async fn volume() {
    let place = tempfile::Builder::new()
        .prefix("pgbaton-")
        .tempdir_in("/tmp")
        .unwrap();
    let mounted = run(
        "mount",
        &["-t", "tmpfs", "-o", "size=1500m,mode=755", "tmpfs"],
        place.path(),
    );
    assert!(mounted, "mounting a small file system needs root");
    let directory = place.path().join("rig");
    let live = cluster(158, 2, |choice| choice.directory = Some(directory)).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let filler = place.path().join("filler");
    assert!(run("fallocate", &["-l", "1000M"], &filler));
    seconds(15).await;
    recorder.end("volume", 330).await;
    live.end().await;
    std::fs::remove_file(&filler).unwrap();
    assert!(run("umount", &[], place.path()));
}

fn run(program: &str, arguments: &[&str], last: &std::path::Path) -> bool {
    let status = std::process::Command::new(program)
        .args(arguments)
        .arg(last)
        .status();
    status.unwrap().success()
}

/// One member's sidecar is of an older version.
async fn older() {
    let path = PathBuf::from(std::env::var_os(OLDER).expect("PGBATON_OLDER names an older pgbaton"));
    let live = cluster(159, 2, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    let name = standby(&live);
    let rig = live.rig();
    let mut set: Value = rig.store.get(Kind::StatefulSet, &name).unwrap();
    set["spec"]["template"]["spec"]["initContainers"][0]["command"][0] = json!(path);
    let patch = json!({ "spec": { "template": set["spec"]["template"] } });
    rig.store.patch(Kind::StatefulSet, &name, &patch).unwrap();
    live.member(&name).delete_pod().await.unwrap();
    live.until_settled().await;
    seconds(10).await;
    recorder.end("older", 3_700).await;
    live.end().await;
}

/// One member answers with a wall clock five minutes ahead.
async fn clock() {
    let live = cluster(160, 2, |choice| {
        let listen = format!("127.0.{}.112:{SIDECAR_PORT}", choice.subnet);
        choice
            .member_sidecar_env
            .push((2, "PGBATON_LISTEN".to_owned(), listen));
        skewed::start(choice.subnet);
    })
    .await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    skewed::set(&live.rig().settings.secret.replication_password, 300_000);
    seconds(20).await;
    recorder.end("clock", 330).await;
    live.end().await;
}

/// The API server stands still for most of a permit, and there is no standby to promise anything.
async fn lease() {
    let live = cluster(161, 1, |_| {}).await;
    let recorder = Recorder::start(&[live.rig()]);
    sleep(QUIET).await;
    live.rig().store.api().cut_everyone(Some(Cut::Silent));
    sleep(Duration::from_millis(5_500)).await;
    live.rig().store.api().cut_everyone(None);
    seconds(10).await;
    recorder.end("lease", 30).await;
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes deploy/monitoring/tests: make monitoring-record"]
async fn record() {
    macro_rules! scenarios {
        ($($name:literal: $scenario:ident,)*) => {
            $(if wanted($name) {
                $scenario().await;
            })*
        };
    }
    scenarios! {
        "takeovers": takeovers,
        "standby-lost": standby_lost,
        "paused": paused,
        "all-away": all_away,
        "foreign": foreign,
        "two-primaries": two_primaries,
        "behind": behind,
        "archive": archive,
        "volume": volume,
        "older": older,
        "clock": clock,
        "lease": lease,
    }
}
