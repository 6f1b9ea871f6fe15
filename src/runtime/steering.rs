//! How the loop steers the tasks around it: what they are to do, as values that each of them watches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};

use super::knock::Door;
use super::promise::Promises;
use super::unguarded::Suspects;
use crate::core::observe::PeerReport;
use crate::core::types::{Address, MemberName};
use crate::peers::Told;

/// How the loop steers the tasks around it.
#[derive(Debug)]
pub struct Steering {
    /// How often to look at the server.
    pub probe_every: watch::Sender<Duration>,
    /// Look now.
    pub probe_now: Arc<Notify>,
    /// Whom to ask, how often, telling which term.
    pub ask: watch::Sender<AskPlan>,
    /// What peers are told.
    pub report: watch::Sender<Arc<PeerReport>>,
    /// Who may run without a guard.
    pub suspects: watch::Sender<Suspects>,
    /// Whose door to watch.
    pub door: watch::Sender<Option<Door>>,
    /// The Lease is damaged: the Service's term is wanted.
    pub damaged: watch::Sender<bool>,
    /// Members in the record.
    pub recorded: watch::Sender<BTreeSet<MemberName>>,
    /// What may be promised to a leader.
    pub promises: Promises,
    /// All servers of the namespace are to be asked what they are.
    pub survey: watch::Sender<bool>,
}

/// Whom to ask, and how often.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AskPlan {
    /// Members and where.
    pub whom: BTreeMap<MemberName, Address>,
    /// How often.
    pub every: Duration,
    /// What is told with the question.
    pub told: Told,
}
