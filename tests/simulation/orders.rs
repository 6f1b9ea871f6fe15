//! What the model guard does with an order: refuses it, or begins it.

use pgbaton::core::action::GuardOrder;
use pgbaton::core::types::{Millis, Term, Timeline};
use pgbaton::guard::protocol::DownReason;

use crate::machine::{Machine, Proc};
use crate::wal::Entry;

impl Machine {
    pub fn permit_order(&mut self, term: Term, deadline: Millis) {
        let pledged = self.pledge.as_ref().map_or(Term(0), |p| p.term);
        if term < self.highest_term || term < pledged {
            return;
        }
        self.highest_term = term;
        self.knows_term = true;
        self.permit = match self.permit {
            Some((t, until)) if t == term => Some((t, until.max(deadline.0))),
            _ => Some((term, deadline.0)),
        };
    }

    /// What is not done with data that was never adopted.
    fn against_found(&self, order: &GuardOrder) -> Option<&'static str> {
        match order {
            GuardOrder::Adopt if self.found().is_none() || !(self.signal || self.is_down()) => {
                Some("nothing to adopt")
            }
            GuardOrder::StartPrimary { .. } | GuardOrder::Promote { .. } | GuardOrder::Rewind { .. }
                if self.unadopted =>
            {
                Some("never adopted")
            }
            GuardOrder::Follow { .. } | GuardOrder::StandAlone { .. } | GuardOrder::Clone { .. }
                if self.unadopted && !self.signal =>
            {
                Some("a primary's data that was never adopted")
            }
            _ => None,
        }
    }

    /// Checks and begins an order; the answer is how long it takes, or why it is refused.
    pub fn begin(&mut self, term: Term, order: &GuardOrder, now: u64) -> Result<u64, String> {
        let pledged = self.pledge.as_ref().map_or(Term(0), |p| p.term);
        if term < self.highest_term || term < pledged {
            return Err(format!("term {term} is old"));
        }
        let interrupts = matches!(order, GuardOrder::NoteTerm | GuardOrder::Stop { .. });
        if self.running.is_some() && !interrupts {
            return Err("busy".to_owned());
        }
        if matches!(order, GuardOrder::Stop { .. })
            && let Some(running) = self.end_operation(Some("cancelled".to_owned()))
            && !matches!(running.order, GuardOrder::Clone { .. })
        {
            self.incomplete = true;
            self.data = None;
        }
        self.highest_term = term;
        self.knows_term = true;
        if let Some(why) = self.against_found(order) {
            return Err(why.to_owned());
        }
        let whole = self.data.is_some() && !self.incomplete;
        match order {
            GuardOrder::NoteTerm => Ok(20),
            GuardOrder::Initialise if !self.permitted(term) => Err("no permit".to_owned()),
            GuardOrder::Initialise if whole => Err("there is data".to_owned()),
            GuardOrder::StartPrimary { .. } if !self.permitted(term) => Err("no permit".to_owned()),
            GuardOrder::Promote { .. } if !self.permitted(term) || pledged != term => {
                Err("no permit or pledge".to_owned())
            }
            GuardOrder::Promote { .. } if self.proc != Proc::Standby => Err("no standby".to_owned()),
            GuardOrder::StartPrimary { .. } | GuardOrder::Clone { .. } | GuardOrder::Rewind { .. }
                if !self.is_down() =>
            {
                Err("the server runs".to_owned())
            }
            GuardOrder::StartPrimary { .. } | GuardOrder::Rewind { .. } | GuardOrder::Follow { .. }
                if !whole =>
            {
                Err("no data".to_owned())
            }
            GuardOrder::Follow { .. } | GuardOrder::StandAlone { .. } if self.may_become_primary() => {
                Err("the server is read-write".to_owned())
            }
            GuardOrder::StandAlone { .. } if !whole => Err("no data".to_owned()),
            GuardOrder::Pledge { .. } => {
                self.permit = None;
                if self.may_become_primary() {
                    self.kill(DownReason::Stopped);
                }
                self.following = None;
                self.stream = None;
                Ok(60)
            }
            GuardOrder::Stop { fast, .. } => {
                self.permit = None;
                if self.is_down() {
                    return Ok(40);
                }
                let clean = fast.0 > 0 && matches!(self.proc, Proc::Primary | Proc::Standby);
                self.stops(now, clean);
                Ok(120)
            }
            GuardOrder::Promote { .. } => Ok(160),
            _ => Ok(40),
        }
    }

    /// The server begins to stop: fast, or at once.
    pub fn stops(&mut self, now: u64, clean: bool) {
        self.waiting.clear();
        self.proc = Proc::Stopping {
            until: now + 100,
            clean,
        };
    }

    /// The number of the timeline that a promotion made, to be noted.
    pub fn promoted(&mut self, timeline: Timeline, id: u64) {
        self.proc = Proc::Primary;
        self.following = None;
        self.stream = None;
        if let Some(data) = &mut self.data {
            data.wal.push(Entry {
                timeline: timeline.0,
                id,
            });
        }
        // The end of recovery is flushed before anybody may write.
        self.flushed = self.length();
    }
}

pub fn kind_of(order: &GuardOrder) -> &'static str {
    match order {
        GuardOrder::Initialise => "initialise",
        GuardOrder::Clone { .. } => "clone",
        GuardOrder::Rewind { .. } => "rewind",
        _ => "",
    }
}
