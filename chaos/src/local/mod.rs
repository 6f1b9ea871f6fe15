//! The local rig: members on loopback addresses, each container in a PID namespace of its own where the kernel allows it.

pub mod api;
pub mod container;
pub mod demo;
pub mod faults;
pub mod forwarder;
pub mod host;
pub mod kubelet;
pub mod load;
pub mod member;
pub mod meter;
pub mod objects;
pub mod pgbench;
pub mod plain;
pub mod process;
pub mod readiness;
pub mod rest;
pub mod revision;
pub mod rig;
mod role;
pub mod settings;
pub mod store;
pub mod template;
pub mod tps;
pub mod watchdog;
pub mod watchers;
pub mod whole;
