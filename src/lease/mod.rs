//! The Lease: who holds the baton, and the record beside it (DESIGN.md section 3).
//!
//! `kube-leader-election` (KLE), unmodified, is the engine: it writes `holderIdentity`, `leaseTransitions`, times and
//! duration. By itself it has no compare-and-swap, trusts other machines' wall clocks and creates what is missing. A tower
//! layer under it ([`layer`]) adds five duties:
//!
//! - (a) each PATCH carries `metadata.resourceVersion` and the record, so that one request changes both or nothing;
//! - (b) KLE's GET is answered from the object that the decision was based on: a renewal is one request, and a claim
//!   overwrites nothing newer than its evidence;
//! - (c) expiry is judged by changes of `spec` seen on this process' own clock, time in which it stood still not counted;
//! - (d) an empty holder is free only with `released: <this term>` in the record, or once expired;
//! - (e) nothing is ever created: a missing Lease is damaged, which a person puts right.
//!
//! A [`LeaseWatcher`] keeps a [`LeaseView`] up to date by watch; [`Baton::swap`] changes the Lease. It judges neither
//! PostgreSQL nor disks; orders by people are carried as annotations and not understood here.
//!
//! Rights needed on this one Lease: `list`, `watch` and `patch` (by resourceNames; both reads name it by field selector).

pub mod baton;
pub mod client;
pub mod clock;
pub mod holder;
pub mod layer;
pub mod seen;
pub mod store;
pub mod watcher;

pub use baton::{Baton, LeaseSettings, SettingsError, Swap, SwapOutcome, open};
pub use client::{ApiServer, ClientError, connect, install_crypto};
pub use clock::{LiveClock, boottime};
pub use holder::{BadHolder, HolderId};
pub use layer::{ClaimEvidence, SwapKind};
pub use seen::{
    ANNOTATION_PREFIX, INITIAL_ANNOTATION, LeaseSeen, RECORD_ANNOTATION, RecordState, record_text,
};
pub use store::{Contact, LeaseState, LeaseView, Trouble};
pub use watcher::{LeaseWatcher, WatchTimes};
