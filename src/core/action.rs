//! What `decide` may ask the shell to do. Actions are data: the same ones run in the sidecar and in a simulator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::record::Record;
use super::types::{Address, Lsn, MemberName, Millis, SystemId, Term, Timeline};

/// Why a Lease that this member does not hold may be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClaimEvidence {
    /// Nobody ever held it.
    NeverHeld,
    /// Its last leader gave it up on purpose.
    Released,
    /// It ran out, judged on this process' own clock.
    Expired,
    /// Its holder is dead: both its ports refuse, and no WAL comes from it. Before it runs out, in sync durability only, with the
    /// answers for a proof at hand (DESIGN.md section 5, claim).
    Dead,
    /// Nothing was heard of its holder for the silence timeout, nor was it renewed. As `Dead`.
    Silent,
    /// The record was lost; this member's server runs read-write under a permit, or a person ordered it.
    WriteBack,
}

/// A compare-and-swap of the Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SwapKind {
    /// The holder stays, time and record are new.
    Renew,
    /// This member becomes the holder.
    Claim(ClaimEvidence),
    /// The holder gives it up.
    Release,
}

/// A swap with what it writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Swap {
    /// What.
    pub kind: SwapKind,
    /// The version it is based on.
    pub based_on: String,
    /// For a claim: the term that it makes, at least one above the Lease's.
    pub term: Term,
    /// The record after it.
    pub record: Box<Record>,
    /// Annotations set (or removed) in the same request.
    pub annotations: BTreeMap<String, Option<String>>,
}

/// An order to the guard, without the secrets and stamps that the shell adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum GuardOrder {
    /// See `guard::protocol::Order` for each.
    Initialise,
    /// Start read-write in place.
    StartPrimary {
        /// `synchronous_standby_names`.
        names: String,
    },
    /// Run as a standby of this member.
    Follow {
        /// Whom.
        upstream: MemberName,
        /// Where.
        address: Address,
        /// `application_name`.
        standby_name: String,
        /// Slot on the upstream.
        slot: String,
        /// Names in case of a promotion.
        names: String,
    },
    /// Run as a standby of nobody.
    StandAlone {
        /// Names in case of a promotion.
        names: String,
    },
    /// Pledge to the term.
    Pledge {
        /// A location held.
        hint: Option<Lsn>,
    },
    /// Change the names.
    SetNames {
        /// The value.
        names: String,
    },
    /// Promote.
    Promote {
        /// Number of the new timeline.
        timeline: Timeline,
    },
    /// Stop.
    Stop {
        /// How long a fast stop may take.
        fast: Millis,
        /// A location held.
        hint: Option<Lsn>,
    },
    /// Copy a member.
    Clone {
        /// Whom.
        upstream: MemberName,
        /// Where.
        address: Address,
        /// What it must be.
        system_identifier: SystemId,
        /// The source's timeline.
        timeline: Timeline,
    },
    /// Rewind to a member.
    Rewind {
        /// Whom.
        upstream: MemberName,
        /// Where.
        address: Address,
        /// The source's timeline.
        timeline: Timeline,
    },
    /// Remember the term.
    NoteTerm,
    /// Make the data that was found a member's.
    Adopt,
}

/// A statement on the local server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum SqlJob {
    /// `CHECKPOINT`.
    Checkpoint,
    /// End these walsenders, so that each reads the new `synchronous_standby_names` (invariant 6).
    EndWalsenders {
        /// Their process ids.
        pids: Vec<i32>,
    },
}

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Swap the Lease.
    Swap(Swap),
    /// Extend the guard's permit.
    Permit {
        /// Its term.
        term: Term,
        /// Its end on CLOCK_BOOTTIME.
        deadline_boot: Millis,
    },
    /// Order the guard.
    Guard {
        /// On whose behalf.
        term: Term,
        /// What.
        order: GuardOrder,
    },
    /// Run a statement.
    Sql(SqlJob),
    /// Keep Service, StatefulSets and labels as this term wants them (idempotent; the shell does it when something changed and now and then).
    Effects {
        /// The term.
        term: Term,
        /// The primary.
        primary: MemberName,
        /// All members.
        members: Vec<MemberName>,
        /// Clients are led to the primary; else nowhere.
        open: bool,
    },
    /// Keep the replication role and the slots of these members (idempotent, as above).
    KeepReplication {
        /// All members but the primary.
        standbys: Vec<MemberName>,
    },
    /// Tell a person who ordered something how it stands.
    AnswerOrder {
        /// Which order.
        id: String,
        /// How it stands.
        state: OrderState,
        /// In words.
        text: String,
    },
}

/// How a person's order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderState {
    /// Under way.
    Running,
    /// Done.
    Done,
    /// Not done; nothing was changed.
    Refused,
}
