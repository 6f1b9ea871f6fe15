//! Decides who may write. Pure: no clock, no I/O, no randomness, no async runtime (DESIGN.md section 10).

pub mod in_force;
pub mod probe;
pub mod record;
pub mod types;
