//! `pgbaton-chaos`: breaks a pgbaton cluster on purpose and says what its clients saw.

use std::process::ExitCode;

fn main() -> ExitCode {
    pgbaton_chaos::cli::main()
}
