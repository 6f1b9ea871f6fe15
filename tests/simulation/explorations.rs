//! The real core to a depth: every placement of so many deviations (`deviations.rs`) in a cluster that goes its way evenly.
//! docs/safety.md has the bounds, how much that was, and how long it took.

use pgbaton::core::record::Durability;

use crate::deviations::{Deviation, every, every_asynchronous, main_ones, read};
use crate::explore::{Base, Bounds, explore, replay};
use crate::faults::Fault;

const THREE: Base = Base {
    members: 3,
    durability: Durability::Sync,
    k: 1,
};
const TWO: Base = Base { members: 2, ..THREE };
const ASYNCHRONOUS: Base = Base {
    durability: Durability::Async,
    ..THREE
};

fn primary(base: Base) -> usize {
    base.world().primary().unwrap()
}

/// One deviation of any kind.
fn one(base: Base, window: u64) -> Bounds {
    Bounds {
        base,
        window,
        first: match base.durability {
            Durability::Sync => every(base.members),
            Durability::Async => every_asynchronous(base.members),
        },
        within: (0, 0),
        then: Vec::new(),
        depth: 1,
    }
}

/// A takeover that begins with this, and another of the main deviations in it.
fn in_a_takeover(base: Base, begins: Fault, within: (u64, u64)) -> Bounds {
    Bounds {
        base,
        window: 0,
        first: vec![Deviation::Fault(begins)],
        within,
        then: main_ones(base.members),
        depth: 2,
    }
}

/// The moments in which a takeover is done: at once after a death or an order, after the silence of a frozen leader.
fn takeovers(name: &str, base: Base) {
    let primary = primary(base);
    for (begins, within) in [
        (Fault::KillServer(primary), (0, 500)),
        (Fault::KillPod(primary, 400), (0, 500)),
        (Fault::Switchover(None), (0, 500)),
        (Fault::FreezePod(primary, 6_000), (1_450, 1_950)),
    ] {
        let name = format!("{name}, {begins:?}");
        explore(&name, in_a_takeover(base, begins, within));
    }
}

#[test]
fn one_deviation_of_three_members() {
    explore("one_deviation_of_three_members", one(THREE, 80));
}

#[test]
fn one_deviation_of_two_members() {
    explore("one_deviation_of_two_members", one(TWO, 60));
    explore("one_deviation, asynchronous", one(ASYNCHRONOUS, 30));
}

#[test]
fn a_second_deviation_in_a_takeover_of_three_members() {
    takeovers("a_second_deviation_in_a_takeover_of_three_members", THREE);
}

#[test]
fn a_second_deviation_in_a_takeover_of_two_members() {
    takeovers("a_second_deviation_in_a_takeover_of_two_members", TWO);
}

#[test]
#[ignore = "long: make model"]
fn one_deviation_at_any_moment_of_a_second() {
    for base in [THREE, TWO, ASYNCHRONOUS] {
        explore("one_deviation_at_any_moment_of_a_second", one(base, 500));
    }
}

/// Of all kinds.
#[test]
#[ignore = "long: make model"]
fn any_second_deviation_in_a_takeover() {
    let primary = primary(THREE);
    for (begins, within) in [
        (Fault::KillServer(primary), (0, 700)),
        (Fault::FreezePod(primary, 6_000), (1_450, 2_000)),
        (Fault::Switchover(None), (0, 500)),
        (Fault::CutApi(primary, 7_000), (0, 400)),
    ] {
        let bounds = Bounds {
            then: every(3),
            ..in_a_takeover(THREE, begins, within)
        };
        explore("any_second_deviation_in_a_takeover", bounds);
    }
}

#[test]
#[ignore = "long: make model"]
fn a_second_deviation_in_an_asynchronous_takeover() {
    takeovers("a_second_deviation_in_an_asynchronous_takeover", ASYNCHRONOUS);
}

#[test]
#[ignore = "long: make model"]
fn three_deviations_close_together() {
    let primary = primary(THREE);
    for begins in [Fault::KillServer(primary), Fault::Switchover(None)] {
        let bounds = Bounds {
            depth: 3,
            ..in_a_takeover(THREE, begins, (0, 40))
        };
        explore("three_deviations_close_together", bounds);
    }
}

/// Placements that once broke something, each with what it was.
#[test]
fn found_placements_stay_well() {
    for line in include_str!("explored.txt")
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let (placement, _) = line.split_once('#').unwrap();
        let (base, placed) = placement.split_once(':').unwrap();
        let base = Base::read(base);
        replay(base, &read(placed.trim(), base.members)).unwrap_or_else(|story| panic!("{line}\n{story}"));
    }
}

#[test]
fn a_placement_is_read_as_it_was_written() {
    let text = "12 KillServer(0); 340 Lost; 345 Late(60); 900 CutOneWay(1, 2, 4000)";
    assert_eq!(crate::deviations::written(&read(text, 3)), text);
}
