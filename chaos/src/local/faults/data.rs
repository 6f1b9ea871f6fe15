//! Data that is gone.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::local::kubelet::Kubelet;
use crate::local::rig::Rig;
use crate::oracles::sql;
use crate::oracles::trial::Inflicted;

/// Rounds of 16 MiB of WAL and a checkpoint until the standby's WAL is gone. The server keeps `wal_keep_size` and what it recycles.
const WAL_ROUNDS: usize = 200;
const ROUND_BOUND: Duration = Duration::from_secs(30);

pub async fn primary_lost(rig: &Rig) -> Result<Inflicted> {
    lost(rig.primary_kubelet()?).await
}

pub async fn standby_lost(rig: &Rig) -> Result<Inflicted> {
    let standbys = rig.standby_kubelets()?;
    lost(standbys.first().context("there is no standby")?).await
}

async fn lost(kubelet: &Kubelet) -> Result<Inflicted> {
    let name = &kubelet.member().name;
    let at = Instant::now();
    kubelet.lose_data().await?;
    Ok(Inflicted::blow(
        at,
        name,
        format!("killed {name} and emptied its volume; a new pod comes back under its name"),
    ))
}

pub async fn wal_gone(rig: &Rig) -> Result<Inflicted> {
    let standbys = rig.standby_kubelets()?;
    let kubelet = standbys.last().context("there is no standby")?;
    let name = &kubelet.member().name;
    let at = Instant::now();
    kubelet.hold(true);
    kubelet.kill();
    let recycled = match kubelet.gone().await {
        Ok(()) => recycle(rig, kubelet).await,
        Err(error) => Err(error),
    };
    // The member returns whatever happened.
    kubelet.hold(false);
    let rounds = recycled?;
    let did = format!(
        "kept {name} away for {rounds} rounds of WAL and checkpoint, until what it needs was recycled"
    );
    Ok(Inflicted::lasting(at, Some(name), did))
}

/// Writes WAL until the segment that the standby stopped in is gone from the primary; how many rounds it took.
async fn recycle(rig: &Rig, standby: &Kubelet) -> Result<usize> {
    let home = rig.primary_kubelet()?.member().ip;
    let needed = sql::ask_one(
        &rig.settings.login,
        home,
        "SELECT pg_walfile_name(pg_current_wal_lsn())",
    )
    .await?;
    let slot = standby.member().name.replace('-', "_");
    for round in 1..=WAL_ROUNDS {
        // The slot holds WAL for an absent standby; a leader that keeps slots may make it anew, holding only newer WAL.
        let drop = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}' AND NOT active"
        );
        sql::ask_within(&rig.settings.login, home, &drop, ROUND_BOUND).await?;
        // Not for the standbys to wait for, and the switch fills the segment.
        let fill = "SET synchronous_commit = local; \
                    SELECT pg_logical_emit_message(false, 'pgbaton-chaos', 'recycle'); SELECT pg_switch_wal(); CHECKPOINT";
        sql::ask_within(&rig.settings.login, home, fill, ROUND_BOUND).await?;
        let there = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{needed}'");
        if sql::ask_one(&rig.settings.login, home, &there).await? == "0" {
            return Ok(round);
        }
    }
    bail!("the primary still has WAL file {needed} after {WAL_ROUNDS} rounds of 16 MiB and a checkpoint");
}
