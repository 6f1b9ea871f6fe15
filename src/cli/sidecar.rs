//! `pgbaton sidecar`: takes its settings; the loop itself is in `crate::runtime`.

use std::process::ExitCode;

use super::End;

/// `pgbaton sidecar`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the sidecar.
#[must_use]
pub fn run(_args: Args) -> ExitCode {
    End::Usage.into()
}
