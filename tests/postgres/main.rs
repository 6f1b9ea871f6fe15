//! What the sidecar asks of PostgreSQL and tells it, on real servers.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../support/pg.rs"]
mod pg;

mod classes;
mod cost;
mod durability;
mod leader;
mod unguarded;
