//! The runs: the rules hold within bounds, and without any one of them the checker finds what breaks.

use std::num::NonZeroUsize;
use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model};

use crate::model::{COVERED, Protocol};
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
fn census() {
    use std::collections::{BTreeMap, HashSet};
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
    let p = protocol(bounds, faults, Without::default());
    let mut seen: HashSet<crate::state::State> = p.init_states().into_iter().collect();
    let mut queue: Vec<_> = seen.iter().copied().collect();
    let mut actions = Vec::new();
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(s) = queue.pop() {
        p.actions(&s, &mut actions);
        for a in actions.drain(..) {
            let name = format!("{a:?}");
            let n = p.next_state(&s, a).unwrap();
            if seen.insert(n) {
                *done.entry(name.split('(').next().unwrap().to_owned()).or_default() += 1;
                queue.push(n);
            }
        }
    }
    println!("{} {done:?} size {}", seen.len(), size_of::<crate::state::State>());
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    let mut add = |k: String| *by.entry(k).or_default() += 1;
    for s in &seen {
        let l = &s.lease;
        add(format!("a term {} rterm {}", l.term, l.record.term));
        add(format!("b formers {}", l.record.formers().count()));
        add(format!("c leads {:?}", s.members.map(|m| m.leads > 0).iter().filter(|x| **x).count()));
        add(format!("d writers {:?}", s.members.iter().filter(|m| m.writes).count()));
        add(format!("e faults {} changes {} writes {}", s.faults, s.changes, s.writes));
        add(format!("f flight {}", s.in_flight.is_some()));
        add(format!("g holder none {}", l.holder == 9));
        add(format!("h rest {}", l.record.rest.timeline != 0));
        add(format!("i pledges {}", s.pledged.iter().flatten().filter(|p| p.timeline > 0).count()));
        add(format!("j lives {}", s.members.iter().map(|m| m.life).sum::<u8>()));
        add(format!("k installed {}", s.installed.iter().filter(|m| m.timeline > 0).count()));
    }
    for (k, v) in by {
        println!("{k}: {v}");
    }
    for (name, f) in [
        ("opened", (|s| { s.opened = Default::default(); }) as fn(&mut crate::state::State)),
        ("acked", |s| { s.acked = Default::default(); }),
        ("installed", |s| { s.installed = Default::default(); }),
        ("faults", |s| { s.faults = 0; }),
        ("changes", |s| { s.changes = 0; }),
        ("writes", |s| { s.writes = 0; }),
        ("highest", |s| { for m in &mut s.members { m.highest = 0; } }),
        ("names", |s| { for m in &mut s.members { m.names = crate::state::Set(0); } }),
        ("obeyed", |s| { for m in &mut s.members { m.obeyed = crate::state::Set(0); } }),
        ("sets", |s| { s.lease.record.formers = [crate::state::NO_SET; 8]; s.lease.record.current = crate::state::Set(0); }),
        ("mark", |s| { for m in &mut s.members { m.mark = 0; } }),
        ("pledged", |s| { s.pledged = Default::default(); }),
        ("leads", |s| { for m in &mut s.members { m.leads = 0; } }),
        ("pos", |s| { for m in &mut s.members { m.pos = Default::default(); } }),
        ("writes", |s| { for m in &mut s.members { m.writes = false; } }),
        ("promotions", |s| { s.lease.record.promotions = Default::default(); }),
        ("forks", |s| { s.forks = Default::default(); }),
        ("rest", |s| { s.lease.record.rest = Default::default(); }),
        ("given", |s| { s.lease.record.given = Default::default(); }),
        ("holder", |s| { s.lease.holder = Default::default(); }),
    ] {
        let less: HashSet<_> = seen.iter().map(|s| { let mut s = *s; f(&mut s); s }).collect();
        println!("without {name}: {:.2}", seen.len() as f64 / less.len() as f64);
    }
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
    let found = harm.into_iter().find_map(|name| Some((name, checker.discovery(name)?)));
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
            faults: 1,
            writes: env("W", 1),
            changes: env("C", 1),
            k: 0,
        };
        if std::env::var("ONLY").is_ok_and(|only| !only.split(',').any(|o| o == name)) {
            continue;
        }
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
            None => {
                println!("{name}: nothing, {:.1} s", began.elapsed().as_secs_f64());
                missed.push(name);
            }
        }
    }
    assert!(missed.is_empty(), "nothing breaks without {missed:?}");
}
