//! A cluster of the tutorial's own manifests is adopted in place, pod by pod, under writes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgbaton_chaos::local::settings::Settings;
use pgbaton_chaos::oracles::sql;
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::support::{BOUND, Live, short_lease};

/// What a client that writes through the primary's address saw.
struct Writer {
    stop: Arc<AtomicBool>,
    work: JoinHandle<(BTreeSet<u64>, Duration)>,
}

impl Writer {
    /// Writes one row after the other, on a new connection each; tells which were acknowledged, and the longest time without one.
    fn start(settings: &Settings) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (settings, stopped) = (settings.clone(), stop.clone());
        let work = tokio::spawn(async move {
            let (mut acknowledged, mut longest) = (BTreeSet::new(), Duration::ZERO);
            let mut last = Instant::now();
            for id in 1_000_000.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let text = format!("INSERT INTO adopted VALUES ({id})");
                if sql::ask(&settings.login, settings.member_ip(1), &text)
                    .await
                    .is_ok()
                {
                    acknowledged.insert(id);
                    longest = longest.max(last.elapsed());
                    last = Instant::now();
                }
                sleep(Duration::from_millis(20)).await;
            }
            (acknowledged, longest)
        });
        Self { stop, work }
    }

    async fn end(self) -> (BTreeSet<u64>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.unwrap()
    }
}

async fn ask(live: &Live, index: u8, text: &str) -> Option<String> {
    let settings = &live.rig().settings;
    sql::ask_one(&settings.login, settings.member_ip(index), text)
        .await
        .ok()
}

async fn until(live: &Live, index: u8, text: &str, wanted: &str) {
    let deadline = Instant::now() + BOUND;
    loop {
        let said = ask(live, index, text).await;
        if said.as_deref() == Some(wanted) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "postgres-{index}: {text}: {said:?}, not {wanted}"
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// A base backup in the making streams as well.
const STREAMING: &str = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name <> 'pg_basebackup'";

/// The tutorial's primary with two standbys and some rows, without guard and sidecar.
async fn plain(subnet: u8) -> Live {
    let live = Live::start(subnet, |choice| {
        short_lease(choice);
        choice.plain = true;
    })
    .await;
    until(&live, 1, STREAMING, "2").await;
    let text = "CREATE TABLE adopted (id bigint PRIMARY KEY); INSERT INTO adopted SELECT generate_series(1, 5000); SELECT 1";
    ask(&live, 1, text).await.unwrap();
    live
}

fn says(page: &Value, words: &[&str]) -> bool {
    let text = page["why"]["text"].as_str().unwrap_or_default();
    words.iter().all(|word| text.contains(word))
}

async fn rows(live: &Live, index: u8) -> BTreeSet<u64> {
    let settings = &live.rig().settings;
    let found = sql::ask(
        &settings.login,
        settings.member_ip(index),
        "SELECT id FROM adopted",
    )
    .await;
    let ids = found.unwrap().into_iter().flatten().flatten();
    ids.map(|id| id.parse().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorials_cluster_is_adopted_pod_by_pod_and_loses_nothing() {
    let live = plain(245).await;
    let began = Instant::now();
    let system = ask(&live, 1, "SELECT system_identifier FROM pg_control_system()").await;
    let writer = Writer::start(&live.rig().settings);
    live.rig().apply_adoption().unwrap();

    // Without the right to ask who is there it says so, with the rule.
    live.member("postgres-2").delete_pod().await.unwrap();
    let needed = ["\"list\"", "\"statefulsets\"", "deploy/adopt"];
    live.until_status("postgres-2", "the missing right", |page| says(page, &needed))
        .await;
    live.rig().may_list(true).unwrap();
    let next = [
        "follows postgres-1",
        "no guard",
        "kubectl delete pod postgres-3-0",
    ];
    live.until_status("postgres-2", "postgres-3 is next", |page| says(page, &next))
        .await;
    until(&live, 1, STREAMING, "2").await;
    live.member("postgres-3").delete_pod().await.unwrap();
    let next = ["follows postgres-1", "kubectl delete pod postgres-1-0"];
    for member in ["postgres-2", "postgres-3"] {
        live.until_status(member, "the primary is next", |page| says(page, &next))
            .await;
    }
    until(&live, 1, STREAMING, "2").await;
    assert!(live.record().unwrap().is_never_initialised());

    live.member("postgres-1").delete_pod().await.unwrap();
    live.until_settled().await;
    let (acknowledged, longest) = writer.end().await;
    eprintln!(
        "adopted in {:.1} s; longest time without an acknowledged write: {:.1} s; {} writes",
        began.elapsed().as_secs_f64(),
        longest.as_secs_f64(),
        acknowledged.len()
    );
    let record = live.record().unwrap();
    assert_eq!(record.primary.as_ref().unwrap().member.as_str(), "postgres-1");
    assert_eq!(record.timeline.unwrap().0, 1);
    assert_eq!(record.system_identifier.map(|s| s.to_string()), system);
    assert!(record.history[0].why.contains("adopted in place"), "{record:?}");
    assert_eq!(record.current_set().standbys.len(), 2, "the sync set is in force");
    assert!(acknowledged.len() > 20, "{}", acknowledged.len());
    let held = rows(&live, 1).await;
    assert!(acknowledged.is_subset(&held) && held.range(..=5_000).count() == 5_000);
    for index in [2, 3] {
        let count = "SELECT count(*) FROM adopted";
        until(&live, index, count, &held.len().to_string()).await;
        let auto = live.member(&format!("postgres-{index}")).member().pgdata();
        let auto = std::fs::read_to_string(auto.join("postgresql.auto.conf")).unwrap();
        assert!(!auto.contains("password"), "{auto}");
    }
    // And it is a cluster as any other.
    let ran = live.pgbaton(&["switchover", "--to", "postgres-3"]).await;
    assert_eq!(ran.code, Some(0), "{ran:#?}");
    live.until_whole().await;
    assert!(acknowledged.is_subset(&rows(&live, 3).await));
    live.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn beside_a_plain_server_that_was_promoted_nobody_leads() {
    let live = plain(246).await;
    live.rig().may_list(true).unwrap();
    live.rig().apply_adoption().unwrap();
    // The tutorial's failover by hand, and then the old primary's pod with guard and sidecar.
    ask(&live, 2, "SELECT pg_promote(false)").await.unwrap();
    until(&live, 2, "SELECT pg_is_in_recovery()", "f").await;
    live.member("postgres-1").delete_pod().await.unwrap();
    let words = ["not adopted yet", "postgres-2 takes writes"];
    live.until_status("postgres-1", "postgres-2 is named", |page| says(page, &words))
        .await;
    sleep(Duration::from_secs(6)).await;
    assert!(!live.takes_writes("postgres-1").await);
    assert!(live.takes_writes("postgres-2").await);
    assert!(live.record().unwrap().is_never_initialised());
    let pgdata = live.member("postgres-1").member().pgdata();
    assert!(!pgdata.join("standby.signal").exists() && !pgdata.join("pgbaton.data_id").exists());
    live.end().await;
}
