use std::process::ExitCode;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "pgbaton", version, about)]
enum Command {
    /// Runs PostgreSQL as the container's main process, and only while it may run.
    Guard(pgbaton::cli::guard::GuardArgs),
}

fn main() -> ExitCode {
    let Command::Guard(args) = Command::parse();
    pgbaton::cli::guard::run(args).unwrap_or_else(|e| {
        eprintln!("pgbaton: {e:#}");
        ExitCode::FAILURE
    })
}
