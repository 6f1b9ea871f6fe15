//! What people do, rightly and wrongly.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use super::kill::{running, server_processes};
use super::until;
use crate::local::kubelet::{Kubelet, Role};
use crate::local::process;
use crate::local::rig::Rig;
use crate::local::settings::NAMESPACE;
use crate::oracles::sql;
use crate::oracles::trial::Inflicted;

const COMMAND_BOUND: Duration = Duration::from_secs(90);
const PG_CTL_BOUND: Duration = Duration::from_secs(30);
/// How long the rig waits for the guard to end a server that somebody promoted (the promise is 100 ms).
const ENDED_BOUND: Duration = Duration::from_secs(5);
/// Promotions by hand that may come to nothing.
const PROMOTIONS: u32 = 8;
const WHOLE_BOUND: Duration = Duration::from_secs(60);

pub async fn switchover(rig: &Rig) -> Result<Inflicted> {
    let from = rig.primary_kubelet()?.member().name.clone();
    let standbys = rig.standby_kubelets()?;
    let to = standbys
        .first()
        .context("there is no standby")?
        .member()
        .name
        .clone();
    let at = Instant::now();
    let run = Command::new(&rig.settings.pgbaton)
        .args(["switchover", "--to", &to, "-n", NAMESPACE, "--kubeconfig"])
        .arg(&rig.kubeconfig)
        .stdin(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = timeout(COMMAND_BOUND, run)
        .await
        .with_context(|| format!("'pgbaton switchover --to {to}' did not end within {COMMAND_BOUND:?}"))?
        .context("cannot run 'pgbaton switchover'")?;
    if !output.status.success() {
        bail!(
            "'pgbaton switchover --to {to}' ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let did = format!(
        "ordered a switchover to {to}; the command ended after {} ms",
        at.elapsed().as_millis()
    );
    Ok(Inflicted::blow(at, &from, did))
}

pub async fn promoted(rig: &Rig) -> Result<Inflicted> {
    let standbys = rig.standby_kubelets()?;
    let kubelet = standbys.last().context("there is no standby")?;
    let name = &kubelet.member().name;
    let at = Instant::now();
    let by_program = promoted_and_ended(rig, kubelet, true).await?;
    // One after the other, each against a whole cluster.
    if let Err(missing) = rig.wait_whole(WHOLE_BOUND).await {
        bail!(
            "not whole {WHOLE_BOUND:?} after 'pg_ctl promote' on {name}: {}",
            missing.join("; ")
        );
    }
    let by_function = promoted_and_ended(rig, kubelet, false).await?;
    let did = format!(
        "'pg_ctl promote' on {name}: its server was gone {} ms after the order; pg_promote(): {} ms",
        by_program.as_millis(),
        by_function.as_millis()
    );
    Ok(Inflicted::lasting(at, Some(name), did))
}

/// Promotes past pgbaton; how long after the order the postmaster was gone. The guard takes the file `promote` away when it sees it
/// before the postmaster does: nothing was promoted then, and it is tried again.
async fn promoted_and_ended(rig: &Rig, kubelet: &Kubelet, by_program: bool) -> Result<Duration> {
    let container = running(kubelet, Role::Server)?;
    let name = &kubelet.member().name;
    let pid = *server_processes(&container)
        .first()
        .with_context(|| format!("{name} has no server process"))?;
    let start = process::start_time(pid);
    let ended = || process::start_time(pid) != start || !process::is_alive(pid);
    for _ in 0..PROMOTIONS {
        let at = Instant::now();
        if by_program {
            let promote = pg_ctl(rig, kubelet, &["promote", "--no-wait"]);
            let words: Vec<&str> = promote.iter().map(String::as_str).collect();
            container
                .exec(rig.settings.account.as_ref(), &words, PG_CTL_BOUND)
                .await?;
        } else {
            sql::ask(
                &rig.settings.login,
                kubelet.member().ip,
                "SELECT pg_promote(false)",
            )
            .await?;
        }
        let deadline = at + ENDED_BOUND;
        while !ended() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if ended() {
            return Ok(at.elapsed());
        }
        let recovers = sql::ask_one(
            &rig.settings.login,
            kubelet.member().ip,
            "SELECT pg_is_in_recovery()",
        )
        .await?;
        if recovers != "t" {
            bail!("the server of {name} was promoted by hand and still runs after {ENDED_BOUND:?}");
        }
    }
    bail!("the server of {name} could not be promoted by hand in {PROMOTIONS} tries");
}

pub async fn restarted(rig: &Rig) -> Result<Inflicted> {
    let kubelet = rig.primary_kubelet()?;
    let name = &kubelet.member().name;
    let container = running(kubelet, Role::Server)?;
    let old = *server_processes(&container)
        .first()
        .with_context(|| format!("{name} has no server process"))?;
    let restart = pg_ctl(rig, kubelet, &["restart", "--mode=fast"]);
    let words: Vec<&str> = restart.iter().map(String::as_str).collect();
    let at = Instant::now();
    // The guard ends what pg_ctl starts, so pg_ctl may well report a failure: that is no failure of the fault.
    let said = match container
        .exec(rig.settings.account.as_ref(), &words, PG_CTL_BOUND)
        .await
    {
        Ok(_) => "pg_ctl reported success".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    if !until(ENDED_BOUND, || !process::is_alive(old)).await {
        bail!("'pg_ctl restart' did not end the old server of {name}: {said}");
    }
    Ok(Inflicted::blow(
        at,
        name,
        format!("'pg_ctl restart' in {name}: {said}"),
    ))
}

fn pg_ctl(rig: &Rig, kubelet: &Kubelet, words: &[&str]) -> Vec<String> {
    let program = rig.settings.programs.join("pg_ctl").display().to_string();
    let data = format!("--pgdata={}", kubelet.member().pgdata().display());
    let mut command = vec![program];
    command.extend(words.iter().map(|&word| word.to_owned()));
    command.push(data);
    command
}
