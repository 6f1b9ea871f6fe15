//! What a cluster is judged by, wherever it runs: clients that remember what they were told, and writers that go past the Service.

pub mod chance;
pub mod observer;
pub mod remains;
pub mod sql;
pub mod trial;
pub mod whole;
pub mod workload;
pub mod writers;
