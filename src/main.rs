//! The program: installs the TLS provider, then hands over to the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Fails only when one is installed already, and nothing ran before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    pgbaton::cli::main()
}
