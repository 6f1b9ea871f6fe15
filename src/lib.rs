//! pgbaton: automated failover for PostgreSQL on Kubernetes. `docs/architecture.md` has the map.

pub mod cli;
pub mod core;
pub mod guard;
pub mod http;
pub mod kubernetes;
pub mod lease;
pub mod peers;
pub mod postgres;
pub mod runtime;
