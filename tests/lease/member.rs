//! Leases to begin with, and one member's half of the Lease on a clock that the test moves.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use pgbaton::core::record::{Availability, Durability, Record};
use pgbaton::core::types::{Millis, Term};
use pgbaton::lease::{
    Baton, HolderId, INITIAL_ANNOTATION, LeaseSeen, LeaseSettings, LeaseView, LiveClock, RECORD_ANNOTATION,
    Swap, SwapKind, SwapOutcome, WatchTimes, open,
};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fake::Fake;

pub const TTL: Duration = Duration::from_secs(10);
/// Generous bound on anything that must happen; nothing is judged by how long it takes.
pub const SOON: Duration = Duration::from_secs(20);

/// A Lease as deploy/ ships it: the initial annotation says "never initialised", no spec.
pub fn shipped() -> Value {
    let mut lease = lease(&json!({}), &fresh_record());
    lease["metadata"]["annotations"] =
        json!({INITIAL_ANNOTATION: fresh_record().render(), "example.com/other": "kept"});
    lease
}

pub fn lease(spec: &Value, record: &Record) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "postgres", "namespace": "default",
            "annotations": {RECORD_ANNOTATION: record.render(), "example.com/other": "kept"}},
        "spec": spec})
}

/// Held by `holder` in `term`, last renewed `age` ago by the wall clock.
pub fn held(holder: &str, term: u64, age: Duration) -> Value {
    lease(&held_spec(holder, term, age), &fresh_record())
}

pub fn held_spec(holder: &str, term: u64, age: Duration) -> Value {
    let renewed = jiff::Timestamp::now() - jiff::SignedDuration::try_from(age).unwrap();
    let renewed = format!("{:.6}", renewed.display_with_offset(jiff::tz::Offset::UTC));
    json!({"holderIdentity": holder, "leaseTransitions": term, "leaseDurationSeconds": TTL.as_secs(),
        "renewTime": renewed, "acquireTime": renewed})
}

pub fn fresh_record() -> Record {
    Record::never_initialised(Durability::Sync, Availability::Available)
}

pub fn id(number: u32) -> HolderId {
    HolderId::new(
        format!("postgres-{number}").parse().unwrap(),
        &format!("uid-{number}"),
    )
    .unwrap()
}

/// One member's half of the Lease, on a clock that the test moves.
pub struct Member {
    pub baton: Baton,
    pub view: watch::Receiver<LeaseView>,
    pub clock: LiveClock,
    time: Arc<AtomicU64>,
    watcher: tokio::task::JoinHandle<Infallible>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Member {
    pub fn new(fake: &Fake, number: u32) -> Self {
        Self::with_quiet(fake, number, Duration::from_secs(3600))
    }

    pub fn with_quiet(fake: &Fake, number: u32, quiet: Duration) -> Self {
        let time = Arc::new(AtomicU64::new(1_000_000));
        let source = time.clone();
        let clock = LiveClock::with_source(move || Millis(source.load(Ordering::SeqCst)), Millis(200));
        let short = Duration::from_millis(20);
        let settings = LeaseSettings {
            client: fake.client(),
            namespace: "default".to_owned(),
            name: "postgres".to_owned(),
            me: id(number),
            duration: TTL,
            clock: clock.clone(),
            times: WatchTimes {
                request: short * 10,
                quiet,
                pause_min: short,
                pause_max: short,
            },
        };
        let (baton, watcher, view) = open(settings).unwrap();
        let watcher = tokio::spawn(watcher.run());
        Self {
            baton,
            view,
            clock,
            time,
            watcher,
        }
    }

    /// Time passes and the process runs.
    pub fn live(&self, time: Duration) {
        for _ in 0..time.as_millis() / 100 {
            self.freeze(Duration::from_millis(100));
            let _ = self.clock.now();
        }
    }

    /// Time passes and the process stands still.
    pub fn freeze(&self, time: Duration) {
        self.time
            .fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
    }

    /// Waits for the view.
    pub async fn until(&self, what: &str, good: impl Fn(&LeaseView) -> bool) -> LeaseView {
        let mut view = self.view.clone();
        match tokio::time::timeout(SOON, view.wait_for(|v| good(v))).await {
            Ok(Ok(found)) => found.clone(),
            _ => panic!("never came: {what}; have {:?}", self.view.borrow()),
        }
    }

    /// The Lease once it is what the API server has now.
    pub async fn newest(&self, fake: &Fake) -> Arc<LeaseSeen> {
        let lease: Lease = serde_json::from_value(fake.lease().unwrap()).unwrap();
        let version = lease.metadata.resource_version.unwrap();
        let known = |v: &LeaseView| v.state.seen().is_some_and(|s| s.resource_version == version);
        self.until("the newest Lease", known)
            .await
            .state
            .seen()
            .cloned()
            .unwrap()
    }

    pub async fn swap(&self, seen: &Arc<LeaseSeen>, kind: SwapKind) -> SwapOutcome {
        self.swap_record(
            seen,
            kind,
            seen.record.good().cloned().unwrap_or_else(fresh_record),
        )
        .await
    }

    pub async fn swap_record(&self, seen: &Arc<LeaseSeen>, kind: SwapKind, record: Record) -> SwapOutcome {
        self.swap_in(seen, kind, record, SOON).await
    }

    pub async fn swap_in(
        &self,
        seen: &Arc<LeaseSeen>,
        kind: SwapKind,
        record: Record,
        timeout: Duration,
    ) -> SwapOutcome {
        let based_on = seen.clone();
        self.baton
            .swap(Swap {
                based_on,
                kind,
                record,
                annotations: BTreeMap::new(),
                timeout,
            })
            .await
    }
}

pub fn done(outcome: SwapOutcome) -> Arc<LeaseSeen> {
    match outcome {
        SwapOutcome::Done { lease, .. } => lease,
        other => panic!("not done: {other:?}"),
    }
}

/// The words of a refusal by pgbaton itself.
pub fn refused(outcome: SwapOutcome) -> String {
    match outcome {
        SwapOutcome::Refused { code: None, message } => message,
        other => panic!("not refused by pgbaton: {other:?}"),
    }
}

pub fn released(term: u64) -> Record {
    Record {
        released: Some(Term(term)),
        ..fresh_record()
    }
}
