//! Words of the store: targets, parts, changes, deletions.

use super::kinds::{Kind, Resource};
use jiff::Timestamp;
use serde_json::Value;
use std::sync::Arc;

/// What a write needs from outside: the time, and randomness for identities.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// Time of the write.
    pub now: Timestamp,
    /// UID for an object that is created.
    pub uid: String,
    /// What follows `generateName`.
    pub suffix: String,
}

/// Which part of an object a write may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object without its status (for kinds that have one), as over HTTP.
    Object,
    /// The status only, as over HTTP at `.../status`.
    Status,
    /// Both at once: for the rig itself.
    Everything,
}

/// Which object a request is about, and how the write is meant.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Served form.
    pub resource: &'static Resource,
    /// Namespace.
    pub namespace: &'a str,
    /// Name; not used to create.
    pub name: &'a str,
    /// What may change.
    pub part: Part,
    /// Check everything and change nothing.
    pub dry_run: bool,
}

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeType {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// What becomes of the objects that a deleted one owns. The rig's controllers act on it, not the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted too, a little later (`Foreground` is treated likewise).
    #[default]
    Background,
    /// They stay.
    Orphan,
}

/// One entry of the log of changes.
#[derive(Clone, Debug)]
pub struct Change {
    /// resourceVersion after it.
    pub version: u64,
    /// Kind of the object.
    pub kind: Kind,
    /// What happened.
    pub change: ChangeType,
    /// The object after it; when deleted, its last state with the version of the deletion.
    pub object: Arc<Value>,
    /// The object before it.
    pub previous: Option<Arc<Value>>,
    /// For a deletion: what becomes of what it owns.
    pub propagation: Option<Propagation>,
}

/// How to delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds given to a pod; none: what the pod says; 0: at once.
    pub grace_seconds: Option<i64>,
    /// What becomes of what it owns.
    pub propagation: Propagation,
    /// Check everything and change nothing.
    pub dry_run: bool,
    /// Only an object with this UID.
    pub uid: Option<String>,
    /// Only this version.
    pub resource_version: Option<String>,
}

/// What a deletion did.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Arc<Value>),
    /// A pod on a node: it is marked, and goes when the kubelet deletes it with a grace of 0.
    Terminating(Arc<Value>),
}
