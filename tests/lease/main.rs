//! The Lease against a small API server in this process (`fake`): races, lost answers, frozen processes, damaged Leases.

#![allow(clippy::unwrap_used)] // helpers of tests may panic as tests do

mod client;
mod damaged;
mod fake;
mod member;
mod outcomes;
mod races;
mod watching;
