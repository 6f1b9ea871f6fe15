//! The rig on one machine: everything that a Kubernetes would bring, in small, on loopback addresses.

pub mod api;
