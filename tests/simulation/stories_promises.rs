//! Stories of a leader that cannot reach the API server: it stays by the promises of the others, or loses its permit.

use pgbaton::core::observe::Promised;
use pgbaton::core::record::Durability;
use pgbaton::core::types::{DataId, Millis, Term};

use crate::faults::Fault::{ApiDown, CutApi, CutPeers, FreezePod, KillPod, KillServer, KillSidecar};
use crate::stories::running;
use crate::world::{Plan, World};

const SOON: u64 = 60_000;
/// Longer than the world's permits (4 s) and its Lease (5 s) last.
const LONG: u64 = 30_000;

fn asynchronous() -> World {
    let mut world = World::running(Plan {
        durability: Durability::Async,
        ..Plan::default()
    });
    world.run(1_000);
    world
}

/// m1 takes writes all the time, and commits are acknowledged to the end.
fn stays(world: &mut World, millis: u64) {
    let (until, promotions) = (world.now + millis, world.checks.promotions);
    while world.now < until {
        let acks = world.checks.acks;
        world.run(1_000);
        assert_eq!(world.primary(), Some(0), "{}", world.tell());
        assert!(
            world.checks.acks > acks,
            "nothing was acknowledged:\n{}",
            world.tell()
        );
    }
    assert_eq!(world.checks.promotions, promotions);
}

#[test]
fn without_an_api_server_the_leader_stays() {
    for mut world in [running(), asynchronous()] {
        world.fault(&ApiDown(LONG));
        stays(&mut world, LONG + 2_000);
        world.until_whole(SOON);
    }
}

#[test]
fn a_leader_that_alone_has_no_api_server_stays() {
    for mut world in [running(), asynchronous()] {
        world.fault(&CutApi(0, LONG));
        stays(&mut world, LONG + 2_000);
        world.until_whole(SOON);
    }
}

#[test]
fn k_of_the_set_are_enough_and_none_are_not() {
    let mut world = running();
    world.fault(&ApiDown(LONG));
    world.fault(&CutPeers(0, 1, LONG));
    stays(&mut world, 10_000);
    world.fault(&CutPeers(0, 2, LONG));
    world.run(5_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    // What has ended is not extended: only a swap lets a server run read-write again (invariant 8).
    world.mend_cuts();
    world.run(10_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn two_of_a_set_are_two_promises() {
    let mut world = World::running(Plan {
        sync_standbys: 2,
        ..Plan::default()
    });
    world.run(1_000);
    world.fault(&ApiDown(LONG));
    stays(&mut world, 6_000);
    world.fault(&CutPeers(0, 1, LONG));
    world.run(5_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn in_asynchronous_durability_all_must_promise() {
    let mut world = asynchronous();
    world.fault(&ApiDown(LONG));
    world.fault(&KillPod(2, LONG));
    world.run(5_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn an_empty_set_extends_nothing() {
    let mut world = running();
    for standby in [1, 2] {
        world.fault(&KillPod(standby, LONG * 2));
    }
    world.until("the set is empty", 20_000, |w| {
        w.api
            .record()
            .is_some_and(|r| r.sync_sets.len() == 1 && r.current_set().k == 0)
    });
    world.fault(&ApiDown(LONG));
    world.run(5_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn asynchronous_a_promise_is_waited_out() {
    for delay in (0..6_000).step_by(200) {
        let mut world = asynchronous();
        // m1 lives by promises for a while, then one of them cannot be given any more, and m1 cannot be reached.
        world.fault(&CutApi(0, LONG));
        world.run(6_000 + delay);
        world.fault(&CutPeers(0, 1, LONG));
        let taken = world.until("another one takes the Lease", 20_000, |w| {
            w.api.lease().is_some_and(|l| l.term.0 > 1)
        });
        assert!(taken >= 3_000, "after {taken} ms:\n{}", world.tell());
        world.run(10_000);
        world.heal();
        world.until_whole(120_000);
    }
}

#[test]
fn asynchronous_a_sidecar_that_forgot_its_promise_waits_as_long() {
    for delay in (0..5_000).step_by(200) {
        let mut world = asynchronous();
        world.fault(&CutApi(0, LONG));
        world.run(7_000);
        world.fault(&CutPeers(0, 1, LONG));
        world.fault(&CutPeers(0, 2, LONG));
        world.run(delay);
        world.fault(&KillSidecar(1, 100));
        world.fault(&KillSidecar(2, 100));
        world.run(12_000);
        world.heal();
        world.until_whole(120_000);
    }
}

#[test]
fn the_leader_dies_while_the_api_server_is_away() {
    for fault in [KillServer(0), KillPod(0, 3_000), FreezePod(0, 12_000)] {
        let mut world = running();
        world.fault(&ApiDown(15_000));
        world.run(8_000);
        world.fault(&fault);
        world.run(8_000);
        world.until_whole(120_000);
    }
}

#[test]
fn a_promise_that_is_not_quite_right_extends_nothing() {
    type Spoil = fn(&mut Promised);
    let spoilt: [(&str, Spoil); 4] = [
        ("another term", |p| p.term = Term(p.term.0 - 1)),
        ("another life of the data", |p| {
            p.data_id = DataId::from_random([9; 8]);
        }),
        ("a shorter promise than the permit", |p| p.for_ms = Millis(3_999)),
        ("an old one", |p| p.asked_boot = Millis(0)),
    ];
    let good: Spoil = |_| {};
    for (what, spoil) in std::iter::once(("a good one", good)).chain(spoilt) {
        let mut world = running();
        world.fault(&ApiDown(LONG));
        for other in [1, 2] {
            world.fault(&CutPeers(0, other, LONG));
        }
        let until = world.now + 6_000;
        while world.now < until {
            let record = world.api.record().unwrap();
            let member = record.current_set().standbys.into_iter().next().unwrap();
            let mut promised = Promised {
                term: record.term,
                data_id: member.data_id,
                for_ms: Millis(4_000),
                asked_boot: Millis(world.now),
                asked_at: Millis(world.sidecars[0].live()),
            };
            spoil(&mut promised);
            world.sidecars[0].seen.promises.insert(member.member, promised);
            world.step();
        }
        let stays = what == "a good one";
        assert_eq!(world.primary().is_some(), stays, "{what}:\n{}", world.tell());
    }
}

/// The sidecar stood still over the permit's end; a promise whose heartbeat was sent before that end waits for it (invariant 8).
#[test]
fn a_promise_that_is_heard_after_the_end_of_the_permit_extends_nothing() {
    let mut world = running();
    world.fault(&ApiDown(LONG));
    for other in [1, 2] {
        world.fault(&CutPeers(0, other, LONG));
    }
    // Longer than answers are fresh: a successor that seems to be there would let it step down.
    world.run(2_000);
    let (_, until) = world.machines[0].permit.unwrap();
    world.sidecars[0].stuck_until = until + 60;
    while world.now < until + 40 {
        world.step();
    }
    assert!(world.machines[0].is_down(), "{}", world.tell());
    let record = world.api.record().unwrap();
    for member in record.current_set().standbys {
        let promised = Promised {
            term: record.term,
            data_id: member.data_id,
            for_ms: Millis(4_000),
            asked_boot: Millis(until - 100),
            asked_at: Millis(world.sidecars[0].live()),
        };
        world.sidecars[0].seen.promises.insert(member.member, promised);
    }
    world.run(1_000);
    let basis = world.sidecars[0].state.basis;
    assert!(
        basis.is_none(),
        "what has ended was extended: {basis:?}\n{}",
        world.tell()
    );
    assert_eq!(world.primary(), None);
}
