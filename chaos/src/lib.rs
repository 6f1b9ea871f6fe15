//! Faults, oracles and measurements for pgbaton. `local` is the rig of one machine: real PostgreSQL, real guard and sidecar
//! processes, an embedded API server. For trying and testing, never for production.

pub mod cli;
pub mod cluster;
pub mod local;
pub mod names;
pub mod oracles;
pub mod report;
