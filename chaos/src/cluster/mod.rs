//! A real Kubernetes: the shipped manifests, faults by its API and by its hosts, judged by the same oracles as the local rig.

pub mod artefacts;
pub mod cli;
pub mod commands;
pub mod hosts;
pub mod kube;
pub mod nodes;
pub mod pods;
pub mod run;
pub mod scenarios;
pub mod target;
pub mod undo;
pub mod watchers;
