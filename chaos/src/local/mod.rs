//! The local rig: members on loopback addresses, each container in a PID namespace of its own where the kernel allows it.

pub mod api;
pub mod cli;
pub mod container;
pub mod demo;
pub mod faults;
pub mod forwarder;
pub mod host;
pub mod kubelet;
pub mod member;
pub mod objects;
pub mod observer;
pub mod oracle;
pub mod plain;
pub mod process;
pub mod report;
pub mod rig;
pub mod settings;
pub mod sql;
pub mod store;
pub mod summary;
pub mod template;
pub mod trial;
pub mod watchdog;
pub mod whole;
pub mod workload;
