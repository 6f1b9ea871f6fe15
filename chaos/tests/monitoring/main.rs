//! deploy/monitoring: the rules by promtool on series that were recorded from real faults, and real Prometheus that scrapes a cluster
//! through faults. scripts/setup.sh provides both programs.

#![allow(
    clippy::unwrap_used,
    reason = "a test may end here; the lint knows only functions marked as tests"
)]

#[path = "../live/schema.rs"]
mod schema;
#[allow(dead_code, reason = "the live tests use the rest")]
#[path = "../live/support.rs"]
mod support;

#[path = "../../../tests/support/promtool.rs"]
mod promtool;

mod dashboard;
mod live;
mod prometheus;
mod record;
mod rules;
mod series;
mod skewed;

use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
