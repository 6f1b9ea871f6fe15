//! The record says never initialised, and the data here was made without pgbaton: it is adopted in place (docs/safety.md).
//!
//! A standby's data goes on as a standby of the server that was found to take writes. A primary's data is always restarted in place and
//! never handed over to a standby: the old primary is held by no guard, so a pod of it that came back with its old manifest would take
//! writes beside the successor, and nothing could end it. Its data at rest, with every other server heard, is what is certain.

use super::{Chosen, Mind};
use crate::core::action::{ClaimEvidence, GuardOrder, SwapKind};
use crate::core::adoption::{Adoption, FoundServer, Obstacle, Survey};
use crate::core::observe::{PeerReport, PersonWish, SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::record::{Record, Step};
use crate::core::types::{Address, MemberName, Millis, Term};
use crate::core::why::Why;
use crate::guard::protocol::{DataState, FoundData, Server, Status};

/// Answers of servers older than this say nothing of now.
pub(super) const SURVEY_FRESH: Millis = Millis(4_000);
/// As above, for writing this member down: what no guard holds may change at any moment, so the last look is as young as can be.
const INSTALL_FRESH: Millis = Millis(2_500);
/// How long the holder of the Lease waits for pledges and answers.
const GIVE_UP: Millis = Millis(15_000);
/// After a try that came to nothing nobody tries again at once.
const AFTER_NOTHING: Millis = Millis(5_000);
/// How long a standby waits for a primary to be found before it serves by itself.
const ALONE_AFTER: Millis = Millis(5_000);

impl Mind<'_> {
    /// None: there is no found data here.
    pub(super) fn in_place(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Option<Chosen> {
        let found = guard
            .found
            .clone()
            .filter(|_| guard.data == DataState::Complete)?;
        self.forget_basis();
        self.wake_in(Millis(250));
        if self.stop_when_pod_ends(guard) {
            if self.i_hold(lease) {
                self.give_adoption_up(lease, record);
            }
            return Some((Phase::Adopting, Why::Adoption(Adoption::PodEnds)));
        }
        if let Some(order) = &lease.order
            && let PersonWish::Adopt { member } = &order.what
            && *member == self.settings.me
        {
            let term = self.term_above_all(lease, guard);
            self.adopt(lease, guard, order, term);
            return Some((Phase::Adopting, Why::Adoption(Adoption::Ordered)));
        }
        Some(if found.standby {
            self.wait_as_standby(lease, record, guard, &found)
        } else {
            self.adopt_as_primary(lease, record, guard, &found)
        })
    }

    /// Why no database may be made here, although this member is marked to do it; none: it may.
    pub(super) fn data_elsewhere(&self, record: &Record) -> Option<Adoption> {
        if let Some(Step::Adopting { by }) = &record.step {
            return Some(Adoption::By { by: by.clone() });
        }
        let heard = self
            .fresh_peers()
            .find(|p| p.guard.as_ref().is_some_and(|g| g.found.is_some()))
            .map(|p| p.member.clone());
        let answers = || {
            let (member, _) = self
                .servers(SURVEY_FRESH)?
                .find(|(_, server)| server.answer.has_data())?;
            Some(member.clone())
        };
        if let Some(member) = heard.or_else(answers) {
            return Some(Adoption::DataElsewhere { member });
        }
        match &self.seen.survey {
            Survey::Taken { .. } if self.servers(SURVEY_FRESH).is_some() => None,
            // A new cluster needs no right to list anything.
            Survey::Failed { forbidden: true, .. } => None,
            Survey::Failed { why, .. } => Some(Adoption::CannotLook { why: why.clone() }),
            Survey::Taken { .. } | Survey::NotYet => Some(Adoption::Looking),
        }
    }

    /// The other servers, when they were asked at most so long ago.
    pub(super) fn servers(&self, age: Millis) -> Option<impl Iterator<Item = (&MemberName, &FoundServer)>> {
        let since = Millis(self.now().0.saturating_sub(age.0));
        let servers = self.seen.survey.since(since)?;
        let me = &self.settings.me;
        Some(servers.iter().filter(move |(member, _)| *member != me))
    }

    /// Goes on as a standby, of whoever was found to take writes; lets go of it while somebody adopts.
    fn wait_as_standby(
        &mut self,
        lease: &SeenLease,
        record: &Record,
        guard: &Status,
        found: &FoundData,
    ) -> Chosen {
        let adopts = matches!(record.step, Some(Step::Adopting { .. })) && lease.holder.is_some();
        if adopts && !self.i_hold(lease) && !self.expired(lease, Millis(0)) {
            // So that the one who adopts knows where every standby's WAL ends, and none receives from anybody else meanwhile.
            self.state.follows_plain = None;
            return self.pledge_to(lease.term, guard);
        }
        let writer = self.writer(guard);
        match writer {
            Ok((member, address)) => {
                self.state.nobody_writes_since = None;
                self.follow_plain(lease, guard, found, &member, &address);
                let streams = matches!(
                    self.server_fresh(),
                    Some(ServerView::Standby { streaming: true, .. })
                );
                let next = streams.then(|| self.next_pod(&member));
                (
                    Phase::Adopting,
                    Why::Adoption(Adoption::FollowsPlain {
                        primary: member,
                        next,
                    }),
                )
            }
            Err(why) => {
                let now = self.now();
                let since = *self.state.nobody_writes_since.get_or_insert(now);
                if now.since(since) >= ALONE_AFTER && matches!(guard.server, Server::Down { .. }) {
                    // Those who read here are served meanwhile, as by the standby that it was.
                    let names = quoted(&self.settings.me);
                    self.order(lease.term, GuardOrder::StandAlone { names });
                }
                (Phase::Adopting, Why::Adoption(why))
            }
        }
    }

    /// The one server that takes writes, found by asking.
    fn writer(&self, guard: &Status) -> Result<(MemberName, Address), Adoption> {
        let Some(servers) = self.servers(SURVEY_FRESH) else {
            return Err(match &self.seen.survey {
                Survey::Failed { why, .. } => Adoption::CannotLook { why: why.clone() },
                Survey::NotYet | Survey::Taken { .. } => Adoption::Looking,
            });
        };
        let cluster = guard.system_identifier;
        let mut asked = Vec::new();
        let mut writers = Vec::new();
        for (member, server) in servers {
            asked.push(member.clone());
            if server.answer.is_read_write_of(cluster)
                && let Some(address) = &server.address
            {
                writers.push((member.clone(), address.clone()));
            }
        }
        if writers.len() > 1 {
            let members = writers.into_iter().map(|(member, _)| member).collect();
            return Err(Adoption::SeveralWrite { members });
        }
        writers.pop().ok_or_else(|| Adoption::NobodyWrites {
            asked,
            followed: guard.found.as_ref().and_then(|f| f.upstream.clone()),
        })
    }

    fn follow_plain(
        &mut self,
        lease: &SeenLease,
        guard: &Status,
        found: &FoundData,
        member: &MemberName,
        address: &Address,
    ) {
        let wanted = (member.clone(), address.clone(), guard.boot_id.clone());
        let follows = guard.following.as_ref() == Some(member)
            && self.state.follows_plain.as_ref() == Some(&wanted)
            && matches!(guard.server, Server::Standby | Server::Starting);
        if follows || matches!(guard.server, Server::Stopping) {
            return;
        }
        let order = GuardOrder::Follow {
            upstream: member.clone(),
            address: address.clone(),
            // The name that it had: the primary may wait for it with its commits.
            standby_name: found
                .application_name
                .clone()
                .unwrap_or_else(|| "walreceiver".to_owned()),
            slot: found.slot.clone().unwrap_or_default(),
            // Never empty (invariant 6); nobody promotes it before it has other ones.
            names: quoted(member),
        };
        if self.order(lease.term, order) {
            self.state.follows_plain = Some(wanted);
        }
    }

    /// The pod that a person deletes next: a standby's that has no guard yet, the primary's when there is none.
    fn next_pod(&self, primary: &MemberName) -> String {
        let plain = self.servers(SURVEY_FRESH).and_then(|mut servers| {
            let is_plain = |(member, server): &(&MemberName, &FoundServer)| {
                *member != primary && server.answer.has_data() && self.guarded(member).is_none()
            };
            servers.find(is_plain).map(|(member, _)| member.clone())
        });
        format!("{}-0", plain.as_ref().unwrap_or(primary))
    }

    pub(super) fn guarded(&self, member: &MemberName) -> Option<&PeerReport> {
        self.fresh_peer(member).filter(|p| p.guard.is_some())
    }

    /// A primary's data at rest: claims, lets every guarded standby pledge, looks again, then writes itself down.
    fn adopt_as_primary(
        &mut self,
        lease: &SeenLease,
        record: &Record,
        guard: &Status,
        found: &FoundData,
    ) -> Chosen {
        let waits = |obstacle| (Phase::Adopting, Why::Adoption(Adoption::Waits { obstacle }));
        if let Some(order) = &lease.order
            && let PersonWish::Adopt { member } = &order.what
        {
            let member = member.clone();
            return waits(Obstacle::Ordered { member });
        }
        if self.i_hold(lease) {
            return self.hold_adoption(lease, record, guard, found);
        }
        self.state.adopting = None;
        let since = Millis(self.now().0.saturating_sub(SURVEY_FRESH.0));
        if let Err(obstacle) = self.judge_in_place(lease, guard, found, since, None) {
            return waits(obstacle);
        }
        if self.now() < self.state.claim_not_before {
            return waits(Obstacle::LastTry);
        }
        let evidence = match &lease.holder {
            None if lease.term == Term(0) => Some(ClaimEvidence::NeverHeld),
            None if record.released == Some(lease.term) => Some(ClaimEvidence::Released),
            _ => self.expired(lease, Millis(0)).then_some(ClaimEvidence::Expired),
        };
        let Some(evidence) = evidence else {
            let by = lease.holder.clone().unwrap_or_default();
            return waits(Obstacle::Another { by });
        };
        let mut next = record.clone();
        next.released = None;
        next.step = Some(Step::Adopting {
            by: self.settings.holder.clone(),
        });
        let term = Term(lease.term.0.saturating_add(1));
        self.swap_as(lease, SwapKind::Claim(evidence), term, next);
        (Phase::Adopting, Why::Claiming { evidence })
    }

    fn hold_adoption(
        &mut self,
        lease: &SeenLease,
        record: &Record,
        guard: &Status,
        found: &FoundData,
    ) -> Chosen {
        self.ask_peers_every = Millis(50);
        self.wake_in(Millis(50));
        let mine = matches!(&record.step, Some(Step::Adopting { by }) if *by == self.settings.holder);
        if !mine {
            let mut next = record.clone();
            next.step = Some(Step::Adopting {
                by: self.settings.holder.clone(),
            });
            self.swap(lease, SwapKind::Renew, next);
            return (Phase::Adopting, Why::Adoption(Adoption::Looking));
        }
        let since = match self.state.adopting {
            Some((term, since)) if term == lease.term => since,
            _ => {
                let now = self.now();
                self.state.adopting = Some((lease.term, now));
                now
            }
        };
        // Never what was seen before the claim: that is what the swap was judged on, not what it leads to.
        let fresh = since.max(Millis(self.now().0.saturating_sub(INSTALL_FRESH.0)));
        match self.judge_in_place(lease, guard, found, fresh, Some(lease.term)) {
            Err(obstacle) if self.now().since(since) >= GIVE_UP => {
                self.give_adoption_up(lease, record);
                (Phase::Adopting, Why::Adoption(Adoption::Waits { obstacle }))
            }
            Err(obstacle) => {
                self.renew_when_due(lease, record.clone());
                (Phase::Adopting, Why::Adoption(Adoption::Waits { obstacle }))
            }
            Ok(()) => self.install_in_place(lease, record, guard),
        }
    }

    /// Data id first, then the swap that writes the identifier and this member down; the permit follows from that swap.
    fn install_in_place(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        let why = (Phase::Adopting, Why::Adoption(Adoption::Installing));
        let Some(mine) = self.my_data(guard) else {
            self.renew_when_due(lease, record.clone());
            self.order(lease.term, GuardOrder::Adopt);
            return why;
        };
        let Some(rest) = guard.rest.as_ref().map(|r| r.position) else {
            return why;
        };
        let reason =
            "adopted in place: the found primary's data, restarted (not handed over: no guard held it)";
        let next = self.adopted(lease, guard, mine, lease.term, rest.timeline, reason);
        self.swap(lease, SwapKind::Renew, next);
        why
    }

    fn give_adoption_up(&mut self, lease: &SeenLease, record: &Record) {
        self.state.claim_not_before = self.now().plus(AFTER_NOTHING);
        let mut next = record.clone();
        next.step = None;
        next.released = Some(lease.term);
        if self.swap(lease, SwapKind::Release, next) {
            self.state.adopting = None;
        }
    }
}

/// Names for a standby that nobody promotes: exact, quoted, never empty.
fn quoted(member: &MemberName) -> String {
    format!("ANY 1 (\"{}\")", member.slot())
}
