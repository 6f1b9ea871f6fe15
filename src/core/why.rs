//! Why pgbaton does what it does, as data; rendered for people in one place.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::action::ClaimEvidence;
use super::adoption::Adoption;
use super::proof::{NoProof, Proof};
use super::types::{Lsn, MemberName, Millis, Position, SystemId, Term};

/// Why a leader steps down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum StepDown {
    /// A person ordered it.
    Ordered,
    /// The pod is on its way out.
    PodEnds,
    /// The server's processes are gone.
    ServerDied,
    /// The server fails its health test.
    ServerUnhealthy {
        /// For how long.
        for_ms: u64,
    },
    /// The server recovers, or is being promoted, for too long.
    ServerNotReady {
        /// For how long.
        for_ms: u64,
    },
    /// The server's volume is full.
    VolumeFull {
        /// Bytes left.
        free: u64,
    },
    /// The guard does not answer.
    GuardLost,
}

impl fmt::Display for StepDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ordered => f.write_str("switchover ordered"),
            Self::PodEnds => f.write_str("the primary's pod is being stopped"),
            Self::ServerDied => f.write_str("the primary's server died"),
            Self::ServerUnhealthy { for_ms } => {
                write!(f, "the primary's server failed its health test for {for_ms} ms")
            }
            Self::ServerNotReady { for_ms } => {
                write!(f, "the primary's server was not ready for {for_ms} ms")
            }
            Self::VolumeFull { free } => write!(f, "the primary's volume is full ({free} bytes are left)"),
            Self::GuardLost => f.write_str("the primary's guard does not answer"),
        }
    }
}

/// How a member comes back to the primary's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejoinWay {
    /// As it is.
    Follow,
    /// `pg_rewind`.
    Rewind,
    /// `pg_basebackup`.
    Clone,
}

impl fmt::Display for RejoinWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follow => "follow",
            Self::Rewind => "rewind",
            Self::Clone => "clone",
        })
    }
}

/// The reason behind a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Why {
    /// No Lease seen yet.
    NoLeaseSeenYet,
    /// The guard has not been heard yet.
    GuardNotHeard,
    /// The guard is silent.
    GuardSilent {
        /// For how long.
        for_ms: u64,
    },
    /// The Lease does not exist.
    LeaseAbsent,
    /// The Lease exists without a usable record.
    LeaseDamaged {
        /// In what way.
        how: String,
    },
    /// What this member sees of the Lease is older than the term that somebody runs in: it is cut off from the API server.
    LeaseBehind {
        /// The Lease's term, as seen here.
        term: Term,
        /// Who runs under a later permit.
        leader: MemberName,
        /// Its term.
        leads: Term,
    },
    /// This server runs under a permit and writes the lost record back.
    WritingRecordBack {
        /// In what way the Lease was damaged.
        how: String,
    },
    /// This data belongs to another cluster.
    ForeignData {
        /// Its identifier.
        ours: SystemId,
        /// The cluster's.
        cluster: SystemId,
    },
    /// Nobody has initialised the cluster, and this member is not marked to do it.
    WaitingForFirstPrimary,
    /// Two members have STANDBY_MODE=off, and the other one was first.
    AnotherMarkedFirst {
        /// Holder of the Lease.
        by: String,
    },
    /// This member initialises the cluster.
    Initialising,
    /// Leads, all well.
    Leading,
    /// Leads, and changes the sync set.
    ChangingSyncSet {
        /// `synchronous_standby_names` wanted.
        to: String,
        /// What it waits for.
        waiting_for: String,
    },
    /// Leads, and its server is starting.
    ServerStarting,
    /// Leads, and its server fails the health test.
    ServerUnhealthy {
        /// For how long.
        for_ms: u64,
    },
    /// Leads; its server serves, and all its connections are taken.
    ServerFull,
    /// Leads; its volume is full, so writes fail, and nobody else could lead.
    VolumeFull {
        /// Bytes left.
        free: u64,
        /// Why nobody else.
        nobody_because: String,
    },
    /// Leads; its server serves, and lets pgbaton not log in.
    LoginFailed {
        /// What it said, and what to do.
        text: String,
    },
    /// Leads, restarted in place; clients are kept away until standbys have what its crash recovery made visible.
    RecoveryNotFlushed {
        /// Where recovery ended.
        position: Lsn,
        /// How many standbys must have flushed it.
        k: u32,
    },
    /// The server is down and starts in place: nobody else is fit.
    RestartInPlace {
        /// Why nobody else.
        nobody_because: String,
    },
    /// Takes the Lease.
    Claiming {
        /// On what evidence.
        evidence: ClaimEvidence,
    },
    /// Holds the Lease and collects pledges.
    CollectingPledges {
        /// What is missing.
        missing: Option<NoProof>,
    },
    /// Has proof, is about to be installed.
    Installing {
        /// The proof.
        proof: Proof,
    },
    /// Promotes.
    Promoting,
    /// No proof within the pledge time: gives the Lease back.
    NoProofInTime {
        /// What was missing.
        missing: NoProof,
    },
    /// Somebody holds more WAL: hands over to it.
    HandingToTheOneAhead {
        /// Who.
        to: MemberName,
    },
    /// Has proof and no server that is ready: hands over to one that has both.
    HandingToAnother {
        /// Who.
        to: MemberName,
        /// What is missing here.
        missing: NoProof,
    },
    /// Steps down for a successor.
    HandingOver {
        /// To whom; none: nobody is fit.
        to: Option<MemberName>,
        /// Why.
        reason: StepDown,
    },
    /// Pledged to a later term; waits for its primary.
    Pledged {
        /// The term.
        term: Term,
    },
    /// Follows.
    Following {
        /// Whom.
        primary: MemberName,
    },
    /// Follows, and its receiver does not stream.
    NotStreaming {
        /// Whom.
        primary: MemberName,
        /// For how long.
        for_ms: u64,
    },
    /// Comes back to the primary's history.
    Rejoining {
        /// How.
        way: RejoinWay,
        /// The primary.
        primary: MemberName,
        /// Its own end of WAL, where known.
        position: Option<Position>,
        /// What the last try said when it failed, by this way or another.
        failed: Option<String>,
    },
    /// Every way back failed for this primary and term.
    RejoinFailed {
        /// The last error.
        error: String,
    },
    /// The leader may be gone, but this is no time or no member to take over.
    NotTakingOver {
        /// Because of this.
        because: String,
    },
    /// The Lease runs out by itself first.
    WaitingForExpiry {
        /// In how long.
        remaining: Millis,
    },
    /// Takeovers are switched off by a person.
    Paused,
    /// The data here was made without pgbaton, or some server's was.
    Adoption(Adoption),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoLeaseSeenYet => f.write_str("the Lease was not seen yet: the API server has not answered"),
            Self::GuardNotHeard => f.write_str("the guard has not answered yet"),
            Self::GuardSilent { for_ms } => write!(f, "the guard has not answered for {for_ms} ms"),
            Self::LeaseAbsent => f.write_str(
                "the Lease does not exist: apply its manifest again (deploy/); the running primary then writes the record back",
            ),
            Self::LeaseDamaged { how } => {
                write!(f, "the Lease is damaged ({how}): nobody takes over; `pgbaton adopt --to NAME` makes that member's data the cluster's")
            }
            Self::LeaseBehind { term, leader, leads } => write!(
                f,
                "sees the Lease of term {term}, and {leader} runs in term {leads}: this member does not reach the API server, or the record is \
                 not written back yet; it waits"
            ),
            Self::WritingRecordBack { how } => write!(f, "the Lease is damaged ({how}): writing the record back, once enough of its standbys have said that nobody has led after it"),
            Self::ForeignData { ours, cluster } => write!(
                f,
                "the data here has system identifier {ours}, the cluster {cluster}: not touched; empty PGDATA to have it cloned anew"
            ),
            Self::WaitingForFirstPrimary => {
                f.write_str("the cluster was never initialised: waiting for the member with STANDBY_MODE=off")
            }
            Self::AnotherMarkedFirst { by } => write!(
                f,
                "STANDBY_MODE is off here, and {by} initialises the cluster already: exactly one member may have it off; set it to on here (nothing was done here, and this member will be cloned from the other one)"
            ),
            Self::Initialising => f.write_str("initialising the cluster"),
            Self::Claiming { evidence } => {
                let evidence = match evidence {
                    ClaimEvidence::NeverHeld => "it was never held",
                    ClaimEvidence::Released => "its leader released it",
                    ClaimEvidence::Expired => "it ran out",
                    ClaimEvidence::Dead => "its leader is dead",
                    ClaimEvidence::Silent => "its leader is silent",
                    ClaimEvidence::WriteBack => "the record must be written back",
                };
                write!(f, "taking the Lease: {evidence}")
            }
            Self::CollectingPledges { missing: None } => f.write_str("holds the Lease, collecting pledges"),
            Self::CollectingPledges { missing: Some(no) } => write!(f, "holds the Lease, collecting pledges: {no}"),
            Self::Installing { proof } => write!(f, "has proof ({proof}): writing itself down as primary"),
            Self::Promoting => f.write_str("promoting"),
            Self::NoProofInTime { missing } => write!(f, "gives the Lease back: {missing}"),
            Self::HandingToTheOneAhead { to } => write!(f, "gives the Lease to {to}, which holds more WAL"),
            Self::HandingToAnother { to, missing } => write!(f, "gives the Lease to {to}: {missing}"),
            Self::HandingOver { to: Some(to), reason } => write!(f, "hands over to {to}: {reason}"),
            Self::HandingOver { to: None, reason } => write!(f, "steps down without a successor: {reason}"),
            Self::Pledged { term } => write!(f, "pledged to term {term}, waiting for its primary"),
            Self::Following { primary } => write!(f, "follows {primary}"),
            Self::NotStreaming { primary, for_ms } => write!(f, "follows {primary}, not streaming for {for_ms} ms"),
            Self::Rejoining { way, primary, position, failed } => {
                write!(f, "comes back to {primary} by {way}")?;
                if let Some(position) = position {
                    write!(f, "; its own WAL ends at {position}")?;
                }
                failed.as_ref().map_or(Ok(()), |error| write!(f, "; a try before failed: {error}"))
            }
            Self::RejoinFailed { error } => write!(f, "could not come back to the primary by any way: {error}"),
            Self::NotTakingOver { because } => write!(f, "does not take over: {because}"),
            Self::WaitingForExpiry { remaining } => write!(f, "waiting for the Lease to run out in {} ms", remaining.0),
            Self::Paused => f.write_str("paused by a person: no takeover (`pgbaton resume` ends it)"),
            Self::Adoption(stage) => write!(f, "{stage}"),
            leading => leading.fmt_leading(f),
        }
    }
}

impl Why {
    /// The code, for programs.
    #[must_use]
    pub fn code(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["code"].as_str().unwrap_or("unknown").to_owned()
    }

    /// Whether this can ask for a person. Each such reason has a section in docs/runbook.md, which says what to do.
    #[must_use]
    pub const fn needs_person(&self) -> bool {
        match self {
            Self::NoLeaseSeenYet
            | Self::GuardNotHeard
            | Self::GuardSilent { .. }
            | Self::LeaseAbsent
            | Self::LeaseDamaged { .. }
            | Self::LeaseBehind { .. }
            | Self::ForeignData { .. }
            | Self::WaitingForFirstPrimary
            | Self::AnotherMarkedFirst { .. }
            | Self::ServerUnhealthy { .. }
            | Self::ServerFull
            | Self::LoginFailed { .. }
            | Self::VolumeFull { .. }
            | Self::Adoption(_)
            | Self::RecoveryNotFlushed { .. }
            | Self::RestartInPlace { .. }
            | Self::NoProofInTime { .. }
            | Self::HandingOver { to: None, .. }
            | Self::NotStreaming { .. }
            | Self::RejoinFailed { .. }
            | Self::NotTakingOver { .. }
            | Self::Paused => true,
            Self::WritingRecordBack { .. }
            | Self::Initialising
            | Self::Leading
            | Self::ChangingSyncSet { .. }
            | Self::ServerStarting
            | Self::Claiming { .. }
            | Self::CollectingPledges { .. }
            | Self::Installing { .. }
            | Self::Promoting
            | Self::HandingToTheOneAhead { .. }
            | Self::HandingToAnother { .. }
            | Self::HandingOver { to: Some(_), .. }
            | Self::Pledged { .. }
            | Self::Following { .. }
            | Self::Rejoining { .. }
            | Self::WaitingForExpiry { .. } => false,
        }
    }

    /// The reasons of a leader with a server.
    fn fmt_leading(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leading => f.write_str("leads"),
            Self::ChangingSyncSet { to, waiting_for } => {
                write!(f, "leads; changing synchronous_standby_names to '{to}', waiting for {waiting_for}")
            }
            Self::ServerStarting => f.write_str("leads; its server is starting"),
            Self::ServerUnhealthy { for_ms } => write!(f, "leads; its server fails the health test for {for_ms} ms"),
            Self::ServerFull => f.write_str(
                "leads; all connections of its server are taken, so pgbaton cannot look at it: raise max_connections, or let applications use a role that is no superuser",
            ),
            Self::VolumeFull { free, nobody_because } => write!(
                f,
                "leads; its volume is full ({free} bytes are left), so writes fail, and nobody takes over ({nobody_because}): make room, or enlarge the volume"
            ),
            Self::LoginFailed { text } => write!(f, "leads; its server lets pgbaton not log in: {text}"),
            Self::RecoveryNotFlushed { position, k } => write!(
                f,
                "leads, restarted in place; the Service leads nowhere until {k} of its standbys have flushed {position}, where crash recovery ended"
            ),
            Self::RestartInPlace { nobody_because } => {
                write!(f, "the server is down and starts in place: no successor ({nobody_because})")
            }
            other => unreachable!("no reason of a leader: {other:?}"),
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RecordedPrimary => f.write_str("it is the recorded primary"),
            Self::AtRest { rest } => write!(f, "it holds all WAL up to {rest}, where the old primary rests"),
            Self::Quorums => f.write_str("enough of every sync set have pledged, and none holds more"),
            Self::NotNeeded => f.write_str("asynchronous durability asks for none"),
            Self::Waived => f.write_str("waived by a person"),
        }
    }
}

impl fmt::Display for NoProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CandidateNotPledged => f.write_str("this member's own pledge or end of WAL is missing"),
            Self::CandidateDiverged => f.write_str("this member's WAL is not on the recorded history"),
            Self::EmptySet => f.write_str(
                "no standby was synchronous when the primary was last seen: only the recorded primary's own data is known to hold every acknowledged write",
            ),
            Self::TooFew { set, needed, have } => {
                let names: Vec<&str> = set.standbys.iter().map(|s| s.member.as_str()).collect();
                write!(f, "of the synchronous standbys {} {needed} must have pledged, {have} have", names.join(", "))
            }
            Self::Behind { ahead } => write!(f, "{ahead} holds more WAL"),
            Self::TooFarBehind { lag, maximum } => {
                write!(f, "{lag} bytes behind the primary's last known position, maximum_lag is {maximum}")
            }
            Self::LagUnknown { age_ms: Some(age) } => write!(
                f,
                "the primary's last word on how far its WAL was is from {age} ms before its last renewal: how much would be lost is not known"
            ),
            Self::LagUnknown { age_ms: None } => {
                f.write_str("the primary never wrote how far its WAL was: how much would be lost is not known")
            }
            Self::ServerNotReady => f.write_str("the server here did not get ready to be promoted"),
        }
    }
}
