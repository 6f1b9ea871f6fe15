//! `pgbaton guard`: takes its settings; the guard itself is in `crate::guard`.

use std::process::ExitCode;

use super::End;

/// `pgbaton guard -- COMMAND [ARGS...]`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the guard.
#[must_use]
pub fn run(_args: Args) -> ExitCode {
    End::Usage.into()
}
