//! A report that reads from each standby for long, where replay waits for it without end, while the primary is hit.

use anyhow::{Context, Result};
use tokio::time::Instant;

use super::away::served;
use super::kill;
use crate::local::load::Backlog;
use crate::local::rig::Rig;
use crate::oracles::sql;
use crate::oracles::trial::Inflicted;

/// MiB that each standby has to replay: replay certainly stands.
const BEHIND: u64 = 4;

pub async fn then_postmaster(rig: &Rig) -> Result<Inflicted> {
    let standbys: Vec<_> = rig.standby_kubelets()?.iter().map(|k| k.member().ip).collect();
    for &ip in &standbys {
        set(rig, ip, "SET max_standby_streaming_delay = -1").await?;
    }
    let hit = while_they_read(rig).await;
    for &ip in &standbys {
        // One that is not there now keeps a setting that no other fault minds.
        let _ = set(rig, ip, "RESET max_standby_streaming_delay").await;
    }
    hit
}

async fn while_they_read(rig: &Rig) -> Result<Inflicted> {
    let reports = Backlog::build(rig, BEHIND).await?;
    let hit = kill::postmaster(rig).await?;
    let again = served(rig).await;
    let after = hit.at.elapsed().as_millis();
    // The reports go on until here, where nobody ends them.
    drop(reports);
    let ending = if again {
        format!("writes were taken again after {after} ms")
    } else {
        format!("nobody took writes within {after} ms")
    };
    Ok(Inflicted {
        over: Instant::now(),
        did: format!("a report held replay on each standby; {}; {ending}", hit.did),
        ..hit
    })
}

async fn set(rig: &Rig, ip: std::net::Ipv4Addr, what: &str) -> Result<()> {
    let login = &rig.settings.login;
    let doing = || format!("ALTER SYSTEM {what} on the standby at {ip}");
    sql::ask(login, ip, &format!("ALTER SYSTEM {what}"))
        .await
        .with_context(doing)?;
    sql::ask(login, ip, "SELECT pg_reload_conf()")
        .await
        .with_context(doing)?;
    Ok(())
}
