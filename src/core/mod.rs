//! Decides who may write. Pure: no clock, no I/O, no randomness, no async runtime (DESIGN.md section 10).

pub mod action;
pub mod decide;
pub mod history;
pub mod observe;
pub mod phase;
pub mod proof;
pub mod in_force;
pub mod probe;
pub mod record;
pub mod state;
pub mod orders;
pub mod report;
pub mod types;
pub mod why;
