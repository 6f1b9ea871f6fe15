//! A deterministic world around the core: no I/O, no clock but its own, seeded.

#![allow(clippy::unwrap_used, reason = "tests")]

mod any;
mod api;
mod check;
mod engine;
mod faults;
mod fuzz;
mod hands;
mod machine;
mod plain;
mod rng;
mod sidecar;
mod stories;
mod stories_adoption;
mod stories_bounds;
mod stories_early;
mod stories_people;
mod stories_promises;
mod stories_refusals;
mod stream;
mod wal;
mod world;
