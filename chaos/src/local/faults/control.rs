//! What Kubernetes does, or does not do.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::until;
use crate::local::objects;
use crate::local::rig::Rig;
use crate::local::store::Kind;
use crate::names::CLUSTER;
use crate::oracles::trial::Inflicted;

const API_AWAY: Duration = Duration::from_secs(60);
/// Between the deletion of the Lease and its return, as a GitOps tool's next round.
const LEASE_AWAY: Duration = Duration::from_secs(3);
/// Between the end of a deleted StatefulSet's pod and its return.
const SET_AWAY: Duration = Duration::from_secs(2);
/// A pod's grace period and some more.
const POD_END_BOUND: Duration = Duration::from_secs(75);

pub async fn pod_delete(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let name = &kubelet.member().name;
    let at = Instant::now();
    kubelet.delete_pod().await?;
    let for_ms = at.elapsed().as_millis();
    Ok(Inflicted::blow(
        at,
        name,
        format!("deleted the pod of {name}; it ended after {for_ms} ms"),
    ))
}

pub async fn api_down(rig: &Rig) -> Result<Inflicted> {
    let at = Instant::now();
    rig.store.api().down().await;
    sleep(API_AWAY).await;
    rig.store
        .api()
        .up()
        .await
        .context("cannot start the API server again")?;
    let did = format!("the API server was away for {} s", API_AWAY.as_secs());
    Ok(Inflicted::lasting(at, None, did))
}

pub async fn api_restart(rig: &Rig) -> Result<Inflicted> {
    let at = Instant::now();
    rig.store
        .api()
        .restart()
        .await
        .context("cannot restart the API server")?;
    Ok(Inflicted::lasting(
        at,
        None,
        "restarted the API server".to_owned(),
    ))
}

pub async fn lease_deleted(rig: &Rig) -> Result<Inflicted> {
    let at = Instant::now();
    rig.store.delete(Kind::Lease, CLUSTER)?;
    sleep(LEASE_AWAY).await;
    rig.store.create(Kind::Lease, objects::lease(&rig.settings))?;
    let did = format!(
        "deleted the Lease, applied the manifest's {} s later",
        LEASE_AWAY.as_secs()
    );
    Ok(Inflicted::lasting(at, None, did))
}

pub async fn stateful_set_delete(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let member = kubelet.member();
    let at = Instant::now();
    rig.store.delete(Kind::StatefulSet, &member.name)?;
    let ended = || rig.store.get(Kind::Pod, &member.pod()).is_none();
    if !until(POD_END_BOUND, ended).await {
        bail!(
            "the pod of {} still runs {POD_END_BOUND:?} after its StatefulSet was deleted",
            member.name
        );
    }
    let ended_ms = at.elapsed().as_millis();
    sleep(SET_AWAY).await;
    rig.apply_stateful_set(member, "off", "")?;
    let did = format!(
        "deleted StatefulSet {}; its pod ended after {ended_ms} ms; applied again with STANDBY_MODE=off",
        member.name
    );
    Ok(Inflicted::lasting(at, Some(&member.name), did))
}
