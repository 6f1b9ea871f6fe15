//! Whether every other server was heard, and none of them stands against the data that was found here (docs/safety.md, adoption).

use super::Mind;
use super::in_place::SURVEY_FRESH;
use crate::core::adoption::{self, FoundServer, Obstacle, ServerAnswer, Survey};
use crate::core::observe::{PeerReport, SeenLease, ServerView};
use crate::core::types::{Lsn, MemberName, Millis, Term, Timeline};
use crate::guard::protocol::{DataState, FoundData, Server, Status};

/// A guard that was heard within this time is taken to be there still.
const GUARD_GONE: Millis = Millis(8_000);

impl Mind<'_> {
    /// Whether the primary's data here may lead: every other server was heard since `since`, as a standby that holds nothing beyond it.
    /// With a term, guarded standbys must have pledged to it.
    pub(super) fn judge_in_place(
        &self,
        lease: &SeenLease,
        guard: &Status,
        found: &FoundData,
        since: Millis,
        pledged: Option<Term>,
    ) -> Result<(), Obstacle> {
        if found.end.is_none() || guard.rest.is_none() || !matches!(guard.server, Server::Down { .. }) {
            return Err(Obstacle::OwnEndUnknown);
        }
        let Some(servers) = self.seen.survey.since(since) else {
            return Err(match &self.seen.survey {
                Survey::Failed { why, .. } => Obstacle::CannotLook { why: why.clone() },
                Survey::NotYet | Survey::Taken { .. } => Obstacle::NotLooked,
            });
        };
        for (member, server) in servers {
            if server.replicas > 1 {
                return Err(Obstacle::Replicas {
                    member: member.clone(),
                    replicas: server.replicas,
                });
            }
        }
        let me = &self.settings.me;
        // Whoever takes writes is told before anything else.
        for (member, server) in servers.iter().filter(|(member, _)| *member != me) {
            if server.answer.is_read_write_of(guard.system_identifier) {
                return Err(Obstacle::TakesWrites {
                    member: member.clone(),
                });
            }
        }
        let heard = |member: &MemberName| {
            let peer = self.seen.peers.get(member)?;
            let counts = peer.asked_at >= since && self.guarded(member).is_some();
            counts.then_some(&peer.value)
        };
        for (member, server) in servers.iter().filter(|(member, _)| *member != me) {
            match heard(member) {
                Some(peer) => judge_guarded(peer, guard, found, lease.term, pledged)?,
                // Its guard was there a moment ago: what it holds is told by it, not by its server.
                None if self.guarded_lately(member) => {
                    let member = member.clone();
                    return Err(Obstacle::EndUnknown { member });
                }
                None => judge_plain(member, server, guard, found)?,
            }
        }
        // Members that introduced themselves count as well, whatever was listed.
        for peer in self.fresh_peers().filter(|p| !servers.contains_key(&p.member)) {
            judge_guarded(peer, guard, found, lease.term, pledged)?;
        }
        Ok(())
    }

    /// Why a person's word does not make the found data here the cluster's now; none: nothing is in its way.
    pub(super) fn against_order(&self, guard: &Status) -> Option<Obstacle> {
        let Some(servers) = self.servers(SURVEY_FRESH) else {
            return match &self.seen.survey {
                Survey::Failed { why, .. } => Some(Obstacle::CannotLook { why: why.clone() }),
                Survey::NotYet | Survey::Taken { .. } => Some(Obstacle::NotLooked),
            };
        };
        for (member, server) in servers {
            let member = member.clone();
            if server.answer.is_read_write_of(guard.system_identifier) {
                return Some(Obstacle::TakesWrites { member });
            }
            // One without replicas runs nowhere: what its volume holds is what the person gives up.
            if let ServerAnswer::Silent { why } = &server.answer
                && server.replicas > 0
                && self.guarded(&member).is_none()
            {
                let (why, scaled_down) = (why.clone(), false);
                return Some(Obstacle::Silent {
                    member,
                    why,
                    scaled_down,
                });
            }
        }
        None
    }

    fn guarded_lately(&self, member: &MemberName) -> bool {
        let peer = self.seen.peers.get(member);
        peer.is_some_and(|p| p.value.guard.is_some() && self.now().since(p.asked_at) <= GUARD_GONE)
    }
}

fn judge_guarded(
    peer: &PeerReport,
    guard: &Status,
    found: &FoundData,
    term: Term,
    pledged: Option<Term>,
) -> Result<(), Obstacle> {
    let member = peer.member.clone();
    let Some(theirs) = &peer.guard else {
        let why = "its guard does not answer".to_owned();
        let scaled_down = false;
        return Err(Obstacle::Silent {
            member,
            why,
            scaled_down,
        });
    };
    if theirs.highest_term > term {
        return Err(Obstacle::LaterTerm { member });
    }
    match (theirs.data, theirs.system_identifier) {
        (DataState::Empty, _) => return Ok(()),
        (DataState::Incomplete, _) => return Err(Obstacle::Incomplete { member }),
        (DataState::Complete, Some(own)) if Some(own) != guard.system_identifier => {
            let system_identifier = own;
            return Err(Obstacle::Foreign {
                member,
                system_identifier,
            });
        }
        (DataState::Complete, _) => {}
    }
    if theirs.server == Server::Primary {
        return Err(Obstacle::TakesWrites { member });
    }
    if !theirs.found.as_ref().is_some_and(|f| f.standby) {
        return Err(Obstacle::SecondPrimary { member });
    }
    if theirs.fresh_copy && matches!(theirs.server, Server::Down { .. }) {
        // A copy that no server has recovered: its source may have been a later primary than the one here. It starts by itself soon.
        return Err(Obstacle::EndUnknown { member });
    }
    let pledge = theirs.pledge.as_ref().filter(|p| Some(p.term) == pledged);
    let exact = pledge.and_then(|p| p.position).or_else(|| {
        let down = pledged.is_none() && matches!(theirs.server, Server::Down { .. });
        theirs.rest.as_ref().filter(|_| down).map(|r| r.position)
    });
    if let Some(position) = exact {
        let theirs = position.to_string();
        return if adoption::holds(found, position) {
            Ok(())
        } else {
            Err(Obstacle::HoldsMore { member, theirs })
        };
    }
    match &peer.server {
        // Before the claim the server's own word is enough to try.
        Some(ServerView::Standby {
            receive,
            replay,
            timeline: Some(timeline),
            ..
        }) if pledged.is_none() => {
            let held = (*receive).max(*replay).unwrap_or_default();
            within(member, found, *timeline, held)
        }
        _ => Err(Obstacle::EndUnknown { member }),
    }
}

fn judge_plain(
    member: &MemberName,
    server: &FoundServer,
    guard: &Status,
    found: &FoundData,
) -> Result<(), Obstacle> {
    let member = member.clone();
    match &server.answer {
        ServerAnswer::ReadWrite { system_identifier }
        | ServerAnswer::Standby {
            system_identifier, ..
        } if Some(*system_identifier) != guard.system_identifier => {
            let system_identifier = *system_identifier;
            Err(Obstacle::Foreign {
                member,
                system_identifier,
            })
        }
        ServerAnswer::ReadWrite { .. } => Err(Obstacle::TakesWrites { member }),
        ServerAnswer::Standby {
            timeline,
            held: Some(held),
            ..
        } => within(member, found, *timeline, *held),
        ServerAnswer::Standby { held: None, .. } => Err(Obstacle::EndUnknown { member }),
        ServerAnswer::Silent { why } => Err(Obstacle::Silent {
            member,
            why: why.clone(),
            scaled_down: server.replicas == 0,
        }),
    }
}

fn within(member: MemberName, found: &FoundData, timeline: Timeline, held: Lsn) -> Result<(), Obstacle> {
    if adoption::holds_up_to(found, timeline, held) {
        Ok(())
    } else {
        let theirs = format!("{held} on timeline {timeline}");
        Err(Obstacle::HoldsMore { member, theirs })
    }
}
