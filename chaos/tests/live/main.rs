//! Real guards, sidecars and PostgreSQL servers on the rig, without the demo around them: at rest, under every command of people, and
//! given what is wrong. `PGBATON_KEEP=1` leaves the directory of a test that failed.

#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]

mod adoption;
mod at_rest;
mod bad_input;
mod browser;
mod commands;
mod page;
mod rights;
mod rollout;
mod schema;
mod support;
