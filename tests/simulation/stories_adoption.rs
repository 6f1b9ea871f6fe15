//! A cluster that was made without pgbaton is adopted in place: the way that is meant, and a death at every step.

use pgbaton::core::adoption::Adoption;
use pgbaton::core::types::{DataId, Timeline};
use pgbaton::core::why::Why;

use crate::faults::Fault::{
    CutApi, CutPeers, DeletePod, FreezePod, KillPod, KillServer, KillSidecar, Lossy, RestartGuard,
};
use crate::machine::Proc;
use crate::wal::{self, Entry};
use crate::world::{Event, Plan, World, name};

const SOON: u64 = 60_000;

pub fn plain(seed: u64) -> World {
    World::plain(Plan {
        seed,
        ..Plan::default()
    })
}

fn ids(world: &World) -> Vec<DataId> {
    let id = |m: &crate::machine::Machine| m.data.as_ref().unwrap().id.clone();
    world.machines.iter().map(id).collect()
}

pub fn why(world: &World, member: usize) -> Option<Why> {
    Some(world.sidecars[member].last.as_ref()?.why.clone())
}

/// The standbys have guards and follow the primary that has none.
pub fn standbys_converted(seed: u64) -> World {
    let mut world = plain(seed);
    for member in [1, 2] {
        world.convert(member, 2_000);
        world.until("it streams from the plain primary", SOON, |w| {
            w.machines[member].stream.is_some_and(|(to, _, _)| to == 0) && w.sidecars[member].up
        });
    }
    world
}

/// As a person does with `pg_ctl promote`.
pub fn promote_by_hand(world: &mut World, member: usize) {
    let id = world.id();
    let machine = &mut world.machines[member];
    machine.proc = Proc::Primary;
    machine.following = None;
    machine.stream = None;
    machine.signal = false;
    machine.data.as_mut().unwrap().wal.push(Entry { timeline: 2, id });
}

#[test]
fn one_pod_after_the_other_the_primarys_last() {
    for seed in 0..20 {
        let mut world = plain(seed);
        let before = ids(&world);
        world.convert(1, 2_000);
        let is_next = |w: &World, member: usize, pod: &str| {
            matches!(why(w, member), Some(Why::Adoption(Adoption::FollowsPlain { primary, next }))
                if primary == name(0) && next.as_deref() == Some(pod))
        };
        world.until("m2 says that m3 is next", SOON, |w| is_next(w, 1, "m3-0"));
        world.convert(2, 2_000);
        world.until("both say that the primary is next", SOON, |w| {
            is_next(w, 1, "m1-0") && is_next(w, 2, "m1-0")
        });
        world.run(10_000);
        assert!(world.machines[0].writes(world.now) && world.machines[0].plain);
        let acks = world.checks.acks;
        assert!(acks > 100, "clients were served all the time: {acks}");
        world.convert(0, 2_000);
        let took = world.until("m1 leads", 15_000, |w| w.primary() == Some(0));
        assert!(took < 8_000, "{took} ms\n{}", world.tell());
        world.until_whole(SOON);
        assert_eq!(ids(&world), before, "nobody was copied:\n{}", world.tell());
        let record = world.api.record().unwrap();
        assert_eq!(record.timeline, Some(Timeline(1)));
        assert!(record.history[0].why.contains("adopted in place"), "{record:?}");
        // And from then on as any other cluster.
        world.run(1_000);
        world.fault(&KillServer(0));
        world.until("a standby leads", 5_000, |w| w.primary().is_some_and(|p| p != 0));
        world.until_whole(SOON);
    }
}

#[test]
fn a_primary_that_crashed_is_adopted_too() {
    for seed in 0..10 {
        let mut world = standbys_converted(seed);
        world.end_plain(0, false);
        world.at(world.now + 1_000, Event::PodBack(0, true, false));
        world.until("m1 leads", 20_000, |w| w.primary() == Some(0));
        world.until_whole(SOON);
    }
}

#[test]
fn the_primary_first_and_standbys_that_come_later() {
    let mut world = plain(1);
    world.convert(0, 2_000);
    world.until("m1 leads", 20_000, |w| w.primary() == Some(0));
    world.run(5_000);
    assert!(
        world.machines[1].stream.is_some() && world.machines[2].stream.is_some(),
        "{}",
        world.tell()
    );
    let record = world.api.record().unwrap();
    assert!(
        record.members.len() == 1 && record.current_set().k == 0,
        "not counted"
    );
    let before = ids(&world);
    world.convert(2, 1_000);
    world.run(5_000);
    world.convert(1, 1_000);
    world.until_whole(SOON);
    assert_eq!(ids(&world), before);
}

#[test]
fn a_primary_that_was_promoted_by_hand_before_is_the_one_that_is_followed() {
    let mut world = plain(1);
    // The tutorial's failover: m2 promoted, m1's data lost, m3 follows m2; env says nothing of it.
    world.end_plain(0, false);
    let log = world.machines[0].data.as_ref().unwrap().wal.clone();
    for member in [1, 2] {
        world.machines[member].data.as_mut().unwrap().wal = log.clone();
    }
    promote_by_hand(&mut world, 1);
    world.machines[2].following = Some(name(1));
    world.run(2_000);
    let log = world.machines[1].data.as_ref().unwrap().wal.clone();
    world.machines[0].data.as_mut().unwrap().wal = log;
    world.machines[0].signal = true;
    world.machines[0].up = true;
    for member in [0, 2] {
        world.convert(member, 1_000);
        world.until("it streams from m2", SOON, |w| {
            w.machines[member].stream.is_some_and(|(to, _, _)| to == 1) && w.sidecars[member].up
        });
    }
    world.convert(1, 1_000);
    world.until("m2 leads", 20_000, |w| w.primary() == Some(1));
    world.until_whole(SOON);
    assert_eq!(world.api.record().unwrap().timeline, Some(Timeline(2)));
}

#[test]
fn data_of_before_that_holds_more_than_the_primary_is_copied() {
    let mut world = plain(1);
    world.convert(1, 1_000);
    world.convert(0, 1_000);
    world.until("m1 leads", 20_000, |w| w.primary() == Some(0));
    world.until("m2 is in the set", SOON, |w| {
        w.api.record().is_some_and(|r| r.current_set().k == 1)
    });
    // m3's data comes back with WAL that nobody else ever had.
    world.end_plain(2, false);
    let more: Vec<Entry> = (0..5_000)
        .map(|id| Entry {
            timeline: 1,
            id: 9_000_000 + id,
        })
        .collect();
    world.machines[2].data.as_mut().unwrap().wal.extend(more);
    let before = ids(&world);
    world.at(world.now + 500, Event::PodBack(2, true, false));
    // Never as it is: later the primary's WAL would run over where it left, and nobody could tell any more.
    while ids(&world)[2] == before[2] {
        let machine = &world.machines[2];
        assert!(machine.unadopted && machine.is_down(), "{}", world.tell());
        world.step();
    }
    world.until_whole(SOON);
    assert_eq!(ids(&world)[1], before[1]);
}

#[test]
fn a_death_at_any_moment_of_the_adoption_loses_nothing() {
    for delay in (0..7_000).step_by(70) {
        let seed = delay / 70;
        let faults = [
            KillPod(0, 800),
            RestartGuard(0),
            KillSidecar(0, 800),
            DeletePod(0, 500),
            KillPod(1, 800),
            KillSidecar(2, 3_000),
            CutApi(0, 6_000),
            CutPeers(0, 1, 6_000),
            Lossy(70, 6_000),
            FreezePod(0, 3_000),
        ];
        let fault = &faults[usize::try_from(seed).unwrap() % faults.len()];
        for fault in [fault, &KillPod(0, 800)] {
            let mut world = standbys_converted(seed);
            world.convert(0, 1_000);
            world.run(900 + delay);
            world.fault(fault);
            world.run(2_000);
            world.heal();
            world.until_whole(120_000);
            assert!(world.checks.acks > 50, "{}", world.tell());
        }
    }
}

#[test]
fn any_order_and_any_faults() {
    for seed in 0..150 {
        let mut world = plain(seed);
        let mut left = vec![0, 1, 2];
        while !left.is_empty() {
            let count = left.len() as u64;
            let member = left.remove(usize::try_from(world.rng.next() % count).unwrap());
            let millis = world.rng.between(200, 4_000);
            if world.rng.percent(30) {
                world.end_plain(member, false);
                world.at(world.now + millis, Event::PodBack(member, true, false));
            } else {
                world.convert(member, millis);
            }
            for _ in 0..world.rng.between(0, 3) {
                world.run(millis / 2);
                let other = usize::try_from(world.rng.next() % 3).unwrap();
                let fault = match world.rng.between(0, 7) {
                    0 => KillPod(other, millis),
                    1 => KillSidecar(other, millis),
                    2 => CutApi(other, millis * 2),
                    3 => CutPeers(other, (other + 1) % 3, millis * 2),
                    4 => Lossy(60, millis * 2),
                    5 => FreezePod(other, millis),
                    _ => RestartGuard(other),
                };
                let of_plain = world.machines[other].plain || !world.machines[other].up;
                if !of_plain || matches!(fault, CutApi(..) | CutPeers(..) | Lossy(..)) {
                    world.fault(&fault);
                }
            }
            let pause = world.rng.between(500, 20_000);
            world.run(pause);
        }
        world.heal();
        world.until_whole(200_000);
        assert!(wal::timeline(&world.machines[0].data.as_ref().unwrap().wal) > 0);
    }
}

#[test]
fn a_plain_pod_of_the_primary_that_comes_back_before_its_guard_is_followed_again() {
    let mut world = standbys_converted(1);
    world.end_plain(0, true);
    world.run(3_000);
    world.run_plain(0);
    world.until("both stream again", SOON, |w| {
        [1, 2]
            .iter()
            .all(|m| w.machines[*m].stream.is_some_and(|(to, _, _)| to == 0))
    });
    world.convert(0, 1_000);
    world.until_whole(SOON);
}
