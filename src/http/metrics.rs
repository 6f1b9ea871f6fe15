//! What Prometheus scrapes. Base units, few series: labels take their values from fixed lists only. docs/metrics.md is rendered from
//! the registry.

mod gauges;
pub mod labels;

use std::borrow::Cow;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry, Unit};

use gauges::Gauges;
pub use labels::{
    ApiLabels, ApiOutcome, ApiResource, ApiVerb, Direction, DirectionLabel, Fence, FenceLabel, Outcome,
    Phase, PhaseLabel, Rejoin, RejoinLabels, Swap, SwapLabels, SwapOutcome, Way, WayLabel, WhyLabel,
};

use super::status::StatusPage;
use crate::core::probe::Probe;

/// Bounds of what lasts as long as a takeover, in seconds.
const TAKEOVER: [f64; 12] = [0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.0, 3.5, 6.0, 10.0, 30.0, 60.0];
/// Bounds of a step of one.
const STEP: [f64; 11] = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Bounds of one request to the API server.
const RENEWAL: [f64; 11] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];

/// All metrics of a member. Counters are the runtime's to raise; gauges follow what was seen last (`show` and those beside it).
/// Clones share values.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Takeovers by this member.
    pub takeovers: Family<WayLabel, Counter>,
    /// From the decision to take over until clients can write.
    pub takeover_duration: Histogram,
    /// The steps of takeovers.
    pub takeover_phases: Family<PhaseLabel, Histogram>,
    /// Servers stopped so that they take no more writes.
    pub fences: Family<FenceLabel, Counter>,
    /// Times that this member came back.
    pub rejoins: Family<RejoinLabels, Counter>,
    /// Decisions that were another one than the one before.
    pub decisions: Family<WhyLabel, Counter>,
    /// Changes of the Lease that were tried.
    pub swaps: Family<SwapLabels, Counter>,
    /// How long renewals took.
    pub renewal_duration: Histogram,
    /// Times that the permit came under half of its length.
    pub permits_low: Counter,
    /// Requests to the API server.
    pub api_requests: Family<ApiLabels, Counter>,
    /// Questions to other members, heartbeats among them.
    pub peer_questions: Counter,
    /// Bodies of those questions and of their answers.
    pub peer_bytes: Family<DirectionLabel, Counter>,
    /// Rounds of the loop.
    pub ticks: Counter,
    gauges: Gauges,
}

impl Metrics {
    /// The metrics and the registry that holds them. Series carry no name of a cluster or member.
    #[must_use]
    pub fn new() -> (Self, Registry) {
        Self::labelled(Vec::new())
    }

    /// As `new`; each series names the cluster (its Lease) and the member, so that rules and dashboards need no relabelling.
    #[must_use]
    pub fn of(cluster: &str, member: &str) -> (Self, Registry) {
        let label = |name: &'static str, value: &str| (Cow::Borrowed(name), Cow::Owned(value.to_owned()));
        Self::labelled(vec![label("cluster", cluster), label("member", member)])
    }

    fn labelled(labels: Vec<(Cow<'static, str>, Cow<'static, str>)>) -> (Self, Registry) {
        let metrics = Self {
            takeovers: Family::default(),
            takeover_duration: Histogram::new(TAKEOVER),
            takeover_phases: Family::new_with_constructor(|| Histogram::new(STEP)),
            fences: Family::default(),
            rejoins: Family::default(),
            decisions: Family::default(),
            swaps: Family::default(),
            renewal_duration: Histogram::new(RENEWAL),
            permits_low: Counter::default(),
            api_requests: Family::default(),
            peer_questions: Counter::default(),
            peer_bytes: Family::default(),
            ticks: Counter::default(),
            gauges: Gauges::default(),
        };
        metrics.begin_at_zero();
        metrics.gauges.begin();
        let mut registry = Registry::with_prefix_and_labels("pgbaton", labels.into_iter());
        metrics.gauges.register(&mut registry);
        metrics.register_takeovers(&mut registry);
        metrics.register_traffic(&mut registry);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that runs", build);
        (metrics, registry)
    }

    /// A series that begins with its first event hides that event from `increase`.
    fn begin_at_zero(&self) {
        for &way in Way::ALL {
            let _ = self.takeovers.get_or_create(&WayLabel { way });
        }
        for &phase in Phase::ALL {
            let _ = self.takeover_phases.get_or_create(&PhaseLabel { phase });
        }
        for &reason in Fence::ALL {
            let _ = self.fences.get_or_create(&FenceLabel { reason });
        }
        for &by in Rejoin::ALL {
            for &outcome in Outcome::ALL {
                let _ = self.rejoins.get_or_create(&RejoinLabels { by, outcome });
            }
        }
        for &kind in Swap::ALL {
            for &outcome in SwapOutcome::ALL {
                let _ = self.swaps.get_or_create(&SwapLabels { kind, outcome });
            }
        }
        for &direction in Direction::ALL {
            let _ = self.peer_bytes.get_or_create(&DirectionLabel { direction });
        }
    }

    fn register_takeovers(&self, to: &mut Registry) {
        add(
            to,
            "takeovers",
            "Takeovers by this member: clients could write again",
            &self.takeovers,
        );
        let help = "From the claim of the Lease until clients could write";
        add_seconds(to, "takeover_duration", help, &self.takeover_duration);
        let help = "Steps of this member's takeovers, as `pgbaton history` shows them";
        add_seconds(to, "takeover_phase_duration", help, &self.takeover_phases);
        let help = "Times that the server here was stopped so that it takes no more writes";
        add(to, "fences", help, &self.fences);
        add(
            to,
            "rejoins",
            "Times that this member came back to the primary's history",
            &self.rejoins,
        );
        let help = "Decisions that were another one than the one before, by `why.code`";
        add(to, "decisions", help, &self.decisions);
        let help = "Changes of the Lease that this member tried";
        add(to, "lease_swaps", help, &self.swaps);
        let help = "Renewals of the Lease that were done, from sending until the answer was taken in";
        add_seconds(to, "lease_renewal_duration", help, &self.renewal_duration);
        let help = "Times that less than half of its permit was left to a primary";
        add(to, "permits_low", help, &self.permits_low);
    }

    fn register_traffic(&self, to: &mut Registry) {
        add(
            to,
            "api_requests",
            "Requests to the API server",
            &self.api_requests,
        );
        let help = "Questions to other members, heartbeats among them";
        add(to, "peer_questions", help, &self.peer_questions);
        let help = "Bodies of questions to other members and of their answers";
        to.register_with_unit("peer_traffic", help, Unit::Bytes, self.peer_bytes.clone());
        add(to, "loop_ticks", "Rounds of the loop", &self.ticks);
    }

    /// Sets the gauges to what the page says.
    pub fn show(&self, page: &StatusPage) {
        self.gauges.show(page);
    }

    /// Sets the gauges of the server to what the last look saw.
    pub fn show_server(&self, probe: Option<&Probe>) {
        self.gauges.show_server(probe);
    }

    /// So many servers run without a guard where members should be, and so many of them take writes.
    pub fn show_unguarded(&self, servers: usize, primaries: usize) {
        self.gauges.show_unguarded(servers, primaries);
    }

    /// The wall clock of another member is so far from this one's, in milliseconds; 0: they agree.
    pub fn show_clocks(&self, apart_ms: u64) {
        self.gauges.show_clocks(apart_ms);
    }
}

fn add<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: &M) {
    to.register(name, help, metric.clone());
}

fn add_seconds<M: Metric + Clone>(to: &mut Registry, name: &str, help: &str, metric: &M) {
    to.register_with_unit(name, help, Unit::Seconds, metric.clone());
}
