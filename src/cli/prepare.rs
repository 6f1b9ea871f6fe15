//! `pgbaton prepare`: an init container's work, see `crate::guard::volume`.

use std::path::PathBuf;

use anyhow::Context;

use super::{End, checks};
use crate::guard::volume::{Asked, prepare_volume};

/// `pgbaton prepare`.
#[derive(Debug, clap::Args)]
pub struct PrepareArgs {
    /// The data directory, as the guard has it
    #[arg(long, env = "PGDATA", value_parser = checks::path_value)]
    pgdata: Option<PathBuf>,
    /// Where archive_command copies to (default: archive, beside the data directory)
    #[arg(long, env = "PGBATON_ARCHIVE_DIR", value_parser = checks::path_value)]
    archive_dir: Option<PathBuf>,
    /// PostgreSQL's user, as the guard has it: a name of /etc/passwd or a number
    #[arg(long, env = "PGBATON_USER", default_value = "postgres")]
    user: String,
}

/// Runs the command.
pub(super) fn run(args: PrepareArgs) -> anyhow::Result<End> {
    // Set and empty is not set, as for kubectl.
    let told = |path: Option<PathBuf>| path.filter(|path| !path.as_os_str().is_empty());
    let pgdata = told(args.pgdata)
        .context("PGDATA is not set: set it in the container's environment, or use --pgdata")?;
    let prepared = prepare_volume(&Asked {
        pgdata,
        archive_dir: told(args.archive_dir),
        user: args.user,
    })?;
    println!(
        "pgbaton prepare: {} {} for user {}; the data is left as it is",
        prepared.archive.display(),
        if prepared.made { "was made" } else { "is there" },
        prepared.user
    );
    Ok(End::Done)
}
