//! The model API server: one Lease with versions, compare-and-swap, requests and replies that may be lost or late, and
//! a watch that lags.

use std::rc::Rc;

use pgbaton::core::action::{ClaimEvidence, Swap, SwapKind};
use pgbaton::core::observe::{PersonOrder, RecordView};
use pgbaton::core::record::Record;
use pgbaton::core::types::Term;

#[derive(Debug, Clone)]
pub struct Lease {
    pub version: u64,
    /// The version of the last change of `spec`.
    pub spec: u64,
    pub holder: Option<String>,
    pub term: Term,
    pub record: RecordView,
    pub order: Option<PersonOrder>,
}

impl Lease {
    pub fn record(&self) -> Option<&Record> {
        match &self.record {
            RecordView::Good(record) => Some(record),
            RecordView::Missing | RecordView::Unreadable(_) => None,
        }
    }
}

/// A swap on its way.
#[derive(Debug, Clone)]
pub struct Request {
    pub member: usize,
    pub life: u64,
    /// Tells one sender's swaps apart.
    pub number: u64,
    pub holder: String,
    pub swap: Swap,
    pub sent_boot: u64,
    pub sent_live: u64,
    /// When the connection ends; it may have arrived.
    pub gives_up: u64,
    /// The reply never comes.
    pub reply_lost: bool,
}

/// The answer on its way.
#[derive(Debug, Clone)]
pub struct Reply {
    pub request: Request,
    pub applied: Applied,
}

#[derive(Debug, Clone)]
pub enum Applied {
    /// With the watch's number of the version.
    Done(u64, Rc<Lease>),
    Lost,
    Refused(&'static str),
}

#[derive(Debug, Clone)]
pub struct Api {
    /// None: deleted.
    now: Option<Rc<Lease>>,
    next_version: u64,
    /// Rises with each change; what watchers were told of.
    pub number: u64,
    pub announced: u64,
    /// Until when a member's watch shows nothing new.
    pub lags_until: Vec<u64>,
    pub down_until: u64,
    pub lose_percent: u64,
    pub lose_until: u64,
}

impl Api {
    pub fn new(record: Record, members: usize) -> Self {
        let lease = Lease {
            version: 1,
            spec: 1,
            holder: None,
            term: Term(0),
            record: RecordView::Good(Box::new(record)),
            order: None,
        };
        Self {
            now: Some(Rc::new(lease)),
            next_version: 2,
            number: 1,
            announced: 1,
            lags_until: vec![0; members],
            down_until: 0,
            lose_percent: 0,
            lose_until: 0,
        }
    }

    pub fn lease(&self) -> Option<Rc<Lease>> {
        self.now.clone()
    }

    /// The record in the Lease.
    pub fn record(&self) -> Option<Record> {
        self.lease()?.record().cloned()
    }

    /// Changes the Lease; `spec`: as a swap does, not only its annotations.
    pub fn put(&mut self, spec: bool, change: impl FnOnce(&mut Lease)) -> Rc<Lease> {
        let mut lease = match self.lease() {
            Some(lease) => (*lease).clone(),
            None => Lease {
                version: 0,
                spec: 0,
                holder: None,
                term: Term(0),
                record: RecordView::Missing,
                order: None,
            },
        };
        change(&mut lease);
        lease.version = self.next_version;
        self.next_version += 1;
        if spec {
            lease.spec = lease.version;
        }
        let lease = Rc::new(lease);
        self.now = Some(lease.clone());
        self.number += 1;
        lease
    }

    pub fn delete(&mut self) {
        self.now = None;
        self.number += 1;
    }

    pub fn apply(&mut self, request: &Request) -> Applied {
        let Some(lease) = self.lease() else {
            return Applied::Refused("not found");
        };
        if lease.version.to_string() != request.swap.based_on {
            return Applied::Lost;
        }
        let swap = &request.swap;
        let mine = lease.holder.as_deref() == Some(request.holder.as_str());
        if matches!(swap.kind, SwapKind::Renew | SwapKind::Release) && !mine {
            return Applied::Refused("not the holder");
        }
        let done = self.put(true, |lease| {
            lease.record = RecordView::Good(swap.record.clone());
            match swap.kind {
                SwapKind::Renew => {}
                SwapKind::Release => lease.holder = None,
                SwapKind::Claim(ClaimEvidence::WriteBack) => {
                    lease.term = swap.term;
                    lease.holder = Some(request.holder.clone());
                }
                SwapKind::Claim(_) => {
                    lease.term = Term(lease.term.0 + 1);
                    lease.holder = Some(request.holder.clone());
                }
            }
        });
        Applied::Done(self.number, done)
    }
}
