//! The page that `GET /status` gives. `docs/status.schema.json` describes it for others; a test keeps the two together.

use serde::{Deserialize, Serialize};

use crate::core::record::Record;
use crate::core::report::CouldFailOver;
use crate::core::types::{DataId, Lsn, MemberName, Position, SystemId, Term, Timeline};

/// Version of the page: raised when a field is renamed, removed, or changes its meaning.
pub const STATUS_VERSION: u32 = 1;

/// What a member is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs read-write under a permit.
    Primary,
    /// Follows, or waits as a standby of nobody.
    Standby,
    /// Its server starts.
    Starting,
    /// Its data are being made: initdb, clone or rewind.
    Rebuilding,
    /// Its server is on its way down.
    Stopping,
    /// No server runs.
    Down,
    /// The guard does not answer: nothing is known of the server.
    Unknown,
}

impl Role {
    /// All, for metrics with one series each.
    pub const ALL: [Self; 7] = [
        Self::Primary,
        Self::Standby,
        Self::Starting,
        Self::Rebuilding,
        Self::Stopping,
        Self::Down,
        Self::Unknown,
    ];

    /// The word on the page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Starting => "starting",
            Self::Rebuilding => "rebuilding",
            Self::Stopping => "stopping",
            Self::Down => "down",
            Self::Unknown => "unknown",
        }
    }
}

/// Why the member is what it is: a code for programs, words for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// Stable, in snake_case.
    pub code: String,
    /// For people.
    pub text: String,
}

/// The Lease as this member last saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseView {
    /// `holderIdentity`; none: nobody, or never seen.
    pub holder: Option<String>,
    /// Milliseconds since `spec` was last seen to change.
    pub age_ms: Option<u64>,
    /// Its duration in milliseconds.
    pub duration_ms: u64,
    /// `leaseTransitions`.
    pub transitions: Term,
    /// Milliseconds since the API server last answered.
    pub contact_age_ms: Option<u64>,
}

/// A long operation of the guard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OperationView {
    /// `initialise`, `clone` or `rewind`.
    pub kind: String,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all, where known.
    pub bytes_total: Option<u64>,
    /// 0 to 100, where known.
    pub percent: Option<f64>,
    /// Milliseconds since it began.
    pub running_ms: u64,
}

/// The guard's summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardView {
    /// The server, in words: `primary`, `standby`, `down (permit ended)`.
    pub server: String,
    /// The life of the data.
    pub data_id: Option<DataId>,
    /// From pg_control.
    pub system_identifier: Option<SystemId>,
    /// Highest term on disk.
    pub highest_term: Term,
    /// Term pledged to.
    pub pledged_term: Option<Term>,
    /// Position told with the pledge.
    pub pledged_position: Option<Position>,
    /// What is left of the permit, in milliseconds; none: no permit.
    pub permit_left_ms: Option<u64>,
    /// What runs.
    pub operation: Option<OperationView>,
    /// Where the WAL of the stopped server ends.
    pub rest: Option<Position>,
    /// Free bytes on PGDATA's file system.
    pub disk_free_bytes: u64,
    /// Size of PGDATA's file system in bytes.
    pub disk_total_bytes: u64,
    /// Something a person should know; empty: nothing.
    pub warning: String,
}

/// One standby that streams from this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationView {
    /// `application_name`.
    pub name: String,
    /// `streaming`, `catchup` ...
    pub state: String,
    /// `quorum`, `async` ...
    pub sync_state: String,
    /// Flushed position.
    pub flush_lsn: Option<Lsn>,
    /// WAL that it has not flushed, in bytes.
    pub lag_bytes: Option<u64>,
}

/// The server as it answered the last probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresView {
    /// It answered a query.
    pub answers: bool,
    /// What came instead of an answer; none: it answered.
    pub error: Option<String>,
    /// Milliseconds since the probe was sent.
    pub age_ms: Option<u64>,
    /// Its timeline.
    pub timeline: Option<Timeline>,
    /// Insert position of a primary, else the last position received or replayed.
    pub lsn: Option<Lsn>,
    /// WAL it lacks, in bytes; 0 on the primary.
    pub lag_bytes: Option<u64>,
    /// Off the recorded promotions: it neither counts nor is ready.
    pub diverged: bool,
    /// Who streams from it.
    pub replication: Vec<ReplicationView>,
}

/// Another member, as it last answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerView {
    /// Its name.
    pub member: MemberName,
    /// Milliseconds since the question was asked; none: never answered.
    pub age_ms: Option<u64>,
    /// What it is.
    pub role: Option<Role>,
    /// The life of its data.
    pub data_id: Option<DataId>,
    /// Term it pledged to.
    pub pledged_term: Option<Term>,
    /// WAL it holds.
    pub position: Option<Position>,
    /// What came instead of an answer; none: it answered.
    pub error: Option<String>,
}

/// Could a takeover succeed now, by whose word.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouldFailOverView {
    /// The answer.
    #[serde(flatten)]
    pub answer: CouldFailOver,
    /// The leader whose word this is; none: judged here.
    #[serde(default)]
    pub told_by: Option<MemberName>,
    /// Milliseconds since the leader was last seen to say so; none: judged here, now.
    #[serde(default)]
    pub age_ms: Option<u64>,
    /// The leader's word is too old to hold now.
    #[serde(default)]
    pub stale: bool,
}

/// The settings in force on this member, durations in milliseconds. Durability and availability are the recorded ones' proposals only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsView {
    /// The Lease's name.
    pub lease: String,
    /// The read-write Service's name.
    pub service: String,
    /// `lease-duration`.
    pub lease_duration_ms: u64,
    /// `renew-interval`.
    pub renew_interval_ms: u64,
    /// `silence-timeout`.
    pub silence_timeout_ms: u64,
    /// `durability`.
    pub durability: String,
    /// `availability`.
    pub availability: String,
    /// `maximum-lag`, in bytes.
    pub maximum_lag_bytes: u64,
    /// `maximum-read-lag`, in bytes.
    pub maximum_read_lag_bytes: u64,
    /// `patch-env`.
    pub patch_env: bool,
}

/// A right that this member needs and its account does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingRight {
    /// Verb.
    pub verb: String,
    /// API group; empty: core.
    pub group: String,
    /// Plural name of the resource.
    pub resource: String,
    /// The object; none: new ones.
    pub name: Option<String>,
    /// What does not happen without it.
    pub text: String,
}

/// The rights of this member's account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RightsView {
    /// When the API server last answered a question about one (RFC 3339, this member's clock); none: never.
    pub checked_at: Option<String>,
    /// So many of those needed could not be asked about.
    pub unknown: u64,
    /// Those that are missing; `warnings` has the rules to add.
    pub missing: Vec<MissingRight>,
}

impl RightsView {
    /// How many are missing; none: not known.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        let all_known = self.checked_at.is_some() && self.unknown == 0;
        (all_known || !self.missing.is_empty()).then_some(self.missing.len() as u64)
    }
}

/// What runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// pgbaton's version.
    pub version: String,
    /// `release` or `debug`.
    pub profile: String,
}

impl Build {
    /// Of this program.
    #[must_use]
    pub fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        }
    }
}

/// The page.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusPage {
    /// `STATUS_VERSION`.
    pub version: u32,
    /// When the page was made (RFC 3339, this member's clock); ages on it count from then.
    pub at: String,
    /// Whose page.
    pub member: MemberName,
    /// UID of its pod.
    pub pod_uid: String,
    /// What it is.
    pub role: Role,
    /// State of its decisions (a name of docs/transitions.md).
    pub phase: String,
    /// Why.
    pub why: Why,
    /// Highest term it knows.
    pub term: Term,
    /// The Lease.
    pub lease: LeaseView,
    /// The record last read; none: none yet, or damaged (`record_error`).
    pub record: Option<Record>,
    /// What is wrong with the record.
    pub record_error: Option<String>,
    /// The guard; none: it does not answer.
    pub guard: Option<GuardView>,
    /// The server.
    pub postgres: PostgresView,
    /// The other members.
    pub peers: Vec<PeerView>,
    /// Could a takeover succeed now.
    pub could_fail_over: CouldFailOverView,
    /// What a person should look at.
    pub warnings: Vec<String>,
    /// Rights on the API server.
    pub rights: RightsView,
    /// Settings.
    pub settings: SettingsView,
    /// Program.
    pub build: Build,
}

impl StatusPage {
    /// Why the member is not ready to be read from; none: it is. Asks neither API server nor Lease: an outage of theirs takes no
    /// reader away.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if self.postgres.diverged {
            return Some("the server's history has diverged from the cluster's".to_owned());
        }
        if !self.postgres.answers {
            let error = self.postgres.error.as_deref().unwrap_or("not probed yet");
            return Some(format!("the server does not answer: {error}"));
        }
        None
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
pub(crate) mod tests;
