//! Decides who may write. Pure: no clock, no I/O, no randomness, no async runtime (DESIGN.md section 10).

pub mod orders;
pub mod record;
pub mod report;
pub mod types;
