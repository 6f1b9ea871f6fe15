//! Processes that end at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::until;
use crate::local::container::Container;
use crate::local::kubelet::{Kubelet, Role};
use crate::local::process;
use crate::local::rig::Rig;
use crate::oracles::sql;
use crate::oracles::trial::Inflicted;

/// Between the returns of two members, so that the order is one.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long those who stay away wait for the ones that returned; longer than a Lease lasts.
const SERVES_BOUND: Duration = Duration::from_secs(40);

/// In which order members return after everything was killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Return {
    FirstToLast,
    LastToFirst,
    PrimaryFirst,
    StandbysFirst,
}

/// The container of a member, which must be running.
pub fn running(kubelet: &Kubelet, role: Role) -> Result<Arc<Container>> {
    let name = || {
        format!(
            "container '{}' of {} does not run",
            role.container(),
            kubelet.member().name
        )
    };
    kubelet.container(role).with_context(name)
}

/// The server's processes in a member's `postgres` container, the postmaster first.
pub fn server_processes(container: &Container) -> Vec<i32> {
    let all: Vec<i32> = container
        .pids()
        .into_iter()
        .filter(|&pid| process::command_name(pid).is_some_and(|name| name == "postgres"))
        .collect();
    let is_child = |pid: i32| process::parent(pid).is_some_and(|parent| all.contains(&parent));
    let (children, mut ordered): (Vec<i32>, Vec<i32>) = all.iter().partition(|&&pid| is_child(pid));
    ordered.extend(children);
    ordered
}

pub async fn postmaster(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let container = running(kubelet, Role::Server)?;
    let name = &kubelet.member().name;
    let pid = *server_processes(&container)
        .first()
        .with_context(|| format!("{name} has no server process"))?;
    let at = Instant::now();
    process::signal(pid, Signal::SIGKILL).with_context(|| format!("cannot kill process {pid}"))?;
    Ok(Inflicted::blow(
        at,
        name,
        format!("SIGKILL to the postmaster of {name} (process {pid})"),
    ))
}

pub async fn primary(rig: &Rig) -> Result<Inflicted> {
    Ok(pod(rig.primary_kubelet()?))
}

pub async fn standby(rig: &Rig) -> Result<Inflicted> {
    let standbys = rig.standby_kubelets()?;
    Ok(pod(standbys.first().context("there is no standby")?))
}

fn pod(kubelet: &Kubelet) -> Inflicted {
    let at = Instant::now();
    kubelet.kill();
    let name = &kubelet.member().name;
    Inflicted::blow(
        at,
        name,
        format!("SIGKILL to all processes of {name}; its containers come back"),
    )
}

pub async fn sidecar(rig: &Rig) -> Result<Inflicted> {
    container(rig, Role::Sidecar, "sidecar")
}

pub async fn guard(rig: &Rig) -> Result<Inflicted> {
    container(rig, Role::Server, "guard")
}

/// SIGKILL to a container's PID 1; the kernel ends the rest of it, if it is in a namespace.
fn container(rig: &Rig, role: Role, what: &str) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let container = running(kubelet, role)?;
    let at = Instant::now();
    container.signal(Signal::SIGKILL);
    let name = &kubelet.member().name;
    Ok(Inflicted::blow(
        at,
        name,
        format!("SIGKILL to the {what} of {name}"),
    ))
}

pub async fn all(rig: &Rig, order: Return) -> Result<Inflicted> {
    let primary = rig.primary_kubelet()?.clone();
    let old = primary.member().name.clone();
    let at = Instant::now();
    for kubelet in &rig.kubelets {
        kubelet.hold(true);
    }
    for kubelet in &rig.kubelets {
        kubelet.kill();
    }
    for kubelet in &rig.kubelets {
        kubelet.gone().await?;
    }
    let mut first: Vec<&Arc<Kubelet>> = rig.kubelets.iter().collect();
    let mut then: Vec<&Arc<Kubelet>> = Vec::new();
    match order {
        Return::FirstToLast => {}
        Return::LastToFirst => first.reverse(),
        Return::PrimaryFirst => (first, then) = first.iter().partition(|k| k.member().name == old),
        Return::StandbysFirst => (first, then) = first.iter().partition(|k| k.member().name != old),
    }
    release(&first).await;
    let mut note = String::new();
    if !then.is_empty() {
        let served = match order {
            Return::PrimaryFirst => serves(rig, &primary).await,
            _ => until(SERVES_BOUND, || rig.primary().is_some_and(|name| name != old)).await,
        };
        let when = if served {
            "they served again"
        } else {
            "they had not served within 40 s"
        };
        note = format!(", {} when {when}", names(&then));
        release(&then).await;
    }
    let did = format!("SIGKILL to everything at once; {} returned{note}", names(&first));
    Ok(Inflicted::lasting(at, Some(&old), did))
}

async fn release(kubelets: &[&Arc<Kubelet>]) {
    for (number, kubelet) in kubelets.iter().enumerate() {
        if number > 0 {
            sleep(BETWEEN).await;
        }
        kubelet.hold(false);
    }
}

/// Whether the member's server left recovery in time.
async fn serves(rig: &Rig, kubelet: &Kubelet) -> bool {
    let deadline = Instant::now() + SERVES_BOUND;
    while Instant::now() < deadline {
        let answer = sql::ask_one(
            &rig.settings.login,
            kubelet.member().ip,
            "SELECT pg_is_in_recovery()",
        )
        .await;
        if answer.is_ok_and(|answer| answer == "f") {
            return true;
        }
        sleep(Duration::from_millis(200)).await;
    }
    false
}

fn names(kubelets: &[&Arc<Kubelet>]) -> String {
    let names: Vec<&str> = kubelets
        .iter()
        .map(|kubelet| kubelet.member().name.as_str())
        .collect();
    names.join(", ")
}
