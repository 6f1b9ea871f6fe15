//! What is done to a real cluster. Each scenario is one fault, taken back at its end; the trial judges the cluster's answer to it.

mod control;
mod delete;
mod kill;
mod network;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Result;

use super::target::Target;
use crate::oracles::trial::Inflicted;

/// Until somebody else leads: a Lease's duration and time to spare on a loaded machine.
const TAKEOVER: Duration = Duration::from_secs(60);

/// A scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// `pgbaton switchover`.
    Switchover,
    /// The primary's pod is deleted.
    PodDelete,
    /// The primary's StatefulSet is deleted, and applied again with `STANDBY_MODE=off` when somebody else leads.
    StsDelete,
    /// As `StsDelete`, with an empty volume.
    StsDeleteEmpty,
    /// SIGKILL to the main process of the primary's `postgres` container.
    ContainerKill,
    /// SIGKILL to the primary's postmaster.
    PostmasterKill,
    /// SIGKILL to the primary's sidecar.
    SidecarKill,
    /// SIGKILL to all processes of the primary's pod at once.
    PodKill,
    /// The primary's pod is frozen, as a paused virtual machine.
    PodFreeze,
    /// The primary's node is cut off from all others.
    NodeCut,
    /// The primary's pod loses the API server only.
    ApiCut,
    /// Members cannot reach each other; all reach the API server.
    PeerCut,
    /// Nothing from the primary's pod reaches the others; what they send arrives.
    OneWayCut,
    /// The API server ends and is started again.
    ApiStop,
    /// The API server hangs.
    ApiHang,
    /// etcd hangs.
    EtcdStop,
    /// The kubelet of the primary's node hangs, then the postmaster is killed.
    KubeletStop,
    /// The primary's node is drained, and takes pods again when somebody else leads.
    Drain,
    /// The primary's StatefulSet is scaled to 0 and back to 1.
    Scale,
    /// The manifests are applied again and again during and after a failover.
    GitopsRevert,
    /// All processes of all pods end at once.
    PowerCut,
}

impl Scenario {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 21] = [
        Self::Switchover,
        Self::PodDelete,
        Self::StsDelete,
        Self::StsDeleteEmpty,
        Self::ContainerKill,
        Self::PostmasterKill,
        Self::SidecarKill,
        Self::PodKill,
        Self::PodFreeze,
        Self::NodeCut,
        Self::ApiCut,
        Self::PeerCut,
        Self::OneWayCut,
        Self::ApiStop,
        Self::ApiHang,
        Self::EtcdStop,
        Self::KubeletStop,
        Self::Drain,
        Self::Scale,
        Self::GitopsRevert,
        Self::PowerCut,
    ];

    /// As typed at the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Switchover => "switchover",
            Self::PodDelete => "pod-delete",
            Self::StsDelete => "sts-delete",
            Self::StsDeleteEmpty => "sts-delete-empty",
            Self::ContainerKill => "container-kill",
            Self::PostmasterKill => "postmaster-kill",
            Self::SidecarKill => "sidecar-kill",
            Self::PodKill => "pod-kill",
            Self::PodFreeze => "pod-freeze",
            Self::NodeCut => "node-cut",
            Self::ApiCut => "api-cut",
            Self::PeerCut => "peer-cut",
            Self::OneWayCut => "one-way-cut",
            Self::ApiStop => "api-stop",
            Self::ApiHang => "api-hang",
            Self::EtcdStop => "etcd-stop",
            Self::KubeletStop => "kubelet-stop",
            Self::Drain => "drain",
            Self::Scale => "scale",
            Self::GitopsRevert => "gitops-revert",
            Self::PowerCut => "power-cut",
        }
    }

    /// One line for people.
    #[must_use]
    pub fn description(self) -> &'static str {
        match self {
            Self::Switchover => "A person orders it with 'pgbaton switchover'",
            Self::PodDelete => "The primary's pod is deleted",
            Self::StsDelete => {
                "The primary's StatefulSet is deleted, later applied again with STANDBY_MODE=off"
            }
            Self::StsDeleteEmpty => "as sts-delete, and comes back with an empty volume",
            Self::ContainerKill => "SIGKILL to the main process of the primary's 'postgres' container",
            Self::PostmasterKill => "SIGKILL to the primary's postmaster",
            Self::SidecarKill => "SIGKILL to the primary's sidecar",
            Self::PodKill => "SIGKILL to all processes of the primary's pod at once",
            Self::PodFreeze => "The primary's pod is frozen for 20 s, as a paused virtual machine",
            Self::NodeCut => "The primary's node is cut off from all others for 30 s",
            Self::ApiCut => "The primary's pod cannot reach the API server for 30 s",
            Self::PeerCut => "Members cannot reach each other for 20 s; all reach the API server",
            Self::OneWayCut => {
                "For 30 s nothing from the primary's pod reaches anybody; what others send arrives"
            }
            Self::ApiStop => "The API server is away for 60 s",
            Self::ApiHang => "The API server hangs for 30 s",
            Self::EtcdStop => "etcd hangs for 30 s",
            Self::KubeletStop => "The kubelet of the primary's node hangs, then the postmaster is killed",
            Self::Drain => "The primary's node is drained (kubectl drain), later takes pods again",
            Self::Scale => "The primary's StatefulSet is scaled to 0, later to 1",
            Self::GitopsRevert => "The manifests are applied again and again during and after a failover",
            Self::PowerCut => "SIGKILL to all processes of all pods at once",
        }
    }

    /// Whether it needs the hosts, not only the Kubernetes API.
    #[must_use]
    pub fn needs_hosts(self) -> bool {
        !matches!(
            self,
            Self::Switchover
                | Self::PodDelete
                | Self::StsDelete
                | Self::Drain
                | Self::Scale
                | Self::GitopsRevert
        )
    }

    /// Does it, and takes back what is to be taken back.
    ///
    /// # Errors
    /// When it could not be done: then nothing is known about the cluster's answer to it.
    pub async fn inflict(self, target: &Target) -> Result<Inflicted> {
        match self {
            Self::Switchover => control::switchover(target).await,
            Self::PodDelete => delete::pod(target).await,
            Self::StsDelete => delete::stateful_set(target, false).await,
            Self::StsDeleteEmpty => delete::stateful_set(target, true).await,
            Self::ContainerKill => kill::guard(target).await,
            Self::PostmasterKill => kill::postmaster(target).await,
            Self::SidecarKill => kill::sidecar(target).await,
            Self::PodKill => kill::pod(target).await,
            Self::PodFreeze => kill::freeze(target).await,
            Self::NodeCut => network::node(target).await,
            Self::ApiCut => network::api(target).await,
            Self::PeerCut => network::peers(target).await,
            Self::OneWayCut => network::one_way(target).await,
            Self::ApiStop => control::api_stop(target).await,
            Self::ApiHang => control::hang(target, "apiserver").await,
            Self::EtcdStop => control::hang(target, "etcd").await,
            Self::KubeletStop => control::kubelet_stop(target).await,
            Self::Drain => control::drain(target).await,
            Self::Scale => control::scale(target).await,
            Self::GitopsRevert => control::gitops(target).await,
            Self::PowerCut => kill::all(target).await,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scenario| scenario.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
            format!("there is no scenario '{text}'; there are: {}", names.join(", "))
        })
    }
}
