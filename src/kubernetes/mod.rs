//! What pgbaton changes in Kubernetes beside the Lease (DESIGN.md section 8). Level-triggered and idempotent; each change
//! carries the term and is swapped on the object's version, and a lower term never overwrites a higher one (invariant 9).

pub mod client;
pub mod counted;
pub mod effects;
pub mod events;
mod object;
mod pod_labels;
pub mod preflight;
mod service;
mod statefulset;

#[cfg(test)]
pub(crate) mod fake;

pub use effects::{
    Change, Desired, EffectError, EffectsReport, label_pods, point_service, reconcile, reconcile_members,
};
pub use service::{is_pointed, service_term};
