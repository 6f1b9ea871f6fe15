//! Looks for servers that no guard holds: the original manifest applied again, a server started by hand elsewhere. None of them
//! is ever followed or counted; people are told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::{mpsc, watch};

use super::brain::{Input, record_of};
use super::hands::send;
use super::settings::SidecarSettings;
use super::sight::Sight;
use crate::core::decide::PEER_FRESH;
use crate::core::observe::{LeaseView, Observation};
use crate::core::record::Member;
use crate::core::types::{Address, MemberName, Millis, SystemId};
use crate::postgres::remote::{Identified, Identity, identify};
use crate::postgres::{Credentials, ServerAt};

/// Between two looks at the same place.
const EVERY: Duration = Duration::from_millis(500);
/// Longest time for one look.
const LOOK: Duration = Duration::from_millis(800);

/// What is wrong with a server, in the order of harm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unheld {
    /// It takes writes with this cluster's data: a second history begins there.
    Primary,
    /// It takes writes with other data: empty and initialised anew, or of another cluster.
    Foreign,
    /// A standby of this cluster, started without a guard.
    Standby,
}

impl Unheld {
    /// It does: there are two primaries.
    #[must_use]
    pub const fn takes_writes(self) -> bool {
        matches!(self, Self::Primary | Self::Foreign)
    }
}

/// A server that no guard holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unguarded {
    /// What it is.
    pub what: Unheld,
    /// Where, and what to do.
    pub text: String,
}

/// Whom to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Suspects {
    /// The cluster; none: nothing to look for.
    pub cluster: Option<SystemId>,
    /// Members whose sidecar does not answer, or answers without a guard, and where their server should be.
    pub whom: BTreeMap<MemberName, Address>,
    /// Addresses of members that are none of them. A pod's address is given to another pod some time after it has ended.
    pub taken: BTreeSet<String>,
}

/// The leader, and everybody while there is none, looks at recorded members that may run without a guard. Never at the recorded
/// primary: it may write, whoever else is out of sight.
#[must_use]
pub fn suspects(settings: &SidecarSettings, seen: &Observation, sight: &Sight) -> Suspects {
    let (LeaseView::Seen(lease), Some(record)) = (&seen.lease, record_of(&seen.lease)) else {
        return Suspects::default();
    };
    let leads = lease.holder.as_ref() == Some(&settings.core.holder);
    let led = lease.holder.is_some() && lease.unchanged_for <= lease.duration;
    if led && !leads {
        return Suspects::default();
    }
    let primary = record.primary.as_ref().map(|p| &p.member);
    let answers = |member: &MemberName| {
        let fresh = |asked_at: Millis| seen.now.since(asked_at) <= PEER_FRESH;
        let guarded = seen
            .peers
            .get(member)
            .is_some_and(|p| fresh(p.asked_at) && p.value.guard.is_some());
        guarded && !sight.peer_trouble.contains_key(member)
    };
    let is_suspect =
        |m: &Member| m.member != settings.core.me && Some(&m.member) != primary && !answers(&m.member);
    let (whom, others): (Vec<&Member>, Vec<&Member>) = record.members.iter().partition(|m| is_suspect(m));
    let mut taken: BTreeSet<String> = others.into_iter().map(|m| m.address.ip.clone()).collect();
    // This pod may be newer than its address in the record.
    taken.insert(settings.core.address.ip.clone());
    Suspects {
        cluster: record.system_identifier,
        whom: whom
            .into_iter()
            .map(|m| (m.member.clone(), m.address.clone()))
            .collect(),
        taken,
    }
}

/// Where one look goes.
type Place = (MemberName, String);

/// Looks until the loop is gone, and tells what is found whenever it is another thing than before.
pub async fn look(superuser: Credentials, mut plan: watch::Receiver<Suspects>, inputs: mpsc::Sender<Input>) {
    let mut told: Vec<Unguarded> = Vec::new();
    let mut found: BTreeMap<Place, (Unheld, ServerAt)> = BTreeMap::new();
    loop {
        let wanted = plan.borrow_and_update().clone();
        let places = places(&wanted);
        found.retain(|known, _| places.iter().any(|(place, _)| place == known));
        let mut looks: FuturesUnordered<_> = places
            .into_iter()
            .map(|(place, at)| look_at(&superuser, wanted.cluster, place, at, Duration::ZERO))
            .collect();
        loop {
            let now = texts(&found);
            if now != told {
                told.clone_from(&now);
                send(&inputs, Input::Unguarded(now)).await;
            }
            // Each place by itself: a dead address takes its whole bound each time, and must not hold up what is found elsewhere.
            tokio::select! {
                changed = plan.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some((place, at, what)) = looks.next() => {
                    match what {
                        Some(what) => found.insert(place.clone(), (what, at.clone())),
                        None => found.remove(&place),
                    };
                    looks.push(look_at(&superuser, wanted.cluster, place, at, EVERY));
                }
            }
        }
    }
}

/// Where each member was last, and where its headless Service leads: a new pod has another address.
fn places(wanted: &Suspects) -> Vec<(Place, ServerAt)> {
    let both = wanted.whom.iter().flat_map(|(member, address)| {
        [address.ip.clone(), member.to_string()].map(|host| {
            let at = ServerAt {
                host: host.clone(),
                port: address.postgres_port,
            };
            ((member.clone(), host), at)
        })
    });
    both.filter(|((_, host), _)| wanted.cluster.is_some() && !wanted.taken.contains(host))
        .collect()
}

async fn look_at(
    superuser: &Credentials,
    cluster: Option<SystemId>,
    place: Place,
    at: ServerAt,
    after: Duration,
) -> (Place, ServerAt, Option<Unheld>) {
    tokio::time::sleep(after).await;
    let what = match identify(&at, superuser, LOOK).await {
        Identity::Server(found) => cluster.and_then(|cluster| judge(cluster, found, is_by_name(&place))),
        Identity::Unknown { .. } => None,
    };
    (place, at, what)
}

/// One for each member, the worst.
fn texts(found: &BTreeMap<Place, (Unheld, ServerAt)>) -> Vec<Unguarded> {
    let mut worst: BTreeMap<&MemberName, (Unheld, &ServerAt)> = BTreeMap::new();
    for ((member, _), (what, at)) in found {
        let known = worst.entry(member).or_insert((*what, at));
        if *what < known.0 {
            *known = (*what, at);
        }
    }
    let told = worst.iter().map(|(member, (what, at))| Unguarded {
        what: *what,
        text: words(*what, member, at),
    });
    told.collect()
}

/// By the member's own Service, not at the address that its pod had last.
fn is_by_name((member, host): &Place) -> bool {
    member.as_str() == host
}

/// A member that is not heard may be a guarded one whose sidecar restarts: then only that it takes writes is news. At an old address there
/// may be anybody by now: what has other data there is none of ours, and so is what another cluster's guard holds.
fn judge(cluster: SystemId, found: Identified, by_name: bool) -> Option<Unheld> {
    let ours = found.system_identifier == cluster;
    match (found.in_recovery, ours) {
        (false, true) => Some(Unheld::Primary),
        (false, false) if by_name && !found.guarded => Some(Unheld::Foreign),
        (true, true) if !found.guarded => Some(Unheld::Standby),
        _ => None,
    }
}

fn words(what: Unheld, member: &MemberName, at: &ServerAt) -> String {
    let what = match what {
        Unheld::Primary => format!(
            "a read-write server of this cluster answers at {at} ({member}), and no guard holds it: it is neither followed nor \
             counted, and what is written there will be lost"
        ),
        Unheld::Foreign => format!(
            "a read-write server with another cluster's data answers at {at} ({member}), and no guard holds it: it has nothing \
             of this cluster, and whoever writes there does not write here"
        ),
        Unheld::Standby => format!(
            "a standby of this cluster answers at {at} ({member}) and runs without a guard: it is neither counted nor taken for \
             a successor, and nothing keeps it from being promoted by hand"
        ),
    };
    format!("{what}; stop it, and apply {member}'s StatefulSet with guard and sidecar (deploy/)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::protocol::Server;
    use crate::runtime::fixtures::{NOW, heard, lease, name, record, seen, settings, standby};

    fn whom(number: u8, view: &Observation, sight: &Sight) -> Vec<MemberName> {
        let plan = suspects(&settings(number), view, sight);
        plan.whom.into_keys().collect()
    }

    #[test]
    fn a_server_is_judged_by_its_data_its_writes_and_its_configuration() {
        let ours = SystemId(7);
        let judged = |id: u64, in_recovery: bool, guarded: bool, by_name: bool| {
            let found = Identified {
                system_identifier: SystemId(id),
                in_recovery,
                guarded,
            };
            judge(ours, found, by_name)
        };
        for by_name in [false, true] {
            // Whoever started it: only one member may take writes, and this one is not it.
            assert_eq!(judged(7, false, false, by_name), Some(Unheld::Primary));
            assert_eq!(judged(7, false, true, by_name), Some(Unheld::Primary));
            assert_eq!(judged(7, true, false, by_name), Some(Unheld::Standby));
            assert_eq!(judged(7, true, true, by_name), None, "its sidecar restarts");
            assert_eq!(judged(8, true, false, by_name), None, "a standby does no harm");
            assert_eq!(judged(8, false, true, by_name), None, "another cluster's primary");
        }
        assert_eq!(judged(8, false, false, true), Some(Unheld::Foreign));
        assert_eq!(
            judged(8, false, false, false),
            None,
            "somebody else has the address now"
        );
    }

    #[test]
    fn an_address_that_another_member_has_now_is_not_looked_at() {
        let mut moved = record(3);
        moved.members[2].address.ip = moved.members[0].address.ip.clone();
        let view = seen(1, Server::Primary, lease(moved));
        let plan = suspects(&settings(1), &view, &Sight::new());
        assert_eq!(plan.whom.len(), 2);
        let hosts: Vec<String> = places(&plan).into_iter().map(|((_, host), _)| host).collect();
        let old = record(3).members[1].address.ip.clone();
        assert_eq!(hosts, [old, name(2).to_string(), name(3).to_string()]);
    }

    #[test]
    fn members_that_may_be_without_a_guard_are_looked_at_by_the_leader() {
        let mut view = seen(1, Server::Primary, lease(record(3)));
        let mut sight = Sight::new();
        assert_eq!(whom(1, &view, &sight), [name(2), name(3)], "never heard");
        view.peers.insert(name(2), heard(standby(2)));
        view.peers.insert(name(3), heard(standby(3)));
        assert!(whom(1, &view, &sight).is_empty());
        sight.peer_trouble.insert(name(2), "refused".into());
        assert_eq!(whom(1, &view, &sight), [name(2)]);
        sight.peer_trouble.clear();
        let mut bare = standby(3);
        bare.guard = None;
        view.peers.insert(name(3), heard(bare));
        assert_eq!(whom(1, &view, &sight), [name(3)]);
        view.now = NOW.plus(Millis(1_501));
        assert_eq!(whom(1, &view, &sight), [name(2), name(3)], "silent");
    }

    #[test]
    fn a_standby_looks_only_while_nobody_leads_and_never_at_the_recorded_primary() {
        let sight = Sight::new();
        let mut view = seen(2, Server::Standby, lease(record(3)));
        assert!(whom(2, &view, &sight).is_empty());
        let LeaseView::Seen(lease) = &mut view.lease else {
            unreachable!("seen")
        };
        lease.unchanged_for = Millis(10_001);
        assert_eq!(whom(2, &view, &sight), [name(3)]);
    }
}
