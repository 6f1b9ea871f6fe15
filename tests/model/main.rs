//! Model checking of the protocol: record, sync sets, pledges, permits and promotions, without time (docs/safety.md, model checking).

#![allow(clippy::unwrap_used, reason = "tests")]

mod may;
mod model;
mod proof;
mod reach;
mod rules;
mod runs;
mod state;
mod steps;
mod symmetry;
mod tidy;
mod truth;
