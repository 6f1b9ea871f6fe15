//! Random schedules of faults: no rule may break, and when the faults end the cluster becomes whole.

use std::cell::RefCell;
use std::collections::HashMap;

use pgbaton::core::record::{Availability, Durability};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::faults::Fault;
use crate::rng::Rng;
use crate::world::{Plan, World};

/// Longest time in which a cluster without faults becomes whole.
const WHOLE_WITHIN: u64 = 150_000;

fn one_fault(members: usize) -> impl Strategy<Value = Fault> {
    let m = 0..members;
    let short = 100_u64..3_000;
    let long = 500_u64..12_000;
    prop_oneof![
        4 => m.clone().prop_map(Fault::KillServer),
        3 => (m.clone(), short.clone()).prop_map(|(m, t)| Fault::KillPod(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::KillPod(m, t)),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::DeletePod(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::LoseStandby(m, t)),
        1 => Just(Fault::LoseRecord),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::KillSidecar(m, t)),
        2 => m.clone().prop_map(Fault::RestartGuard),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::GuardAway(m, t)),
        2 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::HangServer(m, t)),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::FreezePod(m, t)),
        1 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::FillVolume(m, t)),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::SlowStandby(m, t)),
        3 => (m.clone(), 1..members, long.clone()).prop_map(move |(a, d, t)| Fault::CutPeers(a, (a + d) % members, t)),
        3 => (m.clone(), long.clone()).prop_map(|(m, t)| Fault::CutApi(m, t)),
        1 => long.clone().prop_map(Fault::ApiDown),
        2 => (20_u64..80, long).prop_map(|(p, t)| Fault::Lossy(p, t)),
        2 => proptest::option::of(m).prop_map(Fault::Switchover),
        6 => (20_u64..6_000).prop_map(Fault::Wait),
    ]
}

#[derive(Debug, Clone)]
struct Schedule {
    plan: Plan,
    faults: Vec<Fault>,
}

fn schedule(durability: Durability) -> impl Strategy<Value = Schedule> {
    (2_usize..5, any::<u64>(), 1_u32..3, any::<bool>()).prop_flat_map(
        move |(members, seed, sync_standbys, strict)| {
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
                ..Plan::default()
            };
            proptest::collection::vec(one_fault(members), 1..12).prop_map(move |faults| Schedule {
                plan: plan.clone(),
                faults,
            })
        },
    )
}

thread_local! {
    static RUNNING: RefCell<HashMap<String, World>> = RefCell::new(HashMap::new());
}

/// A running world of this plan: made once, then only its seed differs.
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
    world.rng = Rng::new(plan.seed);
    world.plan = plan.clone();
    world
}

fn play(schedule: &Schedule) {
    let mut world = running(&schedule.plan);
    for fault in &schedule.faults {
        world.fault(fault);
        world.run(20);
    }
    world.heal();
    world.until_whole(WHOLE_WITHIN);
}

/// The same schedules each time; `SEED=n` for others, `CASES=n` for more.
fn chance() -> TestRng {
    let seed: u64 = std::env::var("SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(1);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    TestRng::from_seed(RngAlgorithm::ChaCha, &bytes)
}

fn cases(default: u32) -> Config {
    let cases = std::env::var("CASES")
        .ok()
        .and_then(|c| c.parse().ok())
        .unwrap_or(default);
    Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 400,
        ..Config::default()
    }
}

fn check(durability: Durability, default: u32) {
    TestRunner::new_with_rng(cases(default), chance())
        .run(&schedule(durability), |schedule| {
            let played = std::panic::catch_unwind(|| play(&schedule));
            played.map_err(|why| {
                let text = why.downcast_ref::<String>().cloned().unwrap_or_default();
                TestCaseError::fail(text)
            })
        })
        .unwrap_or_else(|story| panic!("{story}"));
}

#[test]
fn any_schedule_in_sync_durability() {
    check(Durability::Sync, 150);
}

#[test]
fn any_schedule_in_async_durability() {
    check(Durability::Async, 60);
}
