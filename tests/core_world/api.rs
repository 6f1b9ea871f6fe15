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
    pub holder: String,
    pub swap: Swap,
    pub sent_boot: u64,
    pub sent_live: u64,
    pub arrives: u64,
    /// When the sender stops waiting.
    pub gives_up: u64,
    /// The reply never comes.
    pub reply_lost: bool,
}

#[derive(Debug, Clone)]
pub enum Applied {
    Done(Rc<Lease>),
    Lost,
    Refused(&'static str),
}

#[derive(Debug, Clone)]
pub struct Api {
    /// Every version, with the moment it was made; none: deleted.
    pub versions: Vec<(u64, Option<Rc<Lease>>)>,
    pub next_version: u64,
    pub down_until: u64,
    pub lose_percent: u64,
    pub lose_until: u64,
    pub requests: Vec<Request>,
}

impl Api {
    pub fn new(record: Record) -> Self {
        let lease = Lease {
            version: 1,
            spec: 1,
            holder: None,
            term: Term(0),
            record: RecordView::Good(Box::new(record)),
            order: None,
        };
        Self {
            versions: vec![(0, Some(Rc::new(lease)))],
            next_version: 2,
            down_until: 0,
            lose_percent: 0,
            lose_until: 0,
            requests: Vec::new(),
        }
    }

    pub fn lease(&self) -> Option<Rc<Lease>> {
        self.versions.last().and_then(|(_, lease)| lease.clone())
    }

    /// The record in the Lease.
    pub fn record(&self) -> Option<Record> {
        self.lease()?.record().cloned()
    }

    /// What a watch that lags by `lag` has shown by now.
    pub fn shown(&self, now: u64, lag: u64) -> Option<Option<Rc<Lease>>> {
        let until = now.saturating_sub(lag);
        let mut newest = self.versions.iter().rev();
        newest
            .find(|(at, _)| *at <= until)
            .map(|(_, lease)| lease.clone())
    }

    /// Changes the Lease; `spec`: as a swap does, not only its annotations.
    pub fn put(&mut self, now: u64, spec: bool, change: impl FnOnce(&mut Lease)) -> Rc<Lease> {
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
        self.versions.push((now, Some(lease.clone())));
        // Nobody lags by more than this.
        if self.versions.len() > 4096 {
            self.versions.drain(..2048);
        }
        lease
    }

    pub fn delete(&mut self, now: u64) {
        self.versions.push((now, None));
    }

    pub fn apply(&mut self, now: u64, request: &Request) -> Applied {
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
        let done = self.put(now, true, |lease| {
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
        Applied::Done(done)
    }
}
