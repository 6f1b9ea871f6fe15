//! Deviations from the way that things go when nothing is by chance: one fault, or the next message lost, or late.

use std::fmt;

use crate::faults::Fault;
use crate::sidecar::Input;
use crate::touches;
use crate::world::{Event, World};

/// So long a deviation that has no length of its own is given to show itself: a swap's sender waits a second for its answer.
const SHOWS_ITSELF: u64 = 1_500;

#[derive(Debug, Clone)]
pub enum Deviation {
    Fault(Fault),
    /// The message that comes next never arrives.
    Lost,
    /// What is under way and comes next comes so many ms later.
    Late(u64),
}

/// A deviation after so many things since the beginning.
#[derive(Debug, Clone)]
pub struct Placed {
    pub after: u64,
    pub deviation: Deviation,
}

impl fmt::Display for Deviation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => write!(f, "{fault:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// As it is read again: `12 KillServer(0); 340 Lost`.
pub fn written(placed: &[Placed]) -> String {
    let each: Vec<String> = placed
        .iter()
        .map(|p| format!("{} {}", p.after, p.deviation))
        .collect();
    each.join("; ")
}

/// Reads what `written` wrote; each deviation is one of `every`.
pub fn read(text: &str, members: usize) -> Vec<Placed> {
    let known = every(members);
    let one = |part: &str| {
        let (after, name) = part.trim().split_once(' ').unwrap();
        let found = known.iter().find(|d| d.to_string() == name);
        Placed {
            after: after.parse().unwrap(),
            deviation: found.unwrap_or_else(|| panic!("no deviation '{name}'")).clone(),
        }
    };
    text.split(';').map(one).collect()
}

fn faults(all: impl IntoIterator<Item = Fault>) -> Vec<Deviation> {
    all.into_iter().map(Deviation::Fault).collect()
}

/// The next message.
fn of_messages() -> Vec<Deviation> {
    vec![Deviation::Lost, Deviation::Late(60), Deviation::Late(2_500)]
}

fn pairs(members: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..members).flat_map(move |a| (0..members).map(move |b| (a, b)))
}

/// All kinds but those that asynchronous durability promises nothing for: a node that stands still with its clocks does not know that its
/// permit has ended.
pub fn every_asynchronous(members: usize) -> Vec<Deviation> {
    let suspends = |d: &Deviation| matches!(d, Deviation::Fault(Fault::Suspend(..)));
    every(members).into_iter().filter(|d| !suspends(d)).collect()
}

/// All kinds, each at each member.
pub fn every(members: usize) -> Vec<Deviation> {
    let of_member = |m: usize| {
        [
            Fault::KillServer(m),
            Fault::KillPod(m, 400),
            Fault::KillPod(m, 4_000),
            Fault::PowerLoss(m, 400),
            Fault::DeletePod(m, 500),
            Fault::LoseStandby(m, 500),
            Fault::KillSidecar(m, 500),
            Fault::KillSidecar(m, 6_000),
            Fault::RestartGuard(m),
            Fault::GuardAway(m, 2_500),
            Fault::HangServer(m, 4_000),
            Fault::StallDisk(m, 4_000),
            Fault::FillVolume(m, 4_000),
            Fault::SlowStandby(m, 4_000),
            Fault::FreezePod(m, 2_000),
            Fault::FreezePod(m, 6_000),
            Fault::Suspend(m, 6_000),
            Fault::CutApi(m, 2_000),
            Fault::CutApi(m, 7_000),
            Fault::LagWatch(m, 4_000),
        ]
    };
    let mut all = faults((0..members).flat_map(of_member));
    all.extend(faults(
        pairs(members)
            .filter(|(a, b)| a < b)
            .map(|(a, b)| Fault::CutPeers(a, b, 4_000)),
    ));
    all.extend(faults(
        pairs(members)
            .filter(|(a, b)| a != b)
            .map(|(a, b)| Fault::CutOneWay(a, b, 4_000)),
    ));
    all.extend(faults([
        Fault::ApiDown(7_000),
        Fault::EmptyLease,
        Fault::Switchover(None),
    ]));
    all.extend(faults((0..members).map(|m| Fault::Switchover(Some(m)))));
    all.extend(of_messages());
    all
}

/// What ends processes, stops them or cuts them off, of every member: one length of each.
pub fn main_ones(members: usize) -> Vec<Deviation> {
    let of_member = |m: usize| {
        [
            Fault::KillServer(m),
            Fault::KillPod(m, 400),
            Fault::KillSidecar(m, 500),
            Fault::FreezePod(m, 2_000),
            Fault::CutApi(m, 7_000),
        ]
    };
    let mut some = faults((0..members).flat_map(of_member));
    some.extend(faults([Fault::Switchover(None)]));
    some.extend(of_messages());
    some
}

impl Fault {
    /// What it changes. What looks at nothing of this happens alike before and after it.
    fn touches(&self, members: usize) -> u64 {
        match self {
            Self::CutPeers(a, b, _) => touches::link(*a, *b) | touches::link(*b, *a),
            Self::CutOneWay(from, to, _) => touches::link(*from, *to),
            Self::CutApi(m, _) | Self::LagWatch(m, _) => touches::api(*m),
            Self::ApiDown(_) => (0..members).map(touches::api).fold(0, |all, one| all | one),
            Self::EmptyLease | Self::Switchover(_) => touches::LEASE,
            Self::KillServer(m)
            | Self::KillPod(m, _)
            | Self::PowerLoss(m, _)
            | Self::DeletePod(m, _)
            | Self::KillSidecar(m, _)
            | Self::RestartGuard(m)
            | Self::GuardAway(m, _)
            | Self::HangServer(m, _)
            | Self::StallDisk(m, _)
            | Self::FillVolume(m, _)
            | Self::SlowStandby(m, _)
            | Self::FreezePod(m, _)
            | Self::Suspend(m, _)
            | Self::LoseStandby(m, _) => touches::member(*m),
            _ => u64::MAX,
        }
    }

    /// How long it lasts.
    fn lasts(&self) -> u64 {
        match self {
            Self::KillPod(_, t)
            | Self::PowerLoss(_, t)
            | Self::KillSidecar(_, t)
            | Self::GuardAway(_, t)
            | Self::HangServer(_, t)
            | Self::StallDisk(_, t)
            | Self::FillVolume(_, t)
            | Self::SlowStandby(_, t)
            | Self::FreezePod(_, t)
            | Self::Suspend(_, t)
            | Self::CutApi(_, t)
            | Self::LagWatch(_, t)
            | Self::CutPeers(_, _, t)
            | Self::CutOneWay(_, _, t)
            | Self::LoseStandby(_, t)
            | Self::ApiDown(t) => *t,
            _ => 0,
        }
    }

    /// It would change something now.
    fn changes(&self, world: &World) -> bool {
        let now = world.now;
        let machine = |m: &usize| &world.machines[*m];
        let container = |m: &usize| machine(m).up && !machine(m).stopping;
        match self {
            Self::KillServer(m) => machine(m).is_live(now) && !machine(m).is_down(),
            Self::KillPod(m, _) | Self::PowerLoss(m, _) => machine(m).up || world.sidecars[*m].up,
            Self::KillSidecar(m, _) => world.sidecars[*m].up && !machine(m).stopping,
            Self::DeletePod(m, _) | Self::RestartGuard(m) | Self::GuardAway(m, _) => container(m),
            Self::HangServer(m, _) => !machine(m).is_down() && now >= machine(m).hung_until,
            Self::StallDisk(m, _) => machine(m).up && now >= machine(m).stalled_until,
            Self::FillVolume(m, _) => machine(m).up && now >= machine(m).full_until,
            Self::SlowStandby(m, _) => machine(m).stream.is_some() && now >= machine(m).slow_until,
            Self::FreezePod(m, _) | Self::Suspend(m, _) => machine(m).up && now >= machine(m).frozen_until,
            Self::LoseStandby(m, _) => world.primary() != Some(*m) && world.wants_for_whole().is_none(),
            Self::CutApi(m, _) => now >= world.api_cuts[*m],
            Self::LagWatch(m, _) => now >= world.api.lags_until[*m],
            Self::CutPeers(a, b, _) => now >= world.cuts[*a][*b].min(world.cuts[*b][*a]),
            Self::CutOneWay(from, to, _) => now >= world.cuts[*from][*to],
            Self::ApiDown(_) => now >= world.api.down_until,
            Self::Switchover(_) => world.api.lease().is_some_and(|l| l.order.is_none()),
            Self::EmptyLease => world.api.record().is_some(),
            _ => true,
        }
    }
}

impl Event {
    /// It can be lost alone: no connection tells of it.
    fn can_be_lost(&self) -> bool {
        match self {
            Self::Asked(_) | Self::Swap(_) | Self::Reply(_) => true,
            Self::ToSidecar(_, _, input) => matches!(**input, Input::Peer(..)),
            _ => false,
        }
    }

    fn can_be_late(&self) -> bool {
        !matches!(self, Self::GivesUp(_) | Self::PodBack(..) | Self::SidecarBack(_))
    }
}

impl Deviation {
    /// What it changes; none: it is of the next message, so of each one.
    pub fn touches(&self, members: usize) -> Option<u64> {
        match self {
            Self::Fault(fault) => Some(fault.touches(members)),
            Self::Lost | Self::Late(_) => None,
        }
    }

    /// It would change something now.
    pub fn changes(&self, world: &mut World) -> bool {
        match self {
            Self::Fault(fault) => fault.changes(world),
            Self::Lost => world.coming().is_some_and(Event::can_be_lost),
            Self::Late(_) => world.coming().is_some_and(Event::can_be_late),
        }
    }

    /// How long it lasts at least.
    pub fn lasts(&self) -> u64 {
        match self {
            Self::Fault(fault) => fault.lasts().max(SHOWS_ITSELF),
            Self::Lost => SHOWS_ITSELF,
            Self::Late(millis) => SHOWS_ITSELF + millis,
        }
    }

    pub fn happen(&self, world: &mut World) {
        match self {
            Self::Fault(fault) => world.fault(fault),
            Self::Lost => {
                if let Some(event) = world.queue.take() {
                    say!(world, "** is lost: {event:.200?}");
                }
            }
            Self::Late(millis) => {
                let at = world.queue.next().unwrap_or(world.now);
                if let Some(event) = world.queue.take() {
                    say!(world, "** comes {millis} ms late: {event:.200?}");
                    world.at(at + millis, event);
                }
            }
        }
    }
}
