//! pgbaton: automated failover for PostgreSQL on Kubernetes. `docs/architecture.md` has the map.

pub mod core;
pub mod guard;
pub mod lease;
pub mod postgres;
pub mod http;
pub mod kubernetes;
