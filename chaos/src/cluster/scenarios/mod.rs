//! What is done to a real cluster. Each scenario is one fault, taken back at its end; the trial judges the cluster's answer to it.

mod control;
mod delete;
mod kill;
mod network;
mod nodes;
mod random;
mod resources;
mod unguarded;
mod updates;

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use super::target::Target;
use crate::oracles::trial::{self, Inflicted};

/// Until somebody else leads: a Lease's duration and time to spare on a loaded machine.
const TAKEOVER: Duration = Duration::from_secs(60);

/// A scenario. Its name is the variant's in kebab case; what stands above it is shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Nothing, for 10 s: what clients see of a cluster that is well.
    Nothing,
    /// `pgbaton switchover`.
    Switchover,
    /// The primary's pod is deleted.
    PodDelete,
    /// The primary's pod is deleted by force while its node is cut off.
    PodForceDelete,
    /// The primary's StatefulSet is deleted, and applied again with `STANDBY_MODE=off` when somebody else leads.
    StsDelete,
    /// As `StsDelete`, with an empty volume.
    StsDeleteEmpty,
    /// As `StsDelete`, but the original manifest is applied, without guard, and its server takes writes; then the guarded one.
    StsOriginal,
    /// SIGKILL to the main process of the primary's `postgres` container.
    ContainerKill,
    /// SIGKILL to the primary's postmaster.
    PostmasterKill,
    /// SIGKILL to the primary's sidecar.
    SidecarKill,
    /// The primary's sidecar is killed again and again, until its kubelet waits before each start.
    SidecarCrashloop,
    /// SIGKILL to all processes of the primary's pod at once.
    PodKill,
    /// A backend of the primary uses more memory than its container may.
    OomBackend,
    /// As `OomBackend`, and the kernel ends the container's main process.
    OomContainer,
    /// The primary's volume is full.
    DiskFull,
    /// The primary's pod is frozen, as a paused virtual machine.
    PodFreeze,
    /// The primary's node is cut off from all others.
    NodeCut,
    /// The primary's node is without power for 30 s.
    NodeKill,
    /// The primary's node loses power and boots at once.
    NodeReboot,
    /// The primary's node stands still, as a paused virtual machine.
    NodeFreeze,
    /// The primary's pod loses the API server only.
    ApiCut,
    /// Members cannot reach each other; all reach the API server.
    PeerCut,
    /// Nothing from the primary's pod reaches the others; what they send arrives.
    OneWayCut,
    /// The API server ends and is started again.
    ApiStop,
    /// As `ApiStop`, and the primary's postmaster is killed in it.
    ApiStopKill,
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
    /// A user's StatefulSets are at RollingUpdate, and the primary's pod is deleted.
    RollingUpdate,
    /// A new image of PostgreSQL comes in by `pgbaton rollout`.
    Rollout,
    /// A new image of the sidecar comes in by `pgbaton rollout`.
    SidecarUpgrade,
    /// All processes of all pods end at once.
    PowerCut,
    /// Any of the others, and in half of the cases a second one on top.
    Random,
}

impl Scenario {
    /// As typed at the command line.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// One line for people.
    #[must_use]
    pub fn description(self) -> String {
        let value = self.to_possible_value();
        let help = value.as_ref().and_then(|value| value.get_help());
        help.map_or_else(String::new, ToString::to_string)
    }

    /// All but `Random`.
    pub fn once_each() -> impl Iterator<Item = Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(|scenario| *scenario != Self::Random)
    }

    /// Whether it needs the hosts, not only the Kubernetes API.
    #[must_use]
    pub fn needs_hosts(self) -> bool {
        !matches!(
            self,
            Self::Nothing
                | Self::Switchover
                | Self::PodDelete
                | Self::StsDelete
                | Self::Drain
                | Self::Scale
                | Self::GitopsRevert
                | Self::SidecarUpgrade
                | Self::Rollout
                | Self::RollingUpdate
                | Self::Random
        )
    }

    /// Does it, and takes back what is to be taken back.
    ///
    /// # Errors
    /// When it could not be done: then nothing is known about the cluster's answer to it.
    pub async fn inflict(self, target: &Target) -> Result<Inflicted> {
        match self {
            Self::Nothing => Ok(trial::nothing().await),
            Self::Switchover => control::switchover(target).await,
            Self::PodDelete => delete::pod(target).await,
            Self::PodForceDelete => nodes::force_delete(target).await,
            Self::StsDelete => delete::stateful_set(target, false).await,
            Self::StsDeleteEmpty => delete::stateful_set(target, true).await,
            Self::StsOriginal => unguarded::original(target).await,
            Self::ContainerKill => kill::guard(target).await,
            Self::PostmasterKill => kill::postmaster(target).await,
            Self::SidecarKill => kill::sidecar(target).await,
            Self::SidecarCrashloop => kill::sidecar_again(target).await,
            Self::PodKill => kill::pod(target).await,
            Self::OomBackend => resources::oom_backend(target).await,
            Self::OomContainer => resources::oom_container(target).await,
            Self::DiskFull => resources::disk_full(target).await,
            Self::PodFreeze => kill::freeze(target).await,
            Self::NodeCut => network::node(target).await,
            Self::NodeKill => nodes::kill(target).await,
            Self::NodeReboot => nodes::reboot(target).await,
            Self::NodeFreeze => nodes::freeze(target).await,
            Self::ApiCut => network::api(target).await,
            Self::PeerCut => network::peers(target).await,
            Self::OneWayCut => network::one_way(target).await,
            Self::ApiStop => control::api_stop(target).await,
            Self::ApiStopKill => control::api_stop_kill(target).await,
            Self::ApiHang => control::hang(target, "apiserver").await,
            Self::EtcdStop => control::hang(target, "etcd").await,
            Self::KubeletStop => control::kubelet_stop(target).await,
            Self::Drain => control::drain(target).await,
            Self::Scale => control::scale(target).await,
            Self::GitopsRevert => control::gitops(target).await,
            Self::RollingUpdate => updates::rolling(target).await,
            Self::Rollout => updates::rollout(target).await,
            Self::SidecarUpgrade => updates::sidecar(target).await,
            Self::PowerCut => kill::all(target).await,
            Self::Random => Box::pin(random::any(target)).await,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_of_every_scenario_what_is_done_and_what_it_needs() {
        let page = include_str!("../../../../docs/chaos.md");
        for scenario in Scenario::once_each() {
            let needs = if scenario.needs_hosts() { "hosts" } else { "API" };
            let row = format!("| `{scenario}` | {needs} | ");
            assert!(page.contains(&row), "no row '{row}...' in docs/chaos.md");
            assert!(!scenario.description().is_empty(), "{scenario}");
        }
    }
}
