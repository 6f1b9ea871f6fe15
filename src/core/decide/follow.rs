//! Somebody else is the recorded primary: follow it, come back to its history, or stand by to succeed it.

use super::outcomes::retry_after;
use super::{Chosen, Mind};
use crate::core::action::GuardOrder;
use crate::core::history;
use crate::core::observe::{SeenLease, ServerView};
use crate::core::phase::Phase;
use crate::core::record::{Member, Record, Step};
use crate::core::state::Rejoin;
use crate::core::types::{MemberData, Millis};
use crate::core::why::{RejoinWay, Why};
use crate::guard::protocol::{DataState, DownReason, RestPosition, Server, Status};

/// How long a member that is down waits for a new primary to lead clients to itself.
const START_ANYWAY: Millis = Millis(5_000);
/// Starts as a standby that may die before the data is made anew.
const STARTS_TRIED: u32 = 3;
/// A receiver that has not streamed for this long from a healthy primary does not come back by itself.
const STREAM_WITHIN: Millis = Millis(5_000);

impl Mind<'_> {
    pub(super) fn follow(&mut self, lease: &SeenLease, record: &Record, guard: &Status) -> Chosen {
        self.forget_basis();
        self.state.stepping_down = None;
        self.state.taking = None;
        if self.stop_when_pod_ends(guard) {
            return (
                Phase::Following,
                Why::NotTakingOver {
                    because: "this pod is being stopped".to_owned(),
                },
            );
        }
        if guard.operation.is_none()
            && let Some(claiming) = self.candidate(lease, record, guard)
        {
            return self.unless_unfit(claiming, record, guard);
        }
        let taker = lease.holder.is_some() && lease.term > record.term;
        let told = self
            .seen
            .told_term
            .filter(|t| *t > lease.term && *t > record.term);
        if (taker || told.is_some()) && guard.data == DataState::Complete && guard.operation.is_none() {
            return self.pledge_to(told.unwrap_or(lease.term), guard);
        }
        let Some(primary) = record.primary.clone() else {
            return (Phase::Following, Why::WaitingForFirstPrimary);
        };
        if primary.member == self.settings.me {
            let because = format!(
                "the data of the recorded primary {} is gone from here",
                primary.member
            );
            return (Phase::Following, Why::NotTakingOver { because });
        }
        if guard.pledge.as_ref().is_some_and(|p| p.term > record.term) {
            let term = guard.pledge.as_ref().map_or(record.term, |p| p.term);
            return (Phase::Pledged, Why::Pledged { term });
        }
        self.follow_primary(record, guard, &primary)
    }

    /// A standby that says why it does not take over still follows meanwhile, when that can be done.
    fn unless_unfit(&mut self, claiming: Chosen, record: &Record, guard: &Status) -> Chosen {
        let pledged_later = guard.pledge.as_ref().is_some_and(|p| p.term > record.term);
        let claims = matches!(claiming.1, Why::Claiming { .. });
        if claims || pledged_later {
            let phase = if pledged_later { Phase::Pledged } else { claiming.0 };
            return (phase, claiming.1);
        }
        match record.primary.clone() {
            Some(primary) if primary.member != self.settings.me => {
                let followed = self.follow_primary(record, guard, &primary);
                if followed.0 == Phase::Following {
                    claiming
                } else {
                    followed
                }
            }
            _ => claiming,
        }
    }

    fn follow_primary(&mut self, record: &Record, guard: &Status, primary: &Member) -> Chosen {
        self.note_rejoin(record, guard, primary);
        if guard.operation.is_none()
            && let Some(joining) = self.join(record, guard, primary)
        {
            return joining;
        }
        if guard.operation.as_ref().is_some_and(|o| o.kind == "clone")
            && self
                .state
                .copying
                .as_ref()
                .is_some_and(|whom| *whom != primary.data())
        {
            // A copy of who is not the primary any more would be made in vain; the data here stays as it is.
            let (fast, hint) = (Millis(0), None);
            self.order(record.term, GuardOrder::Stop { fast, hint });
        }
        if guard.operation.is_some() {
            let way = if guard.operation.as_ref().is_some_and(|o| o.kind == "rewind") {
                RejoinWay::Rewind
            } else {
                RejoinWay::Clone
            };
            return (
                Phase::Rejoining,
                Why::Rejoining {
                    way,
                    primary: primary.member.clone(),
                    position: None,
                    failed: self.failed_before(),
                },
            );
        }
        if guard.data != DataState::Complete {
            return self.rejoin_by(RejoinWay::Clone, record, guard, primary);
        }
        if !guard.knows_term {
            self.order(record.term, GuardOrder::NoteTerm);
        }
        match &guard.server {
            Server::Standby => self.stay_standby(record, guard, primary),
            Server::Down { .. } => self.come_back(record, guard, primary),
            server if *server == Server::Primary || guard.permit.is_some_and(|p| p.term < record.term) => {
                // Deposed while its guard was out of sight, and its permit still lives: a pledge ends it now, also one that only starts, by an order
                // that a suspended machine did late.
                self.order(record.term, GuardOrder::Pledge { hint: self.hint() });
                (
                    Phase::Following,
                    Why::Following {
                        primary: primary.member.clone(),
                    },
                )
            }
            _ => (
                Phase::Following,
                Why::Following {
                    primary: primary.member.clone(),
                },
            ),
        }
    }

    /// Another source, term, or life of the data here: what failed before says nothing about it.
    fn note_rejoin(&mut self, record: &Record, guard: &Status, primary: &Member) {
        let source = Some((primary.data(), record.term));
        let now = self.now();
        let rejoin = &mut self.state.rejoin;
        if rejoin.source != source {
            *rejoin = Rejoin {
                source,
                data: guard.data_id.clone(),
                ..Rejoin::default()
            };
            self.state.not_streaming_since = None;
        } else if guard.data_id.is_some() && rejoin.data != guard.data_id {
            // A copy that does not stream is not made again at once.
            let clones = rejoin.clones.saturating_add(1);
            *rejoin = Rejoin {
                source,
                given_up: rejoin.given_up,
                data: guard.data_id.clone(),
                clones,
                retry_at: now.plus(retry_after(clones)),
                ..Rejoin::default()
            };
        }
    }

    fn stay_standby(&mut self, record: &Record, guard: &Status, primary: &Member) -> Chosen {
        let wanted = (
            primary.data(),
            primary.address.clone(),
            record.term,
            guard.boot_id.clone(),
        );
        if self.state.followed.as_ref() != Some(&wanted) || guard.following.as_ref() != Some(&primary.member)
        {
            // A receiver that connects before the promotion is thrown out by it, and comes back only after its retry interval.
            if self.still_promoting(record, primary) && !self.is_up(primary) {
                self.ask_peers_every = Millis(20);
                self.wake_in(Millis(20));
            } else {
                self.order_follow(record, guard, primary);
            }
            let primary = primary.member.clone();
            return (Phase::Following, Why::Following { primary });
        }
        let for_ms = self
            .state
            .not_streaming_since
            .map_or(0, |since| self.now().since(since).0);
        let look = self.server_since(self.state.rejoin.started_at);
        if matches!(look, Some(ServerView::Standby { streaming: true, .. })) {
            self.state.rejoin.starts = 0;
            self.state.rejoin.given_up = false;
            // A primary streams: what an earlier try did not find says nothing about the next one.
            self.state.claim_not_before = Millis(0);
        }
        if for_ms == 0 || !self.is_up(primary) {
            self.state.should_stream_since = None;
        }
        let now = self.now();
        let should = self.state.should_stream_since;
        // Counted from when the primary can be reached: a receiver needs a moment after a cut.
        if for_ms > 0 && self.is_up(primary) {
            self.state.should_stream_since.get_or_insert(now);
        }
        if should.is_none_or(|since| now.since(since) < STREAM_WITHIN) {
            let name = primary.member.clone();
            let why = if for_ms == 0 {
                Why::Following { primary: name }
            } else {
                Why::NotStreaming {
                    primary: name,
                    for_ms,
                }
            };
            return (Phase::Following, why);
        }
        // It should stream and does not: stop, read where its WAL ends, and choose the next way.
        if self.order(
            record.term,
            GuardOrder::Stop {
                fast: Millis(1_000),
                hint: self.hint(),
            },
        ) {
            self.way_failed(RejoinWay::Follow, "the standby did not get WAL from the primary");
            self.state.not_streaming_since = None;
            self.state.should_stream_since = None;
        }
        let primary = primary.member.clone();
        (Phase::Rejoining, Why::NotStreaming { primary, for_ms })
    }

    /// True when the order was given.
    fn order_follow(&mut self, record: &Record, guard: &Status, primary: &Member) -> bool {
        let Some(mine) = self.my_data(guard) else {
            return false;
        };
        let order = GuardOrder::Follow {
            upstream: primary.member.clone(),
            address: primary.address.clone(),
            standby_name: mine.standby_name(),
            slot: mine.member.slot(),
            names: standby_names(record, &mine),
        };
        let ordered = self.order(record.term, order);
        if ordered {
            self.state.followed = Some((
                primary.data(),
                primary.address.clone(),
                record.term,
                guard.boot_id.clone(),
            ));
            self.state.not_streaming_since = None;
        }
        ordered
    }

    /// The server is down: which way back?
    fn come_back(&mut self, record: &Record, guard: &Status, primary: &Member) -> Chosen {
        if self.still_promoting(record, primary) {
            self.wake_in(Millis(50));
            return (
                self.rejoining(),
                Why::Following {
                    primary: primary.member.clone(),
                },
            );
        }
        let rest = match &guard.rest {
            Some(rest) => Some(rest),
            None if self.state.rejoin.unreadable || guard.fresh_copy => None,
            None => {
                self.order(
                    record.term,
                    GuardOrder::Stop {
                        fast: Millis(0),
                        hint: None,
                    },
                );
                return (
                    self.rejoining(),
                    Why::Following {
                        primary: primary.member.clone(),
                    },
                );
            }
        };
        let way = self.next_way(record, guard, rest);
        self.rejoin_by(way, record, guard, primary)
    }

    /// The new primary is written down and has not taken over the Service. Until it has, new clients may still be led here: a standby
    /// that starts now would answer their writes with an error, a closed port makes them try again. Bounded: it may never finish.
    fn still_promoting(&mut self, record: &Record, primary: &Member) -> bool {
        let promoting = matches!(&record.step, Some(Step::Promoting { member }) if *member == primary.member);
        if !promoting {
            self.state.promoting_since = None;
            return false;
        }
        let now = self.now();
        let since = *self.state.promoting_since.get_or_insert(now);
        now.since(since) < START_ANYWAY
    }

    fn rejoining(&self) -> Phase {
        if self.state.phase == Phase::Rejoining {
            Phase::Rejoining
        } else {
            Phase::Following
        }
    }

    fn next_way(&self, record: &Record, guard: &Status, rest: Option<&RestPosition>) -> RejoinWay {
        let failed = |way| self.state.rejoin.failed.contains(&way);
        let as_it_is = rest.is_some_and(|r| history::is_on_primary_history(record, r.position));
        // A promotion of its own that the record does not know: no rewind can be trusted (invariant 8).
        let known = rest.is_some_and(|r| history::is_recorded(record, r.position.timeline));
        // Where its WAL ends decides whenever that is known; a copy that nobody recovered yet has no end of its own.
        if (as_it_is || (rest.is_none() && guard.fresh_copy)) && !failed(RejoinWay::Follow) {
            RejoinWay::Follow
        } else if known && !as_it_is && !failed(RejoinWay::Rewind) {
            // On the primary's own history pg_rewind has nothing to do: what is missing there is WAL, and only a copy helps.
            RejoinWay::Rewind
        } else {
            RejoinWay::Clone
        }
    }

    fn failed_before(&self) -> Option<String> {
        Some(self.state.rejoin.error.clone()).filter(|error| !error.is_empty())
    }

    pub(super) fn rejoin_by(
        &mut self,
        way: RejoinWay,
        record: &Record,
        guard: &Status,
        primary: &Member,
    ) -> Chosen {
        let position = guard.rest.as_ref().map(|r| r.position);
        let why = Why::Rejoining {
            way,
            primary: primary.member.clone(),
            position,
            failed: self.failed_before(),
        };
        if way == RejoinWay::Follow {
            return self.start_following(record, guard, primary, why);
        }
        let (Some(system_identifier), Some(timeline)) = (record.system_identifier, record.timeline) else {
            return (Phase::Rejoining, why);
        };
        if !self.is_up(primary) || self.now() < self.state.rejoin.retry_at {
            let error = self.state.rejoin.error.clone();
            let failed_before = !error.is_empty() && way == RejoinWay::Clone;
            return (
                Phase::Rejoining,
                if failed_before {
                    Why::RejoinFailed { error }
                } else {
                    why
                },
            );
        }
        let (upstream, address) = (primary.member.clone(), primary.address.clone());
        let order = match way {
            RejoinWay::Rewind => GuardOrder::Rewind {
                upstream,
                address,
                timeline,
            },
            _ => GuardOrder::Clone {
                upstream,
                address,
                system_identifier,
                timeline,
            },
        };
        if self.order(record.term, order) && way == RejoinWay::Clone {
            self.state.copying = Some(primary.data());
        }
        (Phase::Rejoining, why)
    }

    /// Starts as a standby. One that dies each time is started later and later, then made anew once; what a copy does not mend
    /// (settings, another major version) is a person's, and tried again now and then.
    fn start_following(&mut self, record: &Record, guard: &Status, primary: &Member, why: Why) -> Chosen {
        let now = self.now();
        let rejoin = &mut self.state.rejoin;
        let died = match &guard.server {
            Server::Down {
                reason: DownReason::Crashed,
                detail,
            } if rejoin.starts > 0 => Some(detail.clone()),
            _ => None,
        };
        let Some(error) = died else {
            self.start_once(record, guard, primary);
            return (self.rejoining(), why);
        };
        if rejoin.starts >= STARTS_TRIED && !rejoin.given_up {
            rejoin.given_up = true;
            self.way_failed(RejoinWay::Follow, &error);
        } else if now >= rejoin.retry_at {
            self.start_once(record, guard, primary);
        }
        (Phase::Rejoining, Why::RejoinFailed { error })
    }

    fn start_once(&mut self, record: &Record, guard: &Status, primary: &Member) {
        if self.order_follow(record, guard, primary) {
            let now = self.now();
            let rejoin = &mut self.state.rejoin;
            rejoin.starts = rejoin.starts.saturating_add(1);
            rejoin.started_at = now;
            rejoin.retry_at = now.plus(retry_after(rejoin.starts));
        }
    }

    /// The primary's own sidecar says that it runs read-write.
    fn is_up(&self, primary: &Member) -> bool {
        self.fresh_peer(&primary.member).is_some_and(|p| {
            p.data().as_ref() == Some(&primary.data()) && matches!(p.server, Some(ServerView::Primary { .. }))
        })
    }
}

/// Names that a standby runs with, so that a promotion never comes from an empty list (invariant 6): everybody else.
pub(super) fn standby_names(record: &Record, mine: &MemberData) -> String {
    let standbys = record
        .members
        .iter()
        .map(Member::data)
        .filter(|d| d != mine)
        .collect();
    crate::core::record::SyncSet { k: 1, standbys }.names()
}
