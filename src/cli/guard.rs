//! `pgbaton guard`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;

use crate::guard::keeper::{KEEPER_ENV, keep};
use crate::guard::prepare::Asked;
use crate::guard::refusal;

/// Runs PostgreSQL as the container's main process, and only while it may run.
#[derive(Debug, clap::Args)]
pub struct GuardArgs {
    /// The data directory. Its parent must be on the same volume: pgbaton keeps its state there.
    #[arg(long, env = "PGDATA")]
    pgdata: Option<PathBuf>,
    /// Directory of the socket, shared with the sidecar's container only (an emptyDir).
    #[arg(long, env = "PGBATON_RUN_DIR", default_value = "/pgbaton")]
    run_dir: PathBuf,
    /// User id that may connect to the socket, besides root and PostgreSQL's own user.
    #[arg(long, env = "PGBATON_PEER_UID", value_parser = clap::value_parser!(u32).range(..i64::from(u32::MAX)))]
    peer_uid: Option<u32>,
    /// Whom to become when started as root: a name of /etc/passwd or a number.
    #[arg(long, env = "PGBATON_USER", default_value = "postgres")]
    user: String,
    /// How long to wait for the sidecar to hand over after the container's stop signal; 1s to 1h, below the pod's grace period.
    #[arg(long, env = "PGBATON_STOP_TIMEOUT", default_value = "25s", value_parser = stop_timeout)]
    stop_timeout: Duration,
    /// Run although the guard is not PID 1 of its PID namespace; a second process then ends PostgreSQL if the guard dies.
    #[arg(long, env = "PGBATON_ALLOW_NOT_INIT")]
    allow_not_init: bool,
    /// Log level: error, warn, info, debug, trace, or target=level,...
    #[arg(long, env = "PGBATON_LOG", default_value = "info")]
    log: String,
    /// human or json.
    #[arg(long, env = "PGBATON_LOG_FORMAT", default_value = "human", value_parser = ["human", "json"])]
    log_format: String,
    /// The container's command, as in docker-entrypoint.sh, and the server's arguments.
    #[arg(last = true)]
    command: Vec<String>,
}

/// No time at all would cut off every handover; a pod is never given more than an hour.
fn stop_timeout(text: &str) -> Result<Duration, String> {
    let told = humantime::parse_duration(text).map_err(|e| format!("{e}: write it as 25s"))?;
    if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&told) {
        Ok(told)
    } else {
        Err(
            "must be between 1s and 1h, and a little below terminationGracePeriodSeconds of the pod"
                .to_owned(),
        )
    }
}

/// Runs the guard until the container is stopped.
///
/// # Errors
/// When it cannot guard here: what does not hold, and what to change.
pub fn run(args: GuardArgs) -> anyhow::Result<ExitCode> {
    let GuardArgs {
        pgdata,
        run_dir,
        peer_uid,
        user,
        stop_timeout,
        allow_not_init,
        log,
        log_format,
        command,
    } = args;
    if let Some(pgdata) = std::env::var_os(KEEPER_ENV) {
        keep(&PathBuf::from(pgdata));
        return Ok(ExitCode::SUCCESS);
    }
    let pgdata =
        pgdata.context("PGDATA is not set: set it in the container's environment, or use --pgdata")?;
    crate::guard::log::start(&log, &log_format)?;
    let asked = Asked {
        pgdata,
        run_dir,
        user,
        peer_uid,
        stop_timeout,
        allow_not_init,
    };
    let ended = crate::guard::run::run(&asked, &command);
    if let Err(error) = &ended {
        refusal::leave(&asked.run_dir, &asked.pgdata, &format!("{error:#}"));
    }
    ended
}
