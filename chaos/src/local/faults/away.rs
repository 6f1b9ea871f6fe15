//! The primary is hit while one standby is away: whether the others have a proof depends on whether the sync set still counts on it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};

use super::{kill, until};
use crate::local::kubelet::Kubelet;
use crate::local::rig::Rig;
use crate::local::whole;
use crate::oracles::sql;
use crate::oracles::trial::Inflicted;

/// Until a standby that is away has left the sync set, and no former set is recorded any more; several times what it should take.
const LEFT_BOUND: Duration = Duration::from_secs(30);
/// Until a write is acknowledged again without it; longer than a Lease lasts.
const SERVED_BOUND: Duration = Duration::from_secs(40);
/// One try of that.
const TRY_BOUND: Duration = Duration::from_secs(2);

/// When the primary is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The standby has been away for so long that the sync set does without it.
    Left,
    /// At once: every commit so far may be held by either standby.
    AtOnce,
}

/// What ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    Postmaster,
    Pod,
}

pub async fn then(rig: &Rig, when: When, blow: Blow) -> Result<Inflicted> {
    let primary = rig.primary_kubelet()?.member().name.clone();
    let standbys = rig.standby_kubelets()?;
    let away = standbys.first().context("there is no standby")?;
    away.hold(true);
    away.kill();
    let hit = hit_without(rig, away, when, blow).await;
    // It returns whatever happened.
    away.hold(false);
    let (hit, served) = hit?;
    let name = &away.member().name;
    let counted = match when {
        When::Left => "had left the sync set",
        When::AtOnce => "was still in the sync set",
    };
    let mut cast = vec![(primary, "the old primary".to_owned())];
    let others = standbys.iter().map(|kubelet| kubelet.member().name.clone());
    cast.extend(others.map(|other| {
        let role = if other == *name {
            "the one away"
        } else {
            "the one left"
        };
        (other, role.to_owned())
    }));
    Ok(Inflicted {
        over: Instant::now(),
        did: format!(
            "{name} was away and {counted}; {}; {served}, then {name} returned",
            hit.did
        ),
        cast,
        ..hit
    })
}

/// The blow, and how writes went on without the one that is away.
async fn hit_without(rig: &Rig, away: &Arc<Kubelet>, when: When, blow: Blow) -> Result<(Inflicted, String)> {
    away.gone().await?;
    let name = &away.member().name;
    let left = || {
        let record = whole::record(&rig.store);
        record.is_some_and(|record| {
            let current = record.current_set();
            let counts = current.standbys.iter().any(|s| s.member.as_str() == name);
            !counts && record.sync_sets.len() == 1
        })
    };
    if when == When::Left && !until(LEFT_BOUND, left).await {
        bail!("{name} did not leave the sync set within {LEFT_BOUND:?}");
    }
    if when == When::AtOnce && left() {
        bail!("{name} left the sync set before the primary could be hit");
    }
    let hit = match blow {
        Blow::Postmaster => kill::postmaster(rig).await?,
        Blow::Pod => kill::primary(rig).await?,
    };
    let served = if served(rig).await {
        let by = rig.primary().unwrap_or_default();
        format!("{by} took writes again after {} ms", hit.at.elapsed().as_millis())
    } else {
        format!("nobody took writes within {} s", SERVED_BOUND.as_secs())
    };
    Ok((hit, served))
}

/// Whether a write through the Service is acknowledged in time.
pub(super) async fn served(rig: &Rig) -> bool {
    let write = "SELECT pg_logical_emit_message(true, 'pgbaton-chaos', 'served')";
    let deadline = Instant::now() + SERVED_BOUND;
    while Instant::now() < deadline {
        let asked = sql::ask_within(&rig.settings.login, rig.settings.service_ip(), write, TRY_BOUND);
        if asked.await.is_ok() {
            return true;
        }
        sleep(Duration::from_millis(50)).await;
    }
    false
}
