//! Where log lines go: standard error, as lines for people or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// The log cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log (PGBATON_LOG) is '{filter}': {reason}: expected a level or directives, as in info or pgbaton=debug,kube=warn"
)]
pub struct BadLog {
    filter: String,
    reason: String,
}

/// Sends the log to standard error from now on. `filter` as tracing-subscriber's env-filter takes it.
///
/// # Errors
/// When the filter cannot be read, or a log was set up before.
pub fn start(filter: &str, format: LogFormat) -> Result<(), BadLog> {
    let parsed = check(filter)?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Human => log.try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|e| BadLog {
        filter: filter.to_owned(),
        reason: e.to_string(),
    })
}

/// Reads a filter.
///
/// # Errors
/// When it cannot be read.
pub fn check(filter: &str) -> Result<EnvFilter, BadLog> {
    EnvFilter::try_new(filter).map_err(|e| BadLog {
        filter: filter.to_owned(),
        reason: e.to_string(),
    })
}

/// For commands of people: silent unless `PGBATON_LOG` says otherwise.
pub(super) fn for_person() {
    let filter = std::env::var("PGBATON_LOG").unwrap_or_else(|_| "off".to_owned());
    if let Err(error) = start(&filter, LogFormat::Human) {
        eprintln!("pgbaton: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = start("pgbaton=loud", LogFormat::Json).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("--log (PGBATON_LOG) is 'pgbaton=loud': "),
            "{error}"
        );
    }
}
