//! Decides who may write. Pure: no clock, no I/O, no randomness, no async runtime (DESIGN.md section 10).

pub mod action;
pub mod adoption;
pub mod decide;
pub mod history;
pub mod in_force;
pub mod lag;
pub mod observe;
pub mod orders;
pub mod phase;
pub mod preflight;
pub mod probe;
pub mod proof;
pub mod record;
pub mod report;
pub mod rollout;
pub mod state;
pub mod template;
pub mod types;
pub mod why;
