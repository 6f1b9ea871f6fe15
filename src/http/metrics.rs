//! What Prometheus scrapes. Base units, few series: labels take their values from fixed lists only.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::status::{Role, StatusPage};

type Float = Gauge<f64, AtomicU64>;

/// How a takeover came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum Way {
    /// Handed over.
    handover,
    /// Taken before expiry, on evidence.
    claim,
    /// Taken after expiry.
    expiry,
    /// Ordered by a person, without proof.
    forced,
    /// The same member continued.
    restart,
}

/// How a member came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum Rejoin {
    /// Plain follow.
    follow,
    /// pg_rewind.
    rewind,
    /// A new copy.
    clone,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum Outcome {
    /// Well.
    ok,
    /// Not well.
    error,
}

/// What a request to the API server asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum ApiVerb {
    /// One object.
    get,
    /// Objects.
    list,
    /// Changes from now on.
    watch,
    /// A change.
    patch,
    /// A new object.
    create,
    /// Anything else.
    other,
}

/// What a request to the API server is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum ApiResource {
    /// The Lease.
    leases,
    /// Services.
    services,
    /// StatefulSets.
    statefulsets,
    /// Pods.
    pods,
    /// Events.
    events,
    /// Anything else.
    other,
}

/// How a request to the API server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum ApiOutcome {
    /// Done.
    ok,
    /// 409: somebody else was first.
    conflict,
    /// Any other 4xx.
    refused,
    /// 5xx.
    failed,
    /// No answer: it may have been done.
    unknown,
}

/// Label of takeovers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct WayLabel {
    /// How.
    pub way: Way,
}

/// Labels of rejoins.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RejoinLabels {
    /// How.
    pub by: Rejoin,
    /// How it ended.
    pub outcome: Outcome,
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
pub enum Direction {
    /// Questions.
    sent,
    /// Answers.
    received,
}

/// Labels of API requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ApiLabels {
    /// What was asked for.
    pub verb: ApiVerb,
    /// About what.
    pub resource: ApiResource,
    /// How it ended.
    pub outcome: ApiOutcome,
}

/// Label of the peers' traffic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DirectionLabel {
    /// Which way.
    pub direction: Direction,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RoleLabel {
    role: &'static str,
}

/// All metrics of a member. Counters are the runtime's to raise; gauges follow the status page (`show`). Clones share values.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// Takeovers by this member.
    pub takeovers: Family<WayLabel, Counter>,
    /// From the decision to take over until clients can write.
    pub takeover_duration: Histogram,
    /// Times that this member came back.
    pub rejoins: Family<RejoinLabels, Counter>,
    /// Requests to the API server.
    pub api_requests: Family<ApiLabels, Counter>,
    /// Questions to other members, heartbeats among them.
    pub peer_questions: Counter,
    /// Bodies of those questions and of their answers.
    pub peer_bytes: Family<DirectionLabel, Counter>,
    /// Rounds of the loop.
    pub ticks: Counter,
    /// Times that the guard's permit ran out on this member.
    pub permits_lost: Counter,
    role: Family<RoleLabel, Gauge>,
    term: Gauge,
    lease_age: Float,
    contact_age: Float,
    permit_left: Float,
    up: Gauge,
    diverged: Gauge,
    timeline: Gauge,
    lag: Gauge,
    standbys: Gauge,
    disk_free: Gauge,
    could_fail_over: Gauge,
    paused: Gauge,
    warnings: Gauge,
    unguarded: Gauge,
    missing_rights: Gauge,
}

impl Metrics {
    /// The metrics and the registry that holds them.
    #[must_use]
    pub fn new() -> (Self, Registry) {
        let metrics = Self {
            takeovers: Family::default(),
            takeover_duration: Histogram::new([
                0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 2.0, 3.5, 6.0, 10.0, 30.0, 60.0,
            ]),
            rejoins: Family::default(),
            api_requests: Family::default(),
            peer_questions: Counter::default(),
            peer_bytes: Family::default(),
            ticks: Counter::default(),
            permits_lost: Counter::default(),
            role: Family::default(),
            term: Gauge::default(),
            lease_age: Float::default(),
            contact_age: Float::default(),
            permit_left: Float::default(),
            up: Gauge::default(),
            diverged: Gauge::default(),
            timeline: Gauge::default(),
            lag: Gauge::default(),
            standbys: Gauge::default(),
            disk_free: Gauge::default(),
            could_fail_over: Gauge::default(),
            paused: Gauge::default(),
            warnings: Gauge::default(),
            unguarded: Gauge::default(),
            missing_rights: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("pgbaton");
        metrics.register_counters(&mut registry);
        metrics.register_gauges(&mut registry);
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The program that runs", build);
        (metrics, registry)
    }

    fn register_counters(&self, registry: &mut Registry) {
        registry.register("takeovers", "Takeovers by this member", self.takeovers.clone());
        registry.register_with_unit(
            "takeover_duration",
            "From the decision to take over until clients can write",
            Unit::Seconds,
            self.takeover_duration.clone(),
        );
        registry.register(
            "rejoins",
            "Times that this member came back",
            self.rejoins.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server",
            self.api_requests.clone(),
        );
        registry.register(
            "peer_questions",
            "Questions to other members, heartbeats among them",
            self.peer_questions.clone(),
        );
        registry.register_with_unit(
            "peer_traffic",
            "Bodies of questions to other members and of their answers",
            Unit::Bytes,
            self.peer_bytes.clone(),
        );
        registry.register("loop_ticks", "Rounds of the loop", self.ticks.clone());
        registry.register("permits_lost", "Permits that ran out", self.permits_lost.clone());
    }

    fn register_gauges(&self, registry: &mut Registry) {
        let seconds = [
            (
                "lease_age",
                "Since the Lease was last seen to change",
                &self.lease_age,
            ),
            (
                "api_contact_age",
                "Since the API server last answered",
                &self.contact_age,
            ),
            (
                "permit_remaining",
                "What is left of the permit, 0 without one",
                &self.permit_left,
            ),
        ];
        for (name, help, gauge) in seconds {
            registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
        }
        let bytes = [
            (
                "replication_lag",
                "WAL that this member lacks, -1 when not known",
                &self.lag,
            ),
            (
                "disk_free",
                "Free space on the file system of PGDATA, -1 when not known",
                &self.disk_free,
            ),
        ];
        for (name, help, gauge) in bytes {
            registry.register_with_unit(name, help, Unit::Bytes, gauge.clone());
        }
        let plain = [
            ("term", "Highest term known", &self.term),
            (
                "postgres_up",
                "1 when the server answered the last probe",
                &self.up,
            ),
            (
                "postgres_diverged",
                "1 when the server's history has diverged",
                &self.diverged,
            ),
            (
                "postgres_timeline",
                "Timeline of the server, 0 when not known",
                &self.timeline,
            ),
            (
                "standbys_streaming",
                "Standbys that stream from this server",
                &self.standbys,
            ),
            (
                "failover_possible",
                "1 when a takeover would succeed now, by the leader's word",
                &self.could_fail_over,
            ),
            ("paused", "1 while takeovers are paused", &self.paused),
            ("warnings", "Warnings on the status page", &self.warnings),
            (
                "unguarded_servers",
                "Servers at members' addresses that no guard holds",
                &self.unguarded,
            ),
            (
                "missing_rights",
                "Rights on the API server that this member needs and lacks, -1 when not known",
                &self.missing_rights,
            ),
        ];
        for (name, help, gauge) in plain {
            registry.register(name, help, gauge.clone());
        }
        registry.register(
            "role",
            "1 for what this member is, 0 for the other roles",
            self.role.clone(),
        );
    }

    /// So many servers run without a guard where members should be.
    pub fn show_unguarded(&self, servers: usize) {
        self.unguarded.set(saturated(servers as u64));
    }

    /// Sets the gauges to what the page says.
    pub fn show(&self, page: &StatusPage) {
        for role in Role::ALL {
            let label = RoleLabel { role: role.as_str() };
            self.role.get_or_create(&label).set(i64::from(role == page.role));
        }
        let known = |value: Option<u64>| value.map_or(-1, saturated);
        self.term.set(saturated(page.term.0));
        self.lease_age.set(seconds(page.lease.age_ms));
        self.contact_age.set(seconds(page.lease.contact_age_ms));
        let guard = page.guard.as_ref();
        self.permit_left
            .set(seconds(Some(guard.and_then(|g| g.permit_left_ms).unwrap_or(0))));
        self.up.set(i64::from(page.postgres.answers));
        self.diverged.set(i64::from(page.postgres.diverged));
        self.timeline
            .set(page.postgres.timeline.map_or(0, |t| i64::from(t.0)));
        self.lag.set(known(page.postgres.lag_bytes));
        let streaming = page
            .postgres
            .replication
            .iter()
            .filter(|r| r.state == "streaming");
        self.standbys.set(saturated(streaming.count() as u64));
        self.disk_free.set(known(guard.map(|g| g.disk_free_bytes)));
        let answer = &page.could_fail_over;
        // An old word says nothing of now.
        self.could_fail_over
            .set(i64::from(answer.answer.yes && !answer.stale));
        let paused = page.record.as_ref().is_some_and(|record| record.paused);
        self.paused.set(i64::from(paused));
        self.warnings.set(saturated(page.warnings.len() as u64));
        self.missing_rights.set(known(page.rights.count()));
    }
}

fn saturated(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Milliseconds as seconds; not a number when not known.
fn seconds(ms: Option<u64>) -> f64 {
    ms.map_or(f64::NAN, |ms| std::time::Duration::from_millis(ms).as_secs_f64())
}
