//! The runs: the rules hold within bounds, and without any one of them the checker finds what breaks.

use std::num::NonZeroUsize;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::model::Protocol;
use crate::rules::{Bounds, Faults, Without};
use crate::truth::Seen;

fn protocol(bounds: Bounds, faults: Faults, without: Without) -> Protocol {
    Protocol {
        bounds,
        faults,
        without,
        symmetric: without == Without::default(),
        counts: Default::default(),
    }
}

/// Runs until no state is left; prints what it went through.
fn exhaust(name: &str, bounds: Bounds, faults: Faults) {
    let began = Instant::now();
    let protocol = protocol(bounds, faults, Without::default());
    let counts = protocol.counts.clone();
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let checker = protocol.checker().threads(threads).spawn_bfs().join();
    println!(
        "{name}: {bounds:?} {faults:?}: {} states, {} different, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed().as_secs_f64()
    );
    for what in Seen::ALL {
        let count = counts[what as usize].load(std::sync::atomic::Ordering::Relaxed);
        println!("  {what:?}: {count} times");
    }
    checker.assert_properties();
}

#[test]
fn two_members() {
    let bounds = Bounds {
        members: 2,
        terms: 3,
        faults: 3,
        writes: 2,
        changes: 2,
        k: 1,
    };
    exhaust("two members", bounds, Faults::ALL);
}

fn env(name: &str, or: u8) -> u8 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(or)
}

#[test]
#[ignore = "tuning"]
fn tuning() {
    let bounds = Bounds {
        members: usize::from(env("M", 3)),
        terms: env("T", 3),
        faults: env("F", 1),
        writes: env("W", 1),
        changes: env("C", 1),
        k: u16::from(env("K", 1)),
    };
    let faults = Faults {
        lost_volume: env("LOST", 1) > 0,
        late_swap: env("LATE", 1) > 0,
        forgetful: env("FORGET", 1) > 0,
    };
    exhaust("tuning", bounds, faults);
}

/// The shortest way to something broken that is found; none: nothing was.
fn counterexample(without: Without, bounds: Bounds, faults: Faults) -> Option<(String, Vec<String>, usize)> {
    let protocol = protocol(bounds, faults, without);
    let always: Vec<&'static str> = protocol
        .properties()
        .into_iter()
        .filter(|p| p.expectation == Expectation::Always)
        .map(|p| p.name)
        .collect();
    let checker = protocol
        .checker()
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found = always.into_iter().find_map(|name| Some((name, checker.discovery(name)?)));
    found.map(|(name, path)| {
        let steps = path.into_actions().iter().map(|a| format!("{a:?}")).collect();
        (name.to_owned(), steps, checker.unique_state_count())
    })
}

#[test]
fn without_any_one_rule_something_breaks() {
    let mut missed = Vec::new();
    for (name, text, without) in Without::each() {
        let bounds = Bounds {
            members: 3,
            terms: 3,
            faults: 2,
            writes: 2,
            changes: 1,
            k: 1,
        };
        let began = Instant::now();
        match counterexample(without, bounds, Faults::ALL) {
            Some((property, steps, states)) => {
                println!(
                    "{name} ({text}): not '{property}' in {} steps, {states} states, {:.1} s: {}",
                    steps.len(),
                    began.elapsed().as_secs_f64(),
                    steps.join(" ")
                );
            }
            None => missed.push(name),
        }
    }
    assert!(missed.is_empty(), "nothing breaks without {missed:?}");
}
