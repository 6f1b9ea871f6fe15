//! Seeds: each one is a cluster, a schedule of faults and the order of everything that happens. No rule may break, and when the faults
//! end the cluster becomes whole. The same seed is the same run everywhere.
//!
//! `SEEDS=5000 FROM=100000 cargo test --release --test simulation seeds::` runs others; `make simulate` goes on until a thousand million
//! things have happened.

use std::cell::RefCell;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use pgbaton::core::observe::PersonWish;
use pgbaton::core::record::{Availability, Durability};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

use crate::faults::Fault;
use crate::world::{Plan, World};

/// Longest time in which a cluster without faults becomes whole.
const WHOLE_WITHIN: u64 = 150_000;
/// After the faults nobody helps for so long, nor more often than so.
const BEFORE_HELP: u64 = 12_000;
const PERSONS_TRIES: u32 = 5;
/// How often a schedule that breaks something is made smaller.
const SHRINKS: u32 = 300;

fn of_one_member(members: usize) -> impl Strategy<Value = Fault> {
    let m = 0..2 * members;
    let short = 100_u64..3_000;
    let long = 500_u64..12_000;
    prop_oneof![
        4 => m.clone().prop_map(Fault::KillServer),
        3 => (m.clone(), short).prop_map(|(m, t)| Fault::KillPod(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::KillPod(m, t)),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::PowerLoss(m, t)),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::DeletePod(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::LoseStandby(m, t)),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::KillSidecar(m, t)),
        2 => m.clone().prop_map(Fault::RestartGuard),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::GuardAway(m, t)),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::HangServer(m, t)),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::FreezePod(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::FillVolume(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::StallDisk(m, t)),
        3 => (m, long).prop_map(|(m, t)| Fault::SlowStandby(m, t)),
    ]
}

fn of_the_network(members: usize) -> impl Strategy<Value = Fault> {
    let m = 0..2 * members;
    let long = 500_u64..12_000;
    prop_oneof![
        3 => (m.clone(), 1..members, long.clone())
            .prop_map(|(a, d, t)| Fault::CutPeers(a, a + d, t)),
        2 => (m.clone(), 1..members, long.clone())
            .prop_map(|(a, d, t)| Fault::CutOneWay(a, a + d, t)),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::CutApi(m, t)),
        1 => (m, long.clone()).prop_map(|(m, t)| Fault::LagWatch(m, t)),
        1 => long.clone().prop_map(Fault::ApiDown),
        2 => (20_u64..80, long).prop_map(|(p, t)| Fault::Lossy(p, t)),
    ]
}

fn of_people(members: usize) -> impl Strategy<Value = Fault> {
    prop_oneof![
        4 => proptest::option::of(0..members).prop_map(Fault::Switchover),
        1 => Just(Fault::Pause),
        1 => Just(Fault::Resume),
        1 => (0..members).prop_map(Fault::Reapply),
        1 => Just(Fault::LoseRecord),
        1 => Just(Fault::EmptyLease),
    ]
}

fn one_fault(members: usize, durability: Durability) -> impl Strategy<Value = Fault> {
    // A node that stands still with its clocks does not know that its permit has ended: without a quorum nothing can be promised of it.
    let suspends = u32::from(durability == Durability::Sync);
    prop_oneof![
        30 => of_one_member(members),
        12 => of_the_network(members),
        3 => of_people(members),
        suspends => (0..2 * members, 500_u64..12_000).prop_map(|(m, t)| Fault::Suspend(m, t)),
    ]
}

/// From one fault to the next: at once, within what a takeover lasts, or later.
fn pause() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 1_u64..30,
        5 => 30_u64..2_000,
        4 => 2_000_u64..12_000,
        1 => 12_000_u64..40_000,
    ]
}

#[derive(Debug, Clone)]
struct Schedule {
    plan: Plan,
    /// With the pause after each.
    faults: Vec<(Fault, u64)>,
}

fn schedule(seed: u64, durability: Durability) -> impl Strategy<Value = Schedule> {
    let members = prop_oneof![3 => Just(2_usize), 8 => Just(3), 2 => Just(4), 2 => Just(5), 1 => 6_usize..8];
    (members, 1_u32..3, any::<bool>(), any::<bool>()).prop_flat_map(
        move |(members, sync_standbys, strict, own_clocks)| {
            let plan = Plan {
                members,
                seed,
                durability,
                sync_standbys,
                availability: if strict {
                    Availability::Strict
                } else {
                    Availability::Available
                },
                own_clocks,
                ..Plan::default()
            };
            proptest::collection::vec((one_fault(members, durability), pause()), 1..12).prop_map(
                move |faults| Schedule {
                    plan: plan.clone(),
                    faults,
                },
            )
        },
    )
}

thread_local! {
    static RUNNING: RefCell<HashMap<String, World>> = RefCell::new(HashMap::new());
}

/// A running world of this plan: made once, then only its seed and its clocks differ.
fn running(plan: &Plan) -> World {
    let base = Plan {
        seed: 1,
        ..plan.clone()
    };
    let mut world = RUNNING.with_borrow_mut(|all| {
        all.entry(format!("{base:?}"))
            .or_insert_with(|| World::running(base))
            .clone()
    });
    world.happened = 0;
    world.begin_anew(plan.clone());
    world
}

/// Members beyond the last one stand for whoever leads then: every second fault is of the primary.
fn aimed(fault: &Fault, world: &World) -> Fault {
    let members = world.plan.members;
    let m = |member: usize| match world.primary() {
        Some(primary) if member >= members => primary,
        _ => member % members,
    };
    let pair = |a: usize, b: usize| (m(a), (m(a) + b - a) % members);
    match fault.clone() {
        Fault::KillServer(a) => Fault::KillServer(m(a)),
        Fault::KillPod(a, t) => Fault::KillPod(m(a), t),
        Fault::PowerLoss(a, t) => Fault::PowerLoss(m(a), t),
        Fault::DeletePod(a, t) => Fault::DeletePod(m(a), t),
        Fault::LoseStandby(a, t) => Fault::LoseStandby(a % members, t),
        Fault::KillSidecar(a, t) => Fault::KillSidecar(m(a), t),
        Fault::RestartGuard(a) => Fault::RestartGuard(m(a)),
        Fault::GuardAway(a, t) => Fault::GuardAway(m(a), t),
        Fault::HangServer(a, t) => Fault::HangServer(m(a), t),
        Fault::FreezePod(a, t) => Fault::FreezePod(m(a), t),
        Fault::Suspend(a, t) => Fault::Suspend(m(a), t),
        Fault::FillVolume(a, t) => Fault::FillVolume(m(a), t),
        Fault::StallDisk(a, t) => Fault::StallDisk(m(a), t),
        Fault::SlowStandby(a, t) => Fault::SlowStandby(m(a), t),
        Fault::CutApi(a, t) => Fault::CutApi(m(a), t),
        Fault::LagWatch(a, t) => Fault::LagWatch(m(a), t),
        Fault::CutPeers(a, b, t) => {
            let (a, b) = pair(a, b);
            Fault::CutPeers(a, b, t)
        }
        Fault::CutOneWay(a, b, t) => {
            let (a, b) = pair(a, b);
            Fault::CutOneWay(a, b, t)
        }
        other => other,
    }
}

/// When nobody could write a lost record back, a person adopts. Nothing may be lost by that.
fn help(world: &mut World) {
    for attempt in 0..PERSONS_TRIES {
        world.run(BEFORE_HELP);
        if world.api.record().is_some() {
            return;
        }
        world.adopt_what_holds_all(&format!("adopt{attempt}"));
    }
}

/// What a run was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Run {
    /// Things that happened; the rules were checked after each.
    happened: u64,
    /// How often a server became read-write.
    opened: u64,
    /// Commits that clients were told of.
    acknowledged: u64,
    /// Milliseconds from the end of the faults until the cluster was whole; of several runs the longest.
    whole_after: u64,
}

impl Run {
    fn add(&mut self, other: Self) {
        self.happened += other.happened;
        self.opened += other.opened;
        self.acknowledged += other.acknowledged;
        self.whole_after = self.whole_after.max(other.whole_after);
    }
}

fn play(schedule: &Schedule, telling: bool) -> Run {
    let mut world = running(&schedule.plan);
    world.telling = telling;
    let before = (world.checks.promotions, world.checks.acks);
    for (fault, pause) in &schedule.faults {
        world.fault(&aimed(fault, &world));
        world.run(*pause);
    }
    world.heal();
    let paused = world.api.record().is_some_and(|record| record.paused);
    let ordered = world.api.lease().is_some_and(|lease| lease.order.is_some());
    if paused || ordered {
        world.order("resume-at-last", PersonWish::Resume);
    }
    help(&mut world);
    let whole_after = world.until_whole(WHOLE_WITHIN);
    world.run(500);
    Run {
        happened: world.happened,
        opened: world.checks.promotions - before.0,
        acknowledged: world.checks.acks - before.1,
        whole_after,
    }
}

/// Runs one seed.
///
/// # Errors
/// The smallest schedule that breaks something, with its story.
fn one_seed(seed: u64, durability: Durability) -> Result<Run, String> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: 1,
        failure_persistence: None,
        max_shrink_iters: SHRINKS,
        ..Config::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let run = std::cell::Cell::new(Run::default());
    let found =
        TestRunner::new_with_rng(config, rng).run(
            &schedule(seed, durability),
            |schedule| match catch_unwind(AssertUnwindSafe(|| play(&schedule, false))) {
                Ok(done) => {
                    run.set(done);
                    Ok(())
                }
                Err(_) => Err(TestCaseError::fail("broken")),
            },
        );
    match found {
        Ok(()) => Ok(run.get()),
        Err(TestError::Fail(_, smallest)) => {
            let told = catch_unwind(AssertUnwindSafe(|| play(&smallest, true)));
            let story = told
                .err()
                .and_then(|why| why.downcast_ref::<String>().cloned())
                .unwrap_or_else(|| "it went well when told: not deterministic".to_owned());
            Err(format!(
                "seed {seed}, {durability:?}: {:?}\nfaults: {:?}\n{story}",
                smallest.plan, smallest.faults
            ))
        }
        Err(other) => Err(format!("seed {seed}: {other}")),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Every third seed in asynchronous durability.
fn durability_of(seed: u64) -> Durability {
    if seed % 3 == 2 {
        Durability::Async
    } else {
        Durability::Sync
    }
}

/// `FROM` and `SEEDS` choose others.
fn many(from: u64, count: u64) {
    let (from, count) = (
        from + number("FROM").unwrap_or(0),
        number("SEEDS").unwrap_or(count),
    );
    let began = Instant::now();
    let mut all = Run::default();
    for seed in from..from + count {
        all.add(one_seed(seed, durability_of(seed)).unwrap_or_else(|story| panic!("{story}")));
    }
    let seconds = began.elapsed().as_secs_f64();
    // One line for people and for scripts/simulate.sh.
    println!(
        "\n{{\"from\":{from},\"seeds\":{count},\"happened\":{},\"opened\":{},\"acknowledged\":{},\"whole_after_ms\":{},\"seconds\":{seconds:.1}}}",
        all.happened, all.opened, all.acknowledged, all.whole_after,
    );
    assert!(
        all.opened > count / 2,
        "hardly any server became read-write: {all:?}"
    );
}

#[test]
fn no_rule_breaks_and_all_become_whole() {
    many(0, 1_050);
}

#[test]
fn no_rule_breaks_and_all_become_whole_as_well() {
    many(1_000_000, 1_050);
}

/// For scripts/simulate.sh.
#[test]
#[ignore = "hours: make simulate"]
fn a_long_run() {
    many(0, 1_000);
}

/// Seeds that once broke something, each with what it was.
#[test]
fn found_seeds_stay_well() {
    for line in include_str!("found.txt")
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty())
    {
        let seed = line.split_whitespace().next().unwrap().parse().unwrap();
        one_seed(seed, durability_of(seed)).unwrap_or_else(|story| panic!("{line}\n{story}"));
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 5, 7] {
        assert_eq!(
            one_seed(seed, durability_of(seed)),
            one_seed(seed, durability_of(seed))
        );
    }
}
