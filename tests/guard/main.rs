//! The guard on real PostgreSQL. One program, for each takes seconds to link; what must keep a deadline (`guard_deadline`,
//! `guard_permit`) runs alone.
#![allow(clippy::unwrap_used, reason = "a test ends by it")]

#[path = "../support/guard_programs.rs"]
mod programs;
#[path = "../support/guard_rig.rs"]
mod rig;

mod adopt;
mod clone;
mod copies;
mod kills;
mod life;
mod pledge;
mod protocol;
mod refusals;
mod schedules;
mod strays;
mod version;
