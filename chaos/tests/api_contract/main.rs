//! What pgbaton relies on in an API server. Runs against the embedded one, and with `PGBATON_CONTRACT_KUBECONFIG` against a
//! real one (`contract/mod.rs` has the command).
#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]

#[path = "../contract/mod.rs"]
mod contract;

mod defaults;
mod objects;
mod rules;
mod watch;
