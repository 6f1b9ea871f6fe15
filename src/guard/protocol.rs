//! What sidecar and guard say to each other: one JSON object a line over a Unix socket, one answer to each request.
//! Unknown fields are tolerated, unknown versions refused, lines bounded.

use serde::{Deserialize, Serialize};

use crate::core::types::{DataId, Lsn, MemberName, Position, SystemId, Term, Timeline};

/// The protocol's version. A guard refuses any other.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest line in bytes, newline included.
pub const MAX_LINE: usize = 256 * 1024;
/// File name of the socket in the directory that both containers share.
pub const SOCKET_NAME: &str = "guard.sock";

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// `PROTOCOL_VERSION`.
    pub version: u32,
    /// What to do.
    pub order: Order,
    /// Who may say so; needed by every order that changes something.
    #[serde(default)]
    pub stamp: Option<Stamp>,
}

/// Makes a late or foreign order recognisable (DESIGN.md section 2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// Term on whose behalf the order is given. Below the guard's highest term: refused.
    pub term: Term,
    /// Strictly rising within one term and guard boot; not above the last one: refused. `Permit` is exempt.
    pub sequence: u64,
    /// The guard boot that the order was meant for (`Status::boot_id`).
    pub boot_id: String,
    /// System identifier of the data meant; none only where PGDATA holds no database.
    pub system_identifier: Option<SystemId>,
    /// Data id of the data meant; none only where PGDATA holds no database, or one that was never adopted.
    pub data_id: Option<DataId>,
}

/// A secret: never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A server to connect to, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// `host` (the member's name; also the password file's key).
    pub host: MemberName,
    /// `hostaddr`.
    pub hostaddr: std::net::IpAddr,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password; goes into a password file, nowhere else.
    pub password: Secret,
    /// `application_name` of the connection.
    pub application_name: String,
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The status at once (no stamp).
    Status,
    /// The status as soon as its revision differs from `revision`, at the latest after `wait_ms` (at most 10,000; no stamp).
    Watch {
        /// The revision known already.
        revision: u64,
        /// How long to wait.
        wait_ms: u64,
    },
    /// The server may run read-write until this moment of CLOCK_BOOTTIME. Refused when the stamp's term is below the
    /// highest term or the pledge's. Never shortens a permit of the same term. Answered without touching the disk
    /// unless the term is new to the guard.
    Permit {
        /// Milliseconds of CLOCK_BOOTTIME.
        deadline_boot_ms: u64,
    },
    /// Runs the image's entrypoint on an empty PGDATA (initdb), then stops what it started. Gives a data id.
    Initialise,
    /// Starts the stopped server read-write in place (no promotion). Needs a live permit of the stamp's term.
    StartPrimary {
        /// Value of `synchronous_standby_names`.
        synchronous_standby_names: String,
    },
    /// Runs the server as a standby of `upstream`: starts it, or points the running standby there by reload. Refused when
    /// the stamp's term is below the pledge's; refused on a read-write server.
    Follow {
        /// Whom.
        upstream: Upstream,
        /// Its slot for us; empty: none.
        slot: String,
        /// Names to have in case of a promotion; never empty (invariant 6).
        synchronous_standby_names: String,
    },
    /// Runs the server as a standby of nobody (pledged, or no primary known): starts it if needed.
    StandAlone {
        /// Names to have in case of a promotion.
        synchronous_standby_names: String,
    },
    /// Pledges to the stamp's term (invariant 5). Gives up the permit and ends a read-write server's processes first.
    /// `Status::pledge` then holds term and position.
    Pledge {
        /// A WAL location that this member is known to hold, to start reading at; a wrong one costs time only.
        hint: Option<Lsn>,
    },
    /// Changes `synchronous_standby_names` of the running server by reload.
    SetNames {
        /// The value.
        synchronous_standby_names: String,
    },
    /// Promotes the running standby with `pg_ctl`. Needs a live permit of the stamp's term and a pledge to it.
    Promote {
        /// The number that the new timeline must have; empty history files below it are laid first.
        timeline: Timeline,
    },
    /// Gives up the permit and stops the server: fast, after `fast_ms` immediate, then SIGKILL. `Status::rest` then holds its end of
    /// WAL. The server stays down, with `standby.signal`, until told what to be.
    Stop {
        /// How long a fast stop may take, in milliseconds; 0: immediate at once.
        fast_ms: u64,
        /// As in `Pledge`.
        hint: Option<Lsn>,
    },
    /// Copies the whole of `upstream` into a directory beside, verifies it, then puts it in PGDATA's place. Gives a new data id.
    /// Accepted at once; runs as an operation.
    Clone {
        /// Source; its `application_name` is in no sync set.
        upstream: Upstream,
        /// What the copy must be.
        system_identifier: SystemId,
        /// Timeline that the source is on.
        timeline: Timeline,
        /// Size of the source in bytes, for progress and for the check of the disk; none: unknown.
        bytes: Option<u64>,
        /// The old PGDATA may be removed first when the disk cannot hold both.
        replace: bool,
        /// Major version of the source, where known: the programs here must be of the same.
        #[serde(default)]
        source_major: Option<u32>,
        /// What a person should know about the copy; shown as a warning until one is made.
        #[serde(default)]
        notes: Vec<String>,
    },
    /// Makes PGDATA a copy of `upstream` from the point where they diverged (pg_rewind). Gives a new data id. Accepted at once; runs as
    /// an operation.
    Rewind {
        /// Source: a superuser's connection.
        upstream: Upstream,
        /// Timeline that the source is on.
        timeline: Timeline,
        /// As in `Clone`.
        #[serde(default)]
        source_major: Option<u32>,
    },
    /// Writes the stamp's term as the highest seen (a new member's first word; invariant 8).
    NoteTerm,
    /// Makes complete data that has none of pgbaton's files a member's: gives it a data id. The stamp carries its system identifier and no
    /// data id. Nothing is started.
    Adopt,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// Done (or, for operations, begun); the status after it.
    Ok {
        /// The status.
        status: Box<Status>,
    },
    /// Nothing was changed.
    Refused {
        /// For people: what, why, what to do.
        reason: String,
        /// For code.
        cause: Refusal,
        /// The status, when the sender may see it.
        status: Option<Box<Status>>,
    },
    /// Begun and not finished well; the state is in the status.
    Failed {
        /// For people.
        reason: String,
        /// The status.
        status: Box<Status>,
    },
}

/// Why an order was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Not a request of this protocol or version.
    Malformed,
    /// The stamp's term is below the highest term seen or pledged to.
    OldTerm,
    /// The stamp's sequence number is not above the last one.
    OldSequence,
    /// Meant for another boot, system or data.
    Foreign,
    /// No live permit or pledge where one is needed.
    NotPermitted,
    /// The server or PGDATA is not in a state for it.
    WrongState,
    /// Another operation runs.
    Busy,
    /// The disk cannot hold it.
    NoSpace,
}

/// What PGDATA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataState {
    /// Missing or empty.
    Empty,
    /// Begun and not finished (no completion mark and no usable pg_control): to be moved aside and done again.
    Incomplete,
    /// A database.
    Complete,
}

/// What the server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Server {
    /// No process of it runs.
    Down {
        /// Why.
        reason: DownReason,
        /// More, for people (exit status, last lines of what it wrote).
        detail: String,
    },
    /// Its postmaster runs and has not been seen in a settled state.
    Starting,
    /// In recovery.
    Standby,
    /// Out of recovery, or started to be so.
    Primary,
    /// On its way down.
    Stopping,
}

/// Why a server is down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownReason {
    /// Not started since the guard began.
    NotStarted,
    /// Stopped on order.
    Stopped,
    /// Ended by itself.
    Crashed,
    /// Killed: the permit ended.
    PermitEnded,
    /// Killed: read-write, or not started by the guard, without a permit.
    Unpermitted,
}

/// A pledge as it lies on disk, and the WAL that its giver holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pledge {
    /// The term pledged to.
    pub term: Term,
    /// Read after the pledge, with no receiver and no writer left; none: not read, or not readable (see `Status::warning`).
    pub position: Option<Position>,
}

/// A stopped server's end of WAL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestPosition {
    /// The end.
    pub position: Position,
    /// Shut down cleanly (pg_control says so).
    pub clean: bool,
}

/// Complete data that pgbaton did not make, as its own files tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundData {
    /// A standby's (`standby.signal` lies in it); else a primary's.
    pub standby: bool,
    /// `host` in its `primary_conninfo`: only a hint, for people.
    pub upstream: Option<String>,
    /// `application_name` there.
    pub application_name: Option<String>,
    /// Its `primary_slot_name`.
    pub slot: Option<String>,
    /// Where its last whole record ends; with `Status::rest`, and only when it was found at rest.
    pub end: Option<Lsn>,
    /// Its timeline and that one's ancestors, newest first, each with where it begins. As `end`.
    pub history: Vec<(Timeline, Lsn)>,
}

/// A long operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    /// `initialise`, `clone` or `rewind`.
    pub kind: String,
    /// Sequence number of the order that began it.
    pub sequence: u64,
    /// Bytes done.
    pub bytes_done: u64,
    /// Bytes in all, where known.
    pub bytes_total: Option<u64>,
    /// Milliseconds since it began.
    pub running_ms: u64,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationEnd {
    /// As in `Operation`.
    pub kind: String,
    /// As in `Operation`.
    pub sequence: u64,
    /// None: well. Else what went wrong, for people.
    pub error: Option<String>,
}

/// A live permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permit {
    /// Its term.
    pub term: Term,
    /// Milliseconds of CLOCK_BOOTTIME.
    pub deadline_boot_ms: u64,
}

/// Everything the guard knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// New at each start of the guard.
    pub boot_id: String,
    /// Rises with each change of what follows.
    pub revision: u64,
    /// CLOCK_BOOTTIME when this was written, in milliseconds.
    pub now_boot_ms: u64,
    /// PGDATA.
    pub data: DataState,
    /// From pg_control.
    pub system_identifier: Option<SystemId>,
    /// Major version of PGDATA (PG_VERSION).
    pub major_version: Option<u32>,
    /// The life of this data; none without data, and for data that was never adopted.
    pub data_id: Option<DataId>,
    /// The data has none of pgbaton's files, or is a primary's that was adopted and has not been started since; none: a member's own.
    #[serde(default)]
    pub found: Option<FoundData>,
    /// Highest term ever seen, from disk.
    pub highest_term: Term,
    /// False until a pledge file exists: a new member (invariant 8).
    pub knows_term: bool,
    /// The pledge in force.
    pub pledge: Option<Pledge>,
    /// The permit in force.
    pub permit: Option<Permit>,
    /// The server.
    pub server: Server,
    /// Where the server's WAL ends; only while it is down, and only when it was read.
    pub rest: Option<RestPosition>,
    /// The data is a copy that no server has recovered yet (clone, rewind): where its WAL ends says nothing, and it can only follow.
    #[serde(default)]
    pub fresh_copy: bool,
    /// `synchronous_standby_names` as last written.
    pub synchronous_standby_names: String,
    /// Standby name of the upstream followed (`host` of the last `Follow`); none: nobody.
    pub following: Option<MemberName>,
    /// What runs.
    pub operation: Option<Operation>,
    /// What ran last.
    pub last_operation: Option<OperationEnd>,
    /// The container's stop signal came: hand over, then `Stop`; the guard exits when the server is down.
    pub stopping: bool,
    /// Free bytes on PGDATA's file system.
    pub disk_free: u64,
    /// Size of PGDATA's file system in bytes.
    pub disk_total: u64,
    /// Something a person should know; empty: nothing.
    pub warning: String,
}
