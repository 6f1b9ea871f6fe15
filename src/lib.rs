//! pgbaton: automated failover for PostgreSQL on Kubernetes. `docs/architecture.md` has the map.

pub mod cli;
pub mod core;
pub mod guard;
