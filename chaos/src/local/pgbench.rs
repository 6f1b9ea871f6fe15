//! pgbench against the rig's Service.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;
use tokio::time::timeout;

use super::settings::Settings;

/// Runs it to its end, at most for `bound`; what it said. Killed when this is dropped.
///
/// # Errors
/// When it cannot be started, does not end in time, or fails.
pub async fn run(settings: &Settings, arguments: &[String], bound: Duration) -> Result<String> {
    let login = &settings.login;
    let run = Command::new(settings.programs.join("pgbench"))
        .args(arguments)
        .args(["-h", &settings.service_ip().to_string()])
        .args(["-p", &login.port.to_string(), "-U", &login.user, &login.database])
        .env("PGPASSWORD", &login.password)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = timeout(bound, run)
        .await
        .with_context(|| format!("pgbench did not end within {bound:?}"))??;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "pgbench ended with {}: {errors}",
        output.status
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
