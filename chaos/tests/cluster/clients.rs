//! Clients that write through Service `postgres` while something is done to the cluster, and what they say at the end.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_chaos::cluster::target::Target;
use pgbaton_chaos::cluster::watchers;
use pgbaton_chaos::oracles::observer::Observer;
use pgbaton_chaos::oracles::sql;
use pgbaton_chaos::oracles::trial::Subject as _;
use pgbaton_chaos::oracles::workload::{Summary, Workload};
use pgbaton_chaos::oracles::writers::Oracle;
use tokio::time::{Instant, sleep};

use super::kubectl::BOUND;

/// Fewer writes than this are no load.
const LEAST: u64 = 100;

pub struct Clients {
    pub workload: Workload,
    oracle: Arc<Oracle>,
    // Keeps the oracle's writers at the address of every pod.
    _observer: Observer,
    pub began: Instant,
}

impl Clients {
    pub async fn start(target: &Target) -> Self {
        // kube-proxy leads there some time after the Service says so.
        let began = Instant::now();
        while sql::ask(&target.login, target.service, "SELECT 1").await.is_err() {
            assert!(began.elapsed() < BOUND, "the Service leads nowhere");
            sleep(Duration::from_millis(100)).await;
        }
        let oracle = Arc::new(Oracle::start(&target.login, target.service).await.unwrap());
        let (observer, _) = watchers::start(target, &oracle);
        let workload = Workload::start(&target.login, target.service, 4).await.unwrap();
        let clients = Self {
            workload,
            oracle,
            _observer: observer,
            began: Instant::now(),
        };
        clients.served().await;
        sleep(Duration::from_secs(2)).await;
        clients
    }

    /// Waits until a write that was sent after this moment is acknowledged.
    pub async fn served(&self) {
        let since = Instant::now();
        while self.workload.acknowledged_since(since) == 0 {
            assert!(since.elapsed() < BOUND, "no write acknowledged within {BOUND:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends them. What was acknowledged is there, never two servers took writes, and somebody is served at the end.
    pub async fn end(self, target: &Target) -> Summary {
        self.served().await;
        let record = target.record().await.unwrap();
        let promoted = record.promotions.iter().flat_map(|p| [p.timeline.0, p.parent.0]);
        let known: BTreeSet<u32> = promoted.chain(record.timeline.map(|t| t.0)).collect();
        let two = self.oracle.two_writable(self.began, Some(&known));
        assert_eq!(two, None);
        let lost = self.workload.lost().await.unwrap();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        let summary = self.workload.summary(self.began, Instant::now());
        assert!(summary.acknowledged > LEAST, "{summary:?}");
        self.workload.stop().await;
        self.oracle.stop().await;
        summary
    }
}
