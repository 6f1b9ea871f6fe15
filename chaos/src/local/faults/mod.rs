//! What is done to a cluster on purpose. Each fault is inflicted, taken back where that belongs to it, and has the same end state:
//! the cluster is whole (see `whole`), nothing is lost, and there were never two writers.

mod away;
mod control;
mod data;
mod freeze;
mod hand;
mod kill;
mod random;
mod report;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use super::rig::Rig;
use crate::oracles::trial::{self, Inflicted};
use away::{Blow, When};

pub use kill::server_processes;

/// Between two looks while a fault waits for the cluster.
const LOOK: Duration = Duration::from_millis(50);

/// A fault by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing, for as long as a fault's window: what clients see of a cluster that is well.
    Nothing,
    /// A person orders it with `pgbaton switchover`.
    Switchover,
    /// SIGKILL to the primary's postmaster.
    PostmasterKill,
    /// SIGKILL to all processes of the primary's pod at once.
    PodKill,
    /// Stop signal, grace period, a new pod.
    PodDelete,
    /// SIGSTOP to all processes of the primary's pod, SIGCONT later.
    PodFreeze,
    /// SIGSTOP to the primary's PostgreSQL processes only.
    ServerHang,
    /// SIGKILL to the primary's sidecar.
    SidecarKill,
    /// SIGSTOP to the primary's sidecar, SIGCONT later.
    SidecarFreeze,
    /// SIGKILL to the primary's guard.
    GuardKill,
    /// The API server is away for 60 s.
    ApiDown,
    /// The API server restarts.
    ApiRestart,
    /// The primary comes back with an empty volume.
    DataLost,
    /// A standby comes back with an empty volume.
    StandbyDataLost,
    /// The primary's StatefulSet is deleted and applied again.
    StsDelete,
    /// Everything is killed at once and returns, first member first.
    AllKill,
    /// As `AllKill`, last member first.
    AllKillReverse,
    /// As `AllKill`, but only the old primary returns; the others follow when it serves.
    AllKillPrimaryReturns,
    /// As `AllKill`, but only the standbys return; the old primary follows when one of them serves.
    AllKillStandbysReturn,
    /// SIGKILL to all processes of a standby's pod.
    StandbyKill,
    /// SIGSTOP to all processes of a standby's pod, SIGCONT later.
    StandbyFreeze,
    /// `pg_ctl promote` on a standby, then `pg_promote()` on one.
    PromotedByHand,
    /// `pg_ctl restart` in the primary.
    RestartedByHand,
    /// The Lease is deleted and applied again as the manifest ships it.
    LeaseDeleted,
    /// A standby is away until the primary has recycled the WAL it needs.
    WalGone,
    /// A standby is away and has left the sync set; then as `PostmasterKill`.
    StandbyAwayPostmasterKill,
    /// The same, then as `PodKill`.
    StandbyAwayPodKill,
    /// A standby ends, and at once, the sync set still counting on it, as `PostmasterKill`.
    StandbyLeavesPostmasterKill,
    /// The same as `PodKill`.
    StandbyLeavesPodKill,
    /// Replay of each standby waits for a long query, without end; then as `PostmasterKill`.
    ReportHoldsReplay,
    /// Any of the others at any moment, now and then two that overlap.
    Random,
}

impl Fault {
    /// All of them but `Random`, in the order of the documentation.
    pub const ALL: [Self; 30] = [
        Self::Nothing,
        Self::Switchover,
        Self::PostmasterKill,
        Self::PodKill,
        Self::PodDelete,
        Self::PodFreeze,
        Self::ServerHang,
        Self::SidecarKill,
        Self::SidecarFreeze,
        Self::GuardKill,
        Self::ApiDown,
        Self::ApiRestart,
        Self::DataLost,
        Self::StandbyDataLost,
        Self::StsDelete,
        Self::AllKill,
        Self::AllKillReverse,
        Self::AllKillPrimaryReturns,
        Self::AllKillStandbysReturn,
        Self::StandbyKill,
        Self::StandbyFreeze,
        Self::PromotedByHand,
        Self::RestartedByHand,
        Self::LeaseDeleted,
        Self::WalGone,
        Self::StandbyAwayPostmasterKill,
        Self::StandbyAwayPodKill,
        Self::StandbyLeavesPostmasterKill,
        Self::StandbyLeavesPodKill,
        Self::ReportHoldsReplay,
    ];

    /// As typed at the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Switchover => "switchover",
            Self::PostmasterKill => "postmaster-kill",
            Self::PodKill => "pod-kill",
            Self::PodDelete => "pod-delete",
            Self::PodFreeze => "pod-freeze",
            Self::ServerHang => "server-hang",
            Self::SidecarKill => "sidecar-kill",
            Self::SidecarFreeze => "sidecar-freeze",
            Self::GuardKill => "guard-kill",
            Self::ApiDown => "api-down",
            Self::ApiRestart => "api-restart",
            Self::DataLost => "data-lost",
            Self::StandbyDataLost => "standby-data-lost",
            Self::StsDelete => "sts-delete",
            Self::AllKill => "all-kill",
            Self::AllKillReverse => "all-kill-reverse",
            Self::AllKillPrimaryReturns => "all-kill-primary-returns",
            Self::AllKillStandbysReturn => "all-kill-standbys-return",
            Self::StandbyKill => "standby-kill",
            Self::StandbyFreeze => "standby-freeze",
            Self::PromotedByHand => "promoted-by-hand",
            Self::RestartedByHand => "restarted-by-hand",
            Self::LeaseDeleted => "lease-deleted",
            Self::WalGone => "wal-gone",
            Self::StandbyAwayPostmasterKill => "standby-away-postmaster-kill",
            Self::StandbyAwayPodKill => "standby-away-pod-kill",
            Self::StandbyLeavesPostmasterKill => "standby-leaves-postmaster-kill",
            Self::StandbyLeavesPodKill => "standby-leaves-pod-kill",
            Self::ReportHoldsReplay => "report-holds-replay",
            Self::Random => "random",
        }
    }

    /// One line for people.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Nothing => {
                "Nothing, for as long as a fault's window: what clients see of a cluster that is well"
            }
            Self::Switchover => "A person orders it with 'pgbaton switchover'",
            Self::PostmasterKill => "SIGKILL to the primary's postmaster",
            Self::PodKill => "SIGKILL to all processes of the primary's pod at once",
            Self::PodDelete => "Stop signal, grace period, a new pod",
            Self::PodFreeze => "SIGSTOP to all processes of the primary's pod, SIGCONT later",
            Self::ServerHang => "SIGSTOP to the primary's PostgreSQL processes only",
            Self::SidecarKill => "SIGKILL to the primary's sidecar",
            Self::SidecarFreeze => "SIGSTOP to the primary's sidecar, SIGCONT later",
            Self::GuardKill => "SIGKILL to the primary's guard",
            Self::ApiDown => "The API server is away for 60 s",
            Self::ApiRestart => "The API server restarts",
            Self::DataLost => "The primary comes back with an empty volume",
            Self::StandbyDataLost => "A standby comes back with an empty volume",
            Self::StsDelete => "The primary's StatefulSet is deleted and applied again",
            Self::AllKill => "Everything is killed at once and returns, first member first",
            Self::AllKillReverse => "as all-kill, last member first",
            Self::AllKillPrimaryReturns => {
                "as all-kill, but only the old primary returns; the others follow when it serves"
            }
            Self::AllKillStandbysReturn => {
                "as all-kill, but only the standbys return; the old primary follows when one of them serves"
            }
            Self::StandbyKill => "SIGKILL to all processes of a standby's pod",
            Self::StandbyFreeze => "SIGSTOP to all processes of a standby's pod, SIGCONT later",
            Self::PromotedByHand => "'pg_ctl promote' on a standby, then 'pg_promote()' on one",
            Self::RestartedByHand => "'pg_ctl restart' in the primary",
            Self::LeaseDeleted => "The Lease is deleted and applied again as the manifest ships it",
            Self::WalGone => "A standby is away until the primary has recycled the WAL it needs",
            Self::StandbyAwayPostmasterKill => {
                "A standby is away and has left the sync set; then as postmaster-kill"
            }
            Self::StandbyAwayPodKill => "A standby is away and has left the sync set; then as pod-kill",
            Self::StandbyLeavesPostmasterKill => {
                "A standby ends, and at once, the sync set still counting on it, as postmaster-kill"
            }
            Self::StandbyLeavesPodKill => {
                "A standby ends, and at once, the sync set still counting on it, as pod-kill"
            }
            Self::ReportHoldsReplay => {
                "Replay of each standby waits for a long query, without end; then as postmaster-kill"
            }
            Self::Random => "Any of the others at any moment, in half of the runs a second one on top",
        }
    }

    /// How many members it needs.
    #[must_use]
    pub fn least_members(self) -> u8 {
        match self {
            Self::Nothing | Self::ApiDown | Self::ApiRestart | Self::SidecarKill | Self::AllKill => 1,
            Self::StandbyAwayPostmasterKill
            | Self::StandbyAwayPodKill
            | Self::StandbyLeavesPostmasterKill
            | Self::StandbyLeavesPodKill => 3,
            _ => 2,
        }
    }

    /// Does it, and takes back what is to be taken back.
    ///
    /// # Errors
    /// When it could not be done: then nothing is known about the cluster's answer to it.
    pub async fn inflict(self, rig: &Rig) -> Result<Inflicted> {
        match self {
            Self::Nothing => Ok(trial::nothing().await),
            Self::Switchover => hand::switchover(rig).await,
            Self::PostmasterKill => kill::postmaster(rig).await,
            Self::PodKill => kill::primary(rig).await,
            Self::PodDelete => control::pod_delete(rig).await,
            Self::PodFreeze => freeze::pod(rig).await,
            Self::ServerHang => freeze::server(rig).await,
            Self::SidecarKill => kill::sidecar(rig).await,
            Self::SidecarFreeze => freeze::sidecar(rig).await,
            Self::GuardKill => kill::guard(rig).await,
            Self::ApiDown => control::api_down(rig).await,
            Self::ApiRestart => control::api_restart(rig).await,
            Self::DataLost => data::primary_lost(rig).await,
            Self::StandbyDataLost => data::standby_lost(rig).await,
            Self::StsDelete => control::stateful_set_delete(rig).await,
            Self::AllKill => kill::all(rig, kill::Return::FirstToLast).await,
            Self::AllKillReverse => kill::all(rig, kill::Return::LastToFirst).await,
            Self::AllKillPrimaryReturns => kill::all(rig, kill::Return::PrimaryFirst).await,
            Self::AllKillStandbysReturn => kill::all(rig, kill::Return::StandbysFirst).await,
            Self::StandbyKill => kill::standby(rig).await,
            Self::StandbyFreeze => freeze::standby(rig).await,
            Self::PromotedByHand => hand::promoted(rig).await,
            Self::RestartedByHand => hand::restarted(rig).await,
            Self::LeaseDeleted => control::lease_deleted(rig).await,
            Self::WalGone => data::wal_gone(rig).await,
            Self::StandbyAwayPostmasterKill => away::then(rig, When::Left, Blow::Postmaster).await,
            Self::StandbyAwayPodKill => away::then(rig, When::Left, Blow::Pod).await,
            Self::StandbyLeavesPostmasterKill => away::then(rig, When::AtOnce, Blow::Postmaster).await,
            Self::StandbyLeavesPodKill => away::then(rig, When::AtOnce, Blow::Pod).await,
            Self::ReportHoldsReplay => report::then_postmaster(rig).await,
            Self::Random => random::any(rig).await,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = Self::ALL.into_iter().chain([Self::Random]);
        all.find(|fault| fault.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|fault| fault.name()).collect();
            format!("there is no fault '{text}'; there are: {}", names.join(", "))
        })
    }
}

/// Waits until the condition holds, at most for `bound`; whether it did.
async fn until(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(LOOK).await;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_is_found_by_its_name() {
        for fault in Fault::ALL {
            assert_eq!(fault.name().parse(), Ok(fault));
        }
        let error = "pod-kil".parse::<Fault>().unwrap_err();
        assert!(
            error.contains("no fault 'pod-kil'") && error.contains("pod-kill"),
            "{error}"
        );
    }
}
