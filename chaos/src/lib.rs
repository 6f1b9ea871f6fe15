//! pgbaton-chaos: faults, oracles and measurements for pgbaton.

pub mod local;
