//! Real Prometheus scrapes a cluster of two members through faults: which alerts fire, and that they end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use pgbaton_chaos::local::faults::Fault;
use tokio::time::sleep;

use super::dashboard::each_query_has_data;
use super::prometheus::{Prometheus, SHORT_FOR, now};
use super::support::Live;

/// Where the table of what happened is appended to; set by `make monitoring-evidence`.
const TABLE: &str = "PGBATON_MONITORING_TABLE";
/// Longer than warnings wait here: what would fire has fired.
const QUIET: Duration = Duration::from_secs(8);
const CANNOT: &str = "PgbatonCannotFailOver";
const NO_SYNC: &str = "PgbatonNoSyncStandby";
const NO_PRIMARY: &str = "PgbatonNoPrimary";
const HARMLESS: [&str; 1] = ["PgbatonStandbyBehind"];

/// What was done, and what the alerts did.
struct Row {
    what: String,
    expected: BTreeSet<&'static str>,
    fired: BTreeSet<String>,
}

struct Test {
    live: Live,
    prometheus: Prometheus,
    rows: Vec<Row>,
}

impl Test {
    /// Notes what fired since `from`. What is not expected may not have fired, but for what a member that comes back may show for a moment.
    async fn note(&mut self, what: &str, from: f64, expected: &[&'static str], tolerated: &[&str]) {
        let fired = self.prometheus.fired_since(from).await;
        let expected: BTreeSet<&'static str> = expected.iter().copied().collect();
        for name in &expected {
            assert!(fired.contains(*name), "{what}: {name} did not fire: {fired:?}");
        }
        for name in &fired {
            let may = expected.contains(name.as_str()) || tolerated.contains(&name.as_str());
            assert!(may, "{what}: {name} fired");
        }
        self.rows.push(Row {
            what: what.to_owned(),
            expected,
            fired,
        });
    }

    async fn quiet(&mut self) {
        let from = now();
        self.prometheus
            .until("count(pgbaton_role{role=\"primary\"}) == 2")
            .await;
        sleep(QUIET).await;
        self.note("nothing", from, &[], &[]).await;
    }

    /// A takeover is shorter than critical alerts wait.
    async fn postmaster_kill(&mut self) {
        let from = now();
        Fault::PostmasterKill.inflict(self.live.rig()).await.unwrap();
        let taken = "sum(pgbaton_takeovers_total) >= 1";
        self.prometheus.until(taken).await;
        self.live.until_settled().await;
        self.prometheus.until_firing(&[]).await;
        // Until the old primary is back there is nobody to fail over to.
        let tolerated = [CANNOT, NO_SYNC, HARMLESS[0]];
        self.note("postmaster of the primary killed", from, &[], &tolerated)
            .await;
    }

    async fn standby_lost(&mut self) {
        let from = now();
        let standbys = self.live.rig().standby_kubelets().unwrap();
        let standby = standbys[0].member().name.clone();
        self.live.away(&standby).await;
        self.prometheus.until_firing(&[CANNOT, NO_SYNC]).await;
        self.live.member(&standby).hold(false);
        self.live.until_settled().await;
        self.prometheus.until_firing(&[]).await;
        self.note("the standby away, then back", from, &[CANNOT, NO_SYNC], &HARMLESS)
            .await;
    }

    async fn paused(&mut self) {
        let from = now();
        let ran = self.live.pgbaton(&["pause"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        self.prometheus.until_firing(&[CANNOT]).await;
        let firing = self.prometheus.firing().await;
        let text = firing[0]["annotations"]["description"].as_str().unwrap();
        assert!(
            text.contains("postgres-1 paused;") && text.contains("postgres-2 paused;"),
            "{text}"
        );
        self.note("takeovers paused", from, &[CANNOT], &[]).await;

        let from = now();
        let primary = self.live.rig().primary().unwrap();
        self.live.away(&primary).await;
        self.prometheus
            .until("ALERTS{alertname=\"PgbatonNoPrimary\",alertstate=\"firing\"}")
            .await;
        self.live.member(&primary).hold(false);
        let ran = self.live.pgbaton(&["resume"]).await;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        self.live.until_settled().await;
        self.prometheus.until_firing(&[]).await;
        let tolerated = [NO_SYNC, HARMLESS[0]];
        let what = "paused, and the primary's pod away; then back, and resumed";
        self.note(what, from, &[CANNOT, NO_PRIMARY], &tolerated).await;
    }

    fn table(&self, queries: usize) -> String {
        let mut text = String::from(
            "| what was done | alerts that had to fire | alerts that fired |\n| --- | --- | --- |\n",
        );
        let list = |names: Vec<&str>| match names.is_empty() {
            true => "none".to_owned(),
            false => names.join(", "),
        };
        for row in &self.rows {
            let expected = list(row.expected.iter().copied().collect());
            let fired = list(row.fired.iter().map(String::as_str).collect());
            let _ = writeln!(text, "| {} | {expected} | {fired} |", row.what);
        }
        let _ = writeln!(
            text,
            "\nTwo members, a scrape and an evaluation a second, the wait of warnings cut to {SHORT_FOR}. Each alert had ended before the next row. \
             {queries} of {queries} queries of the dashboard had data."
        );
        text
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_and_dashboard_through_faults() {
    let live = Live::whole(195, |choice| choice.members = 2).await;
    let prometheus = Prometheus::start(&live.rig().settings).await;
    let began = now();
    let mut test = Test {
        live,
        prometheus,
        rows: Vec::new(),
    };
    test.quiet().await;
    test.postmaster_kill().await;
    test.standby_lost().await;
    test.paused().await;
    let queries = each_query_has_data(&test.prometheus, began, now()).await;
    if let Some(path) = std::env::var_os(TABLE) {
        std::fs::write(path, test.table(queries)).unwrap();
    }
    drop(test.prometheus);
    test.live.end().await;
}
