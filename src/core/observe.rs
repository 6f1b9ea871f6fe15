//! What a member sees: everything `decide` may know, each fact with its age.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::action::{GuardOrder, SqlJob, SwapKind};
use super::adoption::Survey;
use super::record::{Evidence, Record};
use super::types::{Address, DataId, Lsn, MemberData, MemberName, Millis, Term, Timeline};
use crate::guard::protocol::Status;

/// What never changes while the sidecar runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// This member.
    pub me: MemberName,
    /// Its `holderIdentity`: `<member>_<pod UID>`.
    pub holder: String,
    /// Where it listens.
    pub address: Address,
    /// `STANDBY_MODE=off`: marks the first primary of a cluster never initialised (invariant 7).
    pub first_primary: bool,
    /// `leaseDurationSeconds`.
    pub lease_duration: Millis,
    /// Time between renewals.
    pub renew_interval: Millis,
    /// Length of a permit, counted from before the extending request was sent.
    pub permit: Millis,
    /// How long a server may fail its health test before it loses the baton.
    pub health_timeout: Millis,
    /// How long a new leader waits for pledges.
    pub pledge_timeout: Millis,
    /// How long nothing may be heard of the Lease's holder before that is evidence.
    pub silence_timeout: Millis,
    /// How long a standby may be silent before it leaves the sync set.
    pub standby_timeout: Millis,
    /// Standbys that must have flushed a commit, where there are as many.
    pub sync_standbys: u32,
    /// Most WAL that an asynchronous takeover may lose, in bytes.
    pub maximum_lag: u64,
}

/// The Lease as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum LeaseView {
    /// Never seen since this process started.
    Unknown,
    /// The API server says that there is none.
    Absent,
    /// It is there.
    Seen(Box<SeenLease>),
}

/// One version of the Lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeenLease {
    /// `resourceVersion`: what a swap judged on this view is based on.
    pub version: String,
    /// `holderIdentity`; none when empty.
    pub holder: Option<String>,
    /// `leaseTransitions`.
    pub term: Term,
    /// `leaseDurationSeconds`.
    pub duration: Millis,
    /// The annotation.
    pub record: RecordView,
    /// For how long `spec` has not changed, on this process' own clock.
    pub unchanged_for: Millis,
    /// The order of a person, if its annotation is there and readable.
    pub order: Option<PersonOrder>,
}

/// The annotation of the Lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum RecordView {
    /// A record.
    Good(Box<Record>),
    /// No annotation.
    Missing,
    /// Not a record: why.
    Unreadable(String),
}

/// What a person ordered through the Lease and nobody has finished yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonOrder {
    /// Given by the command, carried by the answer.
    pub id: String,
    /// What.
    pub what: PersonWish,
}

/// The order itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PersonWish {
    /// Hand over.
    Switchover {
        /// To whom; none: the fittest.
        to: Option<MemberName>,
    },
    /// Promote without proof (section 9).
    Failover {
        /// Whom.
        to: MemberName,
    },
    /// No takeover from now on.
    Pause,
    /// Takeovers again.
    Resume,
    /// Take this member's data as the cluster's (damaged Lease).
    Adopt {
        /// Whose.
        member: MemberName,
    },
}

/// The guard as last heard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum GuardView {
    /// Never heard since this process started.
    Unknown,
    /// Its last status.
    Heard(Box<Evidence<Status>>),
    /// It was heard once and its socket does not answer since this moment.
    Lost {
        /// Since when.
        since: Millis,
        /// Its last status.
        last: Box<Evidence<Status>>,
    },
}

/// One standby as its primary sees it (`pg_stat_replication`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationRow {
    /// Process id of the walsender.
    pub pid: i32,
    /// `application_name`.
    pub name: String,
    /// `state` is `streaming`.
    pub streaming: bool,
    /// `flush_lsn`.
    pub flush: Option<Lsn>,
    /// `sync_priority`.
    pub sync_priority: i32,
    /// Time of its last answer by the standby's own clock, which nobody compares with another: only that it changes counts.
    pub replied_at_ms: Option<i64>,
}

/// The local server over the PostgreSQL protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum ServerView {
    /// Nothing listens.
    Down,
    /// Alive and not accepting yet (start, crash recovery) or any more (shutdown).
    NotAccepting,
    /// Alive; all connections are taken.
    Full,
    /// Alive; pgbaton may not log in.
    LoginFailed {
        /// What it said.
        text: String,
    },
    /// No answer within the health test's time.
    Hung,
    /// Answers with an error.
    Broken {
        /// What it said.
        text: String,
    },
    /// In recovery.
    Standby {
        /// `pg_last_wal_receive_lsn`.
        receive: Option<Lsn>,
        /// `pg_last_wal_replay_lsn`.
        replay: Option<Lsn>,
        /// Its WAL receiver streams.
        streaming: bool,
        /// Timeline that it replays, where known.
        #[serde(default)]
        timeline: Option<Timeline>,
    },
    /// Out of recovery.
    Primary {
        /// `pg_current_wal_insert_lsn`.
        insert: Lsn,
        /// Current timeline.
        timeline: Timeline,
        /// `synchronous_standby_names` on a fresh connection.
        names: String,
        /// Its standbys.
        rows: Vec<ReplicationRow>,
        /// The health test's write reached the disk.
        wrote: bool,
    },
}

impl ServerView {
    /// The test that a server must pass to keep or get the baton.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        match self {
            Self::Primary { wrote, .. } => *wrote,
            Self::Standby { .. } | Self::NotAccepting | Self::Full | Self::LoginFailed { .. } => true,
            Self::Down | Self::Hung | Self::Broken { .. } => false,
        }
    }
}

/// Another member, by its sidecar's authenticated answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub member: MemberName,
    /// Its pod.
    pub pod_uid: String,
    /// Where it listens.
    pub address: Address,
    /// Its guard's status; none while the guard does not answer.
    pub guard: Option<Status>,
    /// Its server.
    pub server: Option<ServerView>,
    /// Its pod is on its way out.
    pub terminating: bool,
    /// How long it took to stop its server and give up the Lease when it last stepped down, in milliseconds. For people.
    #[serde(default)]
    pub stepped_down_in_ms: Option<u64>,
    /// Its wall clock when it answered, milliseconds since 1970. For people: nothing is decided by wall clocks.
    #[serde(default)]
    pub wall_ms: Option<u64>,
    /// How many rights on the API server its account lacks. For people.
    #[serde(default)]
    pub missing_rights: usize,
}

impl PeerReport {
    /// Name and data, when it has data.
    #[must_use]
    pub fn data(&self) -> Option<MemberData> {
        let data_id = self.guard.as_ref()?.data_id.clone()?;
        Some(MemberData {
            member: self.member.clone(),
            data_id,
        })
    }
}

/// What a member promises to a heartbeat: it follows this term with this data and claims nothing for so long from now (DESIGN.md section 6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// The term that it follows.
    pub term: Term,
    /// The life of its own data.
    pub data_id: DataId,
    /// For how long.
    pub for_ms: Millis,
}

/// A promise that was received, with when its heartbeat was sent: it counts from then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Promised {
    /// As promised.
    pub term: Term,
    /// As promised.
    pub data_id: DataId,
    /// As promised.
    pub for_ms: Millis,
    /// When the heartbeat was sent, CLOCK_BOOTTIME.
    pub asked_boot: Millis,
    /// As above, live clock.
    pub asked_at: Millis,
}

/// What was found at the door of the member that holds the Lease, by knocking at its server's and its sidecar's port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HolderSight {
    /// Whose door: `holderIdentity`.
    pub holder: String,
    /// Both ports refuse every connection: when the first such knock began, and the last. None: the last knock said something else.
    pub refused: Option<(Millis, Millis)>,
    /// The last knock was refused at the server's port, whatever its sidecar's did.
    pub server_refused: bool,
    /// When the last knock began at which a postmaster answered.
    pub server_heard_at: Option<Millis>,
}

/// What is under way: at most one in each lane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Lanes {
    /// A swap of the Lease.
    pub swap: bool,
    /// An order to the guard (permits have a lane of their own).
    pub guard: bool,
    /// A statement on the local server.
    pub sql: bool,
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Outcome {
    /// A swap.
    Swap {
        /// What it was.
        kind: SwapKind,
        /// When it was sent: CLOCK_BOOTTIME and the live clock.
        sent_boot: Millis,
        /// As above, live clock.
        sent_at: Millis,
        /// How it ended.
        result: SwapResult,
    },
    /// An order to the guard.
    Guard {
        /// What it was.
        order: GuardOrder,
        /// None: done. Else what was said; an outcome that is not known is an error here too, and the status tells.
        error: Option<String>,
    },
    /// An order that the guard did not begin, because another one ran or its data had just changed: to be judged anew.
    GuardBusy {
        /// What it was.
        order: GuardOrder,
        /// What it said.
        reason: String,
    },
    /// A statement.
    Sql {
        /// What it was.
        job: SqlJob,
        /// None: done.
        error: Option<String>,
    },
}

/// How a swap ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum SwapResult {
    /// It is in the Lease: this is the version that it made.
    Done(Box<SeenLease>),
    /// Somebody else changed the Lease first.
    Lost,
    /// The API server refused it.
    Refused(String),
    /// Sent, and no answer: it may be in the Lease or not, or come later.
    Unknown(String),
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// Now, on the live clock (a monotonic clock that stands still while this process does).
    pub now: Millis,
    /// Now, CLOCK_BOOTTIME.
    pub now_boot: Millis,
    /// Now, wall clock, milliseconds since 1970: for people only.
    pub unix_ms: u64,
    /// The Lease.
    pub lease: LeaseView,
    /// The guard.
    pub guard: GuardView,
    /// The local server.
    pub server: Option<Evidence<ServerView>>,
    /// The others.
    pub peers: BTreeMap<MemberName, Evidence<PeerReport>>,
    /// The servers of the namespace, while the cluster may still have to be adopted.
    pub survey: Survey,
    /// The newest promise of each other member to this one.
    pub promises: BTreeMap<MemberName, Promised>,
    /// Until when this member has promised to claim nothing, live clock.
    pub promised_until: Option<Millis>,
    /// What was found at the holder's door, where somebody knocked.
    pub holder: Option<HolderSight>,
    /// Terms that others lead by their authenticated word (a member that cannot reach the API server pledges on it).
    pub told_term: Option<Term>,
    /// What is under way.
    pub lanes: Lanes,
    /// What ended since the last decision.
    pub outcomes: Vec<Outcome>,
    /// Effects outside (Service first) that are known to be in place, for this term.
    /// None for the member: nowhere.
    pub service_points_to: Option<(Term, Option<MemberName>)>,
    /// The term that the read-write Service carries, where it was read: a record written back must be above it.
    pub service_term: Option<Term>,
    /// Order ids that this process has answered already.
    pub answered_orders: BTreeSet<String>,
}
