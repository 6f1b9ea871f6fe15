//! What a probe of a PostgreSQL server saw, and what follows from it alone. Values only: the connections are made in
//! `postgres/`.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::observe::ReplicationRow;
use super::types::{Lsn, SystemId, Timeline};

/// One look at a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Probe {
    /// Nothing listens: the connection was refused. Hard evidence.
    Down {
        /// What the system said.
        detail: String,
    },
    /// It listens and takes no connections now (57P03): it starts, recovers from a crash, waits as a standby for a consistent
    /// state, or shuts down. Which one only its text tells (translated); the guard knows. Alive.
    Starting {
        /// The server's text.
        detail: String,
    },
    /// It ended this connection (57P01, 57P02): shutdown, crash of another backend, or a person. Alive at that moment.
    ShuttingDown {
        /// The server's text.
        detail: String,
    },
    /// All connections are taken (53300). Alive.
    Full {
        /// The server's text.
        detail: String,
    },
    /// The server is alive and does not let pgbaton in: a wrong password, role, database or `pg_hba.conf`.
    AuthFailed {
        /// The server's code, where it gave one.
        sqlstate: Option<String>,
        /// The server's text.
        detail: String,
        /// What a person should do.
        advice: String,
    },
    /// No answer in time. Soft evidence: a frozen server, a hung disk, or a busy machine.
    Hung {
        /// How long was waited, in milliseconds.
        after_ms: u64,
    },
    /// Something else went wrong.
    Broken {
        /// The server's code, where it gave one (`53100`: disk full).
        sqlstate: Option<String>,
        /// The text.
        detail: String,
    },
    /// In recovery and answering.
    Standby(StandbyView),
    /// Not in recovery and answering.
    Primary(PrimaryView),
}

impl Probe {
    /// True when a postmaster certainly answered. False for `Down`, and for `Hung` and `Broken`, which say neither.
    #[must_use]
    pub fn answered(&self) -> bool {
        match self {
            Self::Down { .. } | Self::Hung { .. } => false,
            Self::Broken { sqlstate, .. } => sqlstate.is_some(),
            Self::Starting { .. }
            | Self::ShuttingDown { .. }
            | Self::Full { .. }
            | Self::AuthFailed { .. }
            | Self::Standby(_)
            | Self::Primary(_) => true,
        }
    }

    /// What any answering server told.
    #[must_use]
    pub fn server(&self) -> Option<&ServerView> {
        match self {
            Self::Standby(view) => Some(&view.server),
            Self::Primary(view) => Some(&view.server),
            Self::Down { .. }
            | Self::Starting { .. }
            | Self::ShuttingDown { .. }
            | Self::Full { .. }
            | Self::AuthFailed { .. }
            | Self::Hung { .. }
            | Self::Broken { .. } => None,
        }
    }

    /// The primary's view when this look proves that the server takes writes: out of recovery, not read-only by default, and
    /// a write was flushed.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn writable(&self) -> Result<&PrimaryView, String> {
        match self {
            Self::Primary(view) if view.read_only => Err(
                "the server is out of recovery but new transactions are read-only: set default_transaction_read_only \
                 to off"
                    .to_owned(),
            ),
            Self::Primary(view) if view.health_write_ms.is_none() => {
                Err("the server is out of recovery; no write was tried".to_owned())
            }
            Self::Primary(view) => Ok(view),
            other => Err(other.to_string()),
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code =
            |sqlstate: &Option<String>| sqlstate.as_deref().map(|c| format!(" ({c})")).unwrap_or_default();
        match self {
            Self::Down { detail } => write!(f, "the server is down: {detail}"),
            Self::Starting { detail } => write!(f, "the server takes no connections yet: {detail}"),
            Self::ShuttingDown { detail } => write!(f, "the server ended the connection: {detail}"),
            Self::Full { detail } => write!(f, "the server is alive and full: {detail}"),
            Self::AuthFailed {
                sqlstate,
                detail,
                advice,
            } => {
                write!(
                    f,
                    "the server is alive and refuses pgbaton: {detail}{}; {advice}",
                    code(sqlstate)
                )
            }
            Self::Hung { after_ms } => write!(f, "the server gave no answer within {after_ms} ms"),
            Self::Broken { sqlstate, detail } => write!(f, "the probe failed: {detail}{}", code(sqlstate)),
            Self::Standby(view) => write!(f, "standby, replayed {}", or_none(view.replay_lsn)),
            Self::Primary(view) => write!(
                f,
                "primary at {} on timeline {}",
                view.insert_lsn, view.server.timeline
            ),
        }
    }
}

fn or_none(lsn: Option<Lsn>) -> String {
    lsn.map_or_else(|| "nothing yet".to_owned(), |lsn| lsn.to_string())
}

/// Why a conversation with a server failed, before it is judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "snake_case")]
pub enum Failure {
    /// The connection was refused (or the socket file is missing).
    Refused {
        /// What the system said.
        detail: String,
    },
    /// Not finished in time. Whether what was asked took effect is not known (invariant 10).
    TimedOut {
        /// How long was waited, in milliseconds.
        after_ms: u64,
    },
    /// The server said no.
    Server {
        /// SQLSTATE.
        sqlstate: String,
        /// Its text.
        detail: String,
    },
    /// The client could not log in (no password where one is asked for, an unknown method, a wrong server signature).
    Login {
        /// The text.
        detail: String,
    },
    /// The connection broke or the answer was not understood.
    Other {
        /// The text.
        detail: String,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut { after_ms } => write!(f, "no answer within {after_ms} ms"),
            Self::Server { sqlstate, detail } => write!(f, "{detail} ({sqlstate})"),
            Self::Refused { detail } | Self::Login { detail } | Self::Other { detail } => f.write_str(detail),
        }
    }
}

/// What a failure says of the server. By SQLSTATE, never by text (texts are translated).
#[must_use]
pub fn classify(failure: Failure) -> Probe {
    match failure {
        Failure::Refused { detail } => Probe::Down { detail },
        Failure::TimedOut { after_ms } => Probe::Hung { after_ms },
        Failure::Login { detail } => Probe::AuthFailed {
            sqlstate: None,
            detail,
            advice: ADVICE_PASSWORD.to_owned(),
        },
        Failure::Other { detail } => Probe::Broken {
            sqlstate: None,
            detail,
        },
        Failure::Server { sqlstate, detail } => classify_sqlstate(sqlstate, detail),
    }
}

const ADVICE_PASSWORD: &str = "make POSTGRES_USER and POSTGRES_PASSWORD in the Secret match the role in the database \
                               (ALTER ROLE ... PASSWORD ...)";

fn classify_sqlstate(sqlstate: String, detail: String) -> Probe {
    let refused = |advice: &str, sqlstate: String, detail: String| Probe::AuthFailed {
        sqlstate: Some(sqlstate),
        detail,
        advice: advice.to_owned(),
    };
    match sqlstate.as_str() {
        "57P03" => Probe::Starting { detail },
        "57P01" | "57P02" => Probe::ShuttingDown { detail },
        "53300" => Probe::Full { detail },
        "28P01" => refused(ADVICE_PASSWORD, sqlstate, detail),
        "3D000" => refused(
            "create the database named by POSTGRES_DB, or correct POSTGRES_DB",
            sqlstate,
            detail,
        ),
        "42501" => refused(
            "POSTGRES_USER must be a superuser of this server (ALTER ROLE ... SUPERUSER)",
            sqlstate,
            detail,
        ),
        code if code.starts_with("28") => refused(
            "allow the role in pg_hba.conf for this address and let it log in (ALTER ROLE ... LOGIN)",
            sqlstate,
            detail,
        ),
        _ => Probe::Broken {
            sqlstate: Some(sqlstate),
            detail,
        },
    }
}

/// What every answering server tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// From pg_control.
    pub system_identifier: SystemId,
    /// `server_version_num` (150018).
    pub server_version_num: u32,
    /// On a primary, of the WAL being written. On a standby, of the WAL being received, else of what pg_control says: good for
    /// people and plausibility, **not** for a position (invariant 5), which only the guard reads.
    pub timeline: Timeline,
    /// When the postmaster started, milliseconds since 1970 on the server's clock: another value is another start.
    pub postmaster_start_unix_ms: i64,
    /// Settings under which acknowledged commits can be lost or a rejoin needs a copy, for people; empty: none.
    pub warnings: Vec<String>,
    /// Read on a connection made for this look: only then `names` shows what a new connection is given, and only then the
    /// postmaster was tried.
    pub fresh: bool,
}

/// A standby.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StandbyView {
    /// What every server tells.
    #[serde(flatten)]
    pub server: ServerView,
    /// Last WAL received and flushed by streaming since the start; none: no streaming yet.
    pub receive_lsn: Option<Lsn>,
    /// Last WAL replayed.
    pub replay_lsn: Option<Lsn>,
    /// Replay was paused by a person, or by a parameter below the primary's.
    pub replay_paused: bool,
    /// The WAL receiver; none also while one connects (so none is **not** "its process is gone").
    pub receiver: Option<Receiver>,
    /// `primary_conninfo` is not empty in this server's settings.
    pub conninfo_set: bool,
    /// `synchronous_standby_names`, to be used in case of a promotion.
    pub names: String,
    /// Milliseconds since the commit replayed last was made; 0 when everything received is replayed. None: no commit replayed yet.
    pub lag_ms: Option<i64>,
}

/// The WAL receiver as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    /// Its process.
    pub pid: i32,
    /// `streaming`, `starting`, `waiting`, ...
    pub status: String,
    /// `host` of its connection.
    pub host: Option<String>,
    /// Port of its connection.
    pub port: Option<i32>,
    /// The slot that it uses.
    pub slot: Option<String>,
    /// Timeline of the WAL received last.
    pub received_tli: Option<Timeline>,
    /// WAL flushed.
    pub flushed_lsn: Option<Lsn>,
    /// The end of WAL that the sender reported last.
    pub latest_end_lsn: Option<Lsn>,
    /// Milliseconds since the last message of the sender, on the server's clock.
    pub message_age_ms: Option<i64>,
}

/// A primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryView {
    /// What every server tells.
    #[serde(flatten)]
    pub server: ServerView,
    /// Where the next WAL record goes. Read before `replication`.
    pub insert_lsn: Lsn,
    /// WAL flushed here. Read after `replication`: no honest standby has flushed more.
    pub flush_lsn: Lsn,
    /// `synchronous_standby_names` as this connection was given them.
    pub names: String,
    /// One row for each walsender.
    pub replication: Vec<Replication>,
    /// Replication slots.
    pub slots: Vec<Slot>,
    /// The archiver.
    pub archive: Archive,
    /// How long a small write took until it was flushed to this disk, in milliseconds; none: not asked for.
    pub health_write_ms: Option<u64>,
    /// New transactions are read-only by default.
    pub read_only: bool,
}

impl PrimaryView {
    /// All walsenders that run.
    #[must_use]
    pub fn walsenders(&self) -> BTreeSet<Walsender> {
        self.replication.iter().map(|row| row.walsender).collect()
    }

    /// The standbys as the core judges them. One that claims more than this server has flushed is on another history: its claim
    /// says nothing.
    #[must_use]
    pub fn rows(&self) -> Vec<ReplicationRow> {
        let row = |row: &Replication| ReplicationRow {
            pid: row.walsender.pid,
            name: row.application_name.clone(),
            streaming: row.state.as_deref() == Some("streaming"),
            flush: row.flush_lsn.filter(|f| *f <= self.flush_lsn),
            sync_priority: row.sync_priority,
            replied_at_ms: row.replied_at_ms,
        };
        self.replication.iter().map(row).collect()
    }
}

/// Names one walsender beyond the reuse of its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Walsender {
    /// Its process.
    pub pid: i32,
    /// When it started, microseconds since 1970 on the server's clock.
    pub backend_start_us: i64,
}

/// One row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replication {
    /// The walsender.
    #[serde(flatten)]
    pub walsender: Walsender,
    /// The standby's name.
    pub application_name: String,
    /// Its address.
    pub client_addr: Option<String>,
    /// `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: Option<String>,
    /// `async`, `potential`, `sync`, `quorum`.
    pub sync_state: Option<String>,
    /// 0: this walsender believes that its standby is not waited for.
    pub sync_priority: i32,
    /// WAL sent.
    pub sent_lsn: Option<Lsn>,
    /// WAL written by the standby.
    pub write_lsn: Option<Lsn>,
    /// WAL flushed by the standby.
    pub flush_lsn: Option<Lsn>,
    /// WAL replayed by the standby.
    pub replay_lsn: Option<Lsn>,
    /// Time of the standby's last reply by its own clock, milliseconds since 1970.
    pub replied_at_ms: Option<i64>,
}

/// One row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Physical, not logical.
    pub physical: bool,
    /// Lives only as long as its session.
    pub temporary: bool,
    /// Somebody streams from it.
    pub active: bool,
    /// The oldest WAL that it keeps.
    pub restart_lsn: Option<Lsn>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
    /// Bytes of WAL from `restart_lsn` to the server's end.
    pub retained_bytes: Option<i64>,
}

impl Slot {
    /// The WAL it should keep is gone: whoever used it needs a new copy.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.wal_status.as_deref() == Some("lost")
    }
}

/// The archiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// `archive_mode` is not off.
    pub on: bool,
    /// Attempts that failed since the statistics were reset.
    pub failed_count: i64,
    /// What failed last.
    pub last_failed_wal: Option<String>,
    /// When, milliseconds since 1970.
    pub last_failed_unix_ms: Option<i64>,
    /// The last success, milliseconds since 1970.
    pub last_archived_unix_ms: Option<i64>,
}

impl Archive {
    /// The last attempt failed.
    #[must_use]
    pub fn failing(&self) -> bool {
        self.on && self.last_failed_unix_ms.is_some() && self.last_failed_unix_ms > self.last_archived_unix_ms
    }
}
