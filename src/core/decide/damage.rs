//! The Lease is missing, or its record is lost, foreign, or older than what this member has on disk (DESIGN.md section 3).

use super::{Chosen, Mind};
use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::observe::{PeerReport, PersonWish, SeenLease};
use crate::core::phase::Phase;
use crate::core::record::{Durability, HistoryEntry, Record, Step};
use crate::core::types::{Lsn, MemberData, MemberName, Millis, Term};
use crate::core::why::Why;
use crate::guard::protocol::{DataState, Server, Status};

impl Mind<'_> {
    /// Whether the record fits what this member has on disk and what others say.
    pub(super) fn check_record(
        &self,
        lease: &SeenLease,
        record: &Record,
        guard: &Status,
    ) -> Result<(), String> {
        if lease.term < guard.highest_term {
            return Err(format!(
                "its term {} is below term {}, which this member has seen",
                lease.term, guard.highest_term
            ));
        }
        if record.term > lease.term {
            return Err(format!(
                "its record is of term {}, the Lease of term {}",
                record.term, lease.term
            ));
        }
        if record.is_never_initialised() {
            return self.check_never_initialised(record, guard);
        }
        // A member that runs read-write under a permit knows its own cluster; any other one may itself be the foreign one.
        if self.runs_permitted(guard) && guard.system_identifier != record.system_identifier {
            return Err("its record is of another cluster".to_owned());
        }
        Ok(())
    }

    fn check_never_initialised(&self, record: &Record, guard: &Status) -> Result<(), String> {
        // Whoever was written down to initialise may have data already; nobody else may.
        let initialises = |member: &MemberName| match &record.step {
            Some(Step::Initialising { by }) => by
                .strip_prefix(member.as_str())
                .is_some_and(|rest| rest.starts_with('_')),
            _ => false,
        };
        // Data that was made without pgbaton is no sign of a lost record: it waits to be adopted.
        let ours = |g: &Status| g.data == DataState::Complete && g.found.is_none();
        if ours(guard) && !initialises(&self.settings.me) {
            return Err(format!(
                "its record says never initialised, and {} has data",
                self.settings.me
            ));
        }
        let other = self
            .fresh_peers()
            .find(|p| !initialises(&p.member) && p.guard.as_ref().is_some_and(ours));
        match other {
            Some(peer) => Err(format!(
                "its record says never initialised, and {} has data",
                peer.member
            )),
            None => Ok(()),
        }
    }

    pub(super) fn runs_permitted(&self, guard: &Status) -> bool {
        guard.server == Server::Primary
            && guard
                .permit
                .is_some_and(|p| p.deadline_boot_ms > self.seen.now_boot.0)
    }

    pub(super) fn lease_absent(&mut self, guard: &Status) -> Chosen {
        if self.stop_when_pod_ends(guard) {
            self.drop_basis();
        }
        (Phase::Damaged, Why::LeaseAbsent)
    }

    pub(super) fn damaged(&mut self, lease: &SeenLease, guard: &Status, how: String) -> Chosen {
        if let Some(term) = self.lost_to_later_term(lease, guard) {
            // The record is lost, yet somebody is taking over on another's word: pledging is always safe.
            self.order(term, GuardOrder::Pledge { hint: self.hint() });
            return (Phase::Damaged, Why::LeaseDamaged { how });
        }
        let highest = self.highest_term(lease, guard);
        let term = Term(highest.0.saturating_add(1));
        // Its own record is the cluster's only while nobody can have led after it: a later term may have acknowledged what it lacks.
        if self.runs_permitted(guard)
            && let Some(led) = self.state.led.clone()
            && guard.permit.is_some_and(|p| p.term == led.term)
            && highest <= led.term
            && let Some(mine) = self.my_data(guard)
            && led.primary.as_ref().is_some_and(|p| p.data() == mine)
            // What a former process kept may be older than the last change of names: then it does not say whom commits waited for.
            && (!self.state.led_recalled || guard.synchronous_standby_names == led.current_set().names())
        {
            let since = self.damaged_since(lease);
            if !self.nobody_led_after(&led, since) {
                self.ask_peers_every = Millis(50);
                self.wake_in(Millis(50));
                // A person may know better, and says so by name.
                self.adopt_as_ordered(lease, guard, term);
                return (Phase::Leading, Why::WritingRecordBack { how });
            }
            let mut record = *led;
            record.term = term;
            record.released = None;
            record.rest = None;
            record.step = None;
            self.note_history(
                &mut record,
                term,
                &format!("the record was written back: {how}"),
                Lsn(0),
            );
            self.swap_as(lease, SwapKind::Claim(ClaimEvidence::WriteBack), term, record);
            return (Phase::Leading, Why::WritingRecordBack { how });
        }
        // Only now: a server that stops with its pod before the record is back leaves nobody who could write it.
        self.stop_when_pod_ends(guard);
        self.adopt_as_ordered(lease, guard, term);
        if let Some((leader, leads)) = self.runs_in_later_term(lease) {
            let term = lease.term;
            return (Phase::Damaged, Why::LeaseBehind { term, leader, leads });
        }
        (Phase::Damaged, Why::LeaseDamaged { how })
    }

    fn adopt_as_ordered(&mut self, lease: &SeenLease, guard: &Status, term: Term) {
        if let Some(order) = &lease.order
            && let PersonWish::Adopt { member } = &order.what
            && *member == self.settings.me
        {
            self.adopt(lease, guard, order, term);
        }
    }

    /// Since when this very version is seen. Another one may hide that somebody led in between.
    fn damaged_since(&mut self, lease: &SeenLease) -> Millis {
        match &self.state.damaged {
            Some((version, since)) if *version == lease.version => *since,
            _ => {
                let now = self.now();
                self.state.damaged = Some((lease.version.clone(), now));
                now
            }
        }
    }

    /// Silence is no sign that nobody has led after the record: whoever was cut off would not have heard of it. A later leader would have needed the
    /// pledges of all but k-1 of the set in force, which every later record holds too, and written itself down in a version before the one that is
    /// seen. So k of it that say, asked after that was seen, that they have seen no later term exclude one, for the swap lands on this version only; an empty set does it alone. In asynchronous durability nobody leads
    /// while this permit lives.
    fn nobody_led_after(&self, led: &Record, since: Millis) -> bool {
        let set = led.current_set();
        if led.durability == Durability::Async || set.k == 0 {
            return true;
        }
        let told = |data: &&MemberData| {
            let peer = self.seen.peers.get(&data.member).filter(|p| p.asked_at >= since);
            let guard = peer.and_then(|p| p.value.guard.as_ref());
            let is_it = peer.is_some_and(|p| p.value.data().as_ref() == Some(*data));
            is_it && guard.is_some_and(|g| g.data == DataState::Complete && g.highest_term <= led.term)
        };
        set.standbys.iter().filter(told).count() >= set.k as usize
    }

    /// Who runs under a permit of a later term than the Lease's as seen here. Then it is the view that is old, or the record that is about to be
    /// written back: nothing that a person should do is known here.
    fn runs_in_later_term(&self, lease: &SeenLease) -> Option<(MemberName, Term)> {
        let runs = |p: &PeerReport| {
            let permit = p
                .guard
                .as_ref()?
                .permit
                .filter(|permit| permit.term > lease.term)?;
            Some((p.member.clone(), permit.term))
        };
        self.fresh_peers().find_map(runs)
    }

    fn lost_to_later_term(&self, lease: &SeenLease, guard: &Status) -> Option<Term> {
        let told = self.seen.told_term?;
        (told > lease.term && told > guard.highest_term).then_some(told)
    }

    /// The highest term seen: the Lease's, the disks', the peers', the Service's, what others said.
    fn highest_term(&self, lease: &SeenLease, guard: &Status) -> Term {
        let peers = self
            .seen
            .peers
            .values()
            .filter_map(|p| p.value.guard.as_ref())
            .map(|g| g.highest_term);
        let led = self.state.led.as_ref().map_or(Term(0), |r| r.term);
        let highest = peers
            .chain([
                lease.term,
                guard.highest_term,
                led,
                self.seen.told_term.unwrap_or_default(),
                self.seen.service_term.unwrap_or_default(),
            ])
            .max();
        highest.unwrap_or_default()
    }

    /// A term above every one seen.
    pub(super) fn term_above_all(&self, lease: &SeenLease, guard: &Status) -> Term {
        Term(self.highest_term(lease, guard).0.saturating_add(1))
    }

    /// Adds a term to the history of a record.
    pub(super) fn note_history(&self, record: &mut Record, term: Term, why: &str, lsn: Lsn) {
        record.add_history(HistoryEntry {
            term,
            member: self.settings.me.clone(),
            why: why.to_owned(),
            at_unix_ms: self.seen.unix_ms,
            lsn,
            phases: Vec::new(),
        });
    }
}
