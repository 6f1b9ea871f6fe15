//! The runs: the rules hold within bounds, and without any one of them the checker finds what breaks.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::model::{COVERED, Protocol};
use crate::rules::{Bounds, Faults, Without};
use crate::truth::Seen;

/// Three members, three terms, three faults: what `make test` goes through.
const THREE: Bounds = Bounds {
    members: 3,
    terms: 3,
    faults: 3,
    writes: 1,
    changes: 1,
    k: 1,
};
/// As above, with two members; small, so with more writes and changes.
const TWO: Bounds = Bounds {
    members: 2,
    writes: 2,
    changes: 2,
    ..THREE
};
/// Sidecars that forget and swaps that come late only take away, or come as others see them late: without them there is room for more.
const LOST_VOLUMES: Faults = Faults {
    late_swap: false,
    forgetful: false,
    ..Faults::ALL
};
const LOST_RECORD: Faults = Faults {
    lost_record: true,
    ..LOST_VOLUMES
};

fn protocol(bounds: Bounds, faults: Faults, without: Without) -> Protocol {
    Protocol {
        bounds,
        faults,
        without,
        // Where something is to be shown, members keep their numbers.
        symmetric: without == Without::default(),
        counts: Default::default(),
    }
}

/// Runs until no state is left; prints what it went through.
fn exhaust(bounds: Bounds, faults: Faults) {
    let began = Instant::now();
    let protocol = protocol(bounds, faults, Without::default());
    let counts = protocol.counts.clone();
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let checker = protocol.checker().threads(threads).spawn_bfs().join();
    println!("{bounds:?} {faults:?}");
    println!(
        "  {} different states of {}, depth {}, {:.1} s",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    let seen = Seen::ALL.map(|what| format!("{what:?} {}", counts[what as usize].load(Ordering::Relaxed)));
    println!("  {}", seen.join(", "));
    checker.assert_properties();
}

#[test]
fn two_members() {
    exhaust(TWO, Faults::ALL);
}

#[test]
fn three_members() {
    exhaust(THREE, Faults::ALL);
}

#[test]
fn three_members_and_a_lost_record() {
    let bounds = Bounds {
        faults: 1,
        changes: 0,
        ..THREE
    };
    exhaust(bounds, LOST_RECORD);
}

#[test]
#[ignore = "long: make model"]
fn more_writes() {
    exhaust(Bounds { writes: 2, ..THREE }, LOST_VOLUMES);
}

#[test]
#[ignore = "long: make model"]
fn more_changes_of_any_k() {
    let bounds = Bounds {
        faults: 2,
        changes: 2,
        k: 0,
        ..THREE
    };
    exhaust(bounds, Faults::ALL);
}

#[test]
#[ignore = "long: make model"]
fn two_standbys_for_each_commit() {
    exhaust(Bounds { k: 2, ..THREE }, Faults::ALL);
}

#[test]
#[ignore = "long: make model"]
fn more_terms() {
    let bounds = Bounds {
        terms: 4,
        faults: 1,
        ..THREE
    };
    exhaust(bounds, LOST_VOLUMES);
}

#[test]
#[ignore = "long: make model"]
fn a_lost_record_while_sets_change() {
    exhaust(Bounds { faults: 1, ..THREE }, LOST_RECORD);
}

/// The shortest way to real harm that is found, not only to a set that does not cover; none: nothing was.
fn counterexample(without: Without, bounds: Bounds, faults: Faults) -> Option<(String, Vec<String>, usize)> {
    let protocol = protocol(bounds, faults, without);
    let harm: Vec<&'static str> = protocol
        .properties()
        .into_iter()
        .filter(|p| p.expectation == Expectation::Always && p.name != COVERED)
        .map(|p| p.name)
        .collect();
    let checker = protocol
        .checker()
        .finish_when(HasDiscoveries::AnyOf(harm.iter().copied().collect()))
        .spawn_bfs()
        .join();
    let found = harm
        .into_iter()
        .find_map(|name| Some((name, checker.discovery(name)?)));
    found.map(|(name, path)| {
        let steps = path.into_actions().iter().map(|a| format!("{a:?}")).collect();
        (name.to_owned(), steps, checker.unique_state_count())
    })
}

#[test]
fn without_any_one_rule_something_breaks() {
    let bounds = Bounds {
        faults: 1,
        k: 0,
        ..THREE
    };
    let mut missed = Vec::new();
    for (name, instead, without) in Without::each() {
        let faults = Faults {
            lost_record: without.heard_before_write_back,
            ..Faults::ALL
        };
        let began = Instant::now();
        let Some((broken, steps, states)) = counterexample(without, bounds, faults) else {
            missed.push(name);
            continue;
        };
        let took = began.elapsed().as_secs_f64();
        println!("without {name} ({instead}): not '{broken}'");
        println!(
            "  {} steps, {states} states, {took:.1} s: {}",
            steps.len(),
            steps.join(" ")
        );
    }
    assert!(missed.is_empty(), "nothing breaks without {missed:?}");
}
