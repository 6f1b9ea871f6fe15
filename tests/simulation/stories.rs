//! Stories of members and servers: what happens, told step by step. The world checks its rules after each step.

use pgbaton::core::record::{Availability, Durability};

use crate::faults::Fault::{
    ApiDown, CutApi, CutPeers, DeletePod, FillVolume, FreezePod, GuardAway, HangServer, KillPod, KillServer,
    KillSidecar, LosePodAndData, Lossy, RestartGuard, SlowStandby,
};
use crate::world::{Plan, World};

/// Longer than any story.
const FOR_GOOD: u64 = 10_000_000;
/// Longest time in which a cluster without faults becomes whole.
const SOON: u64 = 60_000;

pub fn running() -> World {
    let mut world = World::running(Plan::default());
    world.run(1_000);
    world
}

pub fn asynchronous(maximum_lag: u64) -> World {
    let mut world = World::running(Plan {
        durability: Durability::Async,
        maximum_lag,
        ..Plan::default()
    });
    world.run(1_000);
    world
}

pub fn another_leads(world: &mut World, than: usize, within: u64) -> usize {
    world.until("another one leads", within, |w| {
        w.primary().is_some_and(|p| p != than)
    });
    world.primary().unwrap()
}

fn data_ids(world: &World) -> Vec<String> {
    let id = |m: &crate::machine::Machine| m.data.as_ref().map_or(String::new(), |d| d.id.to_string());
    world.machines.iter().map(id).collect()
}

#[test]
fn three_members_bootstrap_and_acknowledge() {
    let world = running();
    assert_eq!(world.primary(), Some(0));
    assert!(world.checks.acks > 20, "{}", world.tell());
}

#[test]
fn two_members_marked_as_first_make_one_cluster() {
    for seed in 0..20 {
        let plan = Plan {
            first: vec![0, 1],
            seed,
            ..Plan::default()
        };
        let world = World::running(plan);
        let systems: std::collections::BTreeSet<_> = world
            .machines
            .iter()
            .map(|m| m.data.as_ref().unwrap().system)
            .collect();
        assert_eq!(systems.len(), 1);
    }
}

#[test]
fn the_first_pod_dies_while_it_initialises() {
    for delay in (0..1_500).step_by(100) {
        let mut world = World::new(Plan::default());
        world.run(delay);
        world.fault(&KillPod(0, 1_000));
        world.until_whole(SOON);
    }
}

#[test]
fn the_postmaster_is_killed_a_standby_leads_and_the_old_one_rewinds() {
    let mut world = running();
    let before = data_ids(&world);
    world.fault(&KillServer(0));
    let leader = another_leads(&mut world, 0, 1_500);
    world.until_whole(SOON);
    assert_eq!(world.primary(), Some(leader), "it came back as a standby");
    let unchanged = data_ids(&world)
        .iter()
        .zip(&before)
        .filter(|(a, b)| a == b)
        .count();
    assert!(
        unchanged >= 2,
        "the standbys followed as they were:\n{}",
        world.tell()
    );
}

#[test]
fn the_pod_is_deleted_and_hands_over() {
    let mut world = running();
    let before = data_ids(&world);
    world.fault(&DeletePod(0, 2_000));
    // A checkpoint comes first.
    another_leads(&mut world, 0, 8_000);
    world.until_whole(SOON);
    assert_eq!(
        data_ids(&world),
        before,
        "all followed as they were:\n{}",
        world.tell()
    );
}

#[test]
fn a_standbys_pod_is_deleted() {
    let mut world = running();
    world.fault(&DeletePod(1, 2_000));
    world.run(20_000);
    world.until_whole(SOON);
    assert_eq!(world.primary(), Some(0), "{}", world.tell());
}

#[test]
fn all_are_killed_and_return_in_each_order() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut world = running();
        for (place, member) in order.into_iter().enumerate() {
            world.fault(&KillPod(member, 1_000 + 9_000 * place as u64));
        }
        world.until_whole(120_000);
    }
}

#[test]
fn only_the_standbys_return() {
    let mut world = running();
    world.fault(&KillPod(0, FOR_GOOD));
    world.fault(&KillPod(1, 1_000));
    world.fault(&KillPod(2, 3_000));
    another_leads(&mut world, 0, 30_000);
}

#[test]
fn one_standby_of_two_cannot_prove_and_waits() {
    let mut world = running();
    world.fault(&KillPod(0, 40_000));
    world.fault(&KillPod(2, FOR_GOOD));
    world.run(30_000);
    assert_eq!(world.primary(), None, "m3 may hold what m2 lacks");
    // With m1's data there is proof: for m1, or for m2 when that has all of it.
    world.until("one of them leads", 30_000, |w| w.primary().is_some());
}

#[test]
fn a_standby_whose_sidecar_has_just_started_takes_over_too() {
    let mut world = running();
    world.fault(&KillSidecar(1, 100));
    world.fault(&KillSidecar(2, 100));
    world.run(800);
    world.fault(&KillPod(0, 20_000));
    another_leads(&mut world, 0, 2_000);
    world.until_whole(SOON);
}

#[test]
fn the_api_server_is_away_for_less_than_the_permit() {
    let mut world = running();
    let before = world.checks.promotions;
    world.fault(&ApiDown(2_500));
    world.run(10_000);
    world.until_whole(SOON);
    assert_eq!(world.checks.promotions, before, "{}", world.tell());
}

#[test]
fn the_api_server_is_away_for_more_than_the_permit_and_nobody_promises() {
    let mut world = running();
    world.fault(&ApiDown(15_000));
    world.fault(&CutPeers(0, 1, 9_000));
    world.fault(&CutPeers(0, 2, 9_000));
    world.run(8_000);
    assert_eq!(world.primary(), None, "the permit has ended");
    world.until_whole(SOON);
}

#[test]
fn two_claim_at_once() {
    for seed in 0..30 {
        let mut world = World::running(Plan {
            seed,
            ..Plan::default()
        });
        world.fault(&CutPeers(1, 2, 8_000));
        world.fault(&KillPod(0, 12_000));
        world.run(10_000);
        world.heal();
        world.until_whole(120_000);
    }
}

#[test]
fn a_taker_without_proof_gives_back_and_the_recorded_primary_goes_on() {
    let mut world = running();
    // m1 loses its permit; m2 sees m3's sidecar until it has the Lease, and no pledge of it afterwards.
    world.fault(&CutApi(0, 9_000));
    world.fault(&CutPeers(0, 1, 15_000));
    world.fault(&CutPeers(0, 2, 15_000));
    world.fault(&KillServer(2));
    world.until("somebody took the Lease", 20_000, |w| {
        w.api.lease().is_some_and(|l| l.term.0 > 1)
    });
    world.fault(&CutPeers(1, 2, 6_000));
    world.run(12_000);
    world.until_whole(SOON);
}

#[test]
fn a_taker_behind_hands_to_the_one_ahead() {
    for (behind, ahead) in [(1, 2), (2, 1)] {
        let mut world = running();
        world.fault(&SlowStandby(behind, 4_000));
        world.run(2_000);
        world.fault(&KillServer(0));
        world.fault(&KillPod(0, FOR_GOOD));
        let leader = another_leads(&mut world, 0, 20_000);
        assert_eq!(leader, ahead, "{}", world.tell());
    }
}

#[test]
fn the_reply_to_a_release_is_lost() {
    for seed in 0..20 {
        let mut world = World::running(Plan {
            seed,
            ..Plan::default()
        });
        world.run(1_000);
        world.fault(&KillServer(0));
        world.fault(&Lossy(90, 3_000));
        world.run(3_000);
        world.until_whole(SOON);
    }
}

#[test]
fn swaps_with_unknown_outcomes_land_or_do_not() {
    for seed in 0..20 {
        let mut world = World::running(Plan {
            seed,
            ..Plan::default()
        });
        for member in 0..3 {
            world.fault(&Lossy(60, 8_000));
            world.fault(&KillServer(member));
            world.run(4_000);
        }
        world.heal();
        world.until_whole(120_000);
    }
}

/// After the change has begun, kills the primary's pod at each moment of it.
fn crash_at_each_step(plan: &Plan, begin: impl Fn(&mut World)) {
    for delay in (0..9_000).step_by(300) {
        let mut world = World::running(Plan {
            seed: delay,
            ..plan.clone()
        });
        begin(&mut world);
        world.run(delay);
        if let Some(primary) = world.primary() {
            world.fault(&KillPod(primary, 14_000));
        }
        world.run(12_000);
        world.heal();
        world.until_whole(120_000);
    }
}

#[test]
fn the_set_is_narrowed_and_widened_with_a_crash_at_each_step() {
    crash_at_each_step(&Plan::default(), |world| world.fault(&KillPod(2, 5_000)));
    crash_at_each_step(&Plan::default(), |world| world.fault(&CutPeers(0, 2, 5_000)));
}

#[test]
fn the_set_is_emptied_and_filled_with_a_crash_at_each_step() {
    let two = Plan {
        members: 2,
        ..Plan::default()
    };
    crash_at_each_step(&two, |world| world.fault(&KillPod(1, 4_500)));
    crash_at_each_step(&two, |world| world.fault(&CutPeers(0, 1, 4_500)));
}

#[test]
fn the_quorum_is_raised_and_lowered_with_a_crash_at_each_step() {
    let both = Plan {
        sync_standbys: 2,
        ..Plan::default()
    };
    crash_at_each_step(&both, |world| world.fault(&KillPod(2, 4_500)));
}

#[test]
fn the_data_of_the_primary_is_lost() {
    let mut world = running();
    world.fault(&LosePodAndData(0, 1_000));
    another_leads(&mut world, 0, 15_000);
    world.until_whole(SOON);
}

#[test]
fn the_data_of_a_standby_is_lost_and_its_new_data_counts_for_itself_only() {
    let mut world = running();
    let before = data_ids(&world);
    world.fault(&LosePodAndData(1, 500));
    world.run(700);
    world.until_whole(SOON);
    let after = data_ids(&world);
    assert!(before[0] == after[0] && before[1] != after[1] && before[2] == after[2]);
}

#[test]
fn a_standby_loses_its_data_then_the_primary_dies_at_each_moment() {
    for delay in (0..6_000).step_by(250) {
        let mut world = running();
        world.fault(&LosePodAndData(1, 200));
        world.run(delay);
        world.fault(&KillPod(0, 15_000));
        world.run(12_000);
        world.heal();
        world.until_whole(120_000);
    }
}

#[test]
fn the_guard_is_lost_and_a_standby_leads() {
    let mut world = running();
    world.fault(&GuardAway(0, 20_000));
    another_leads(&mut world, 0, 15_000);
    world.until_whole(SOON);
}

#[test]
fn the_guard_restarts() {
    for member in 0..3 {
        let mut world = running();
        world.fault(&RestartGuard(member));
        world.run(40);
        world.until_whole(SOON);
    }
}

#[test]
fn the_server_hangs_and_another_leads() {
    let mut world = running();
    world.fault(&HangServer(0, 30_000));
    another_leads(&mut world, 0, 10_000);
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn a_leader_with_a_full_volume_hands_over_to_one_with_room() {
    let mut world = running();
    world.fault(&FillVolume(0, 30_000));
    world.fault(&FillVolume(1, 30_000));
    assert_eq!(another_leads(&mut world, 0, 5_000), 2, "{}", world.tell());
    world.until_whole(SOON);
    // Nobody has room: it stays, and says so.
    for member in 0..3 {
        world.fault(&FillVolume(member, 30_000));
    }
    world.run(6_000);
    assert_eq!(world.primary(), Some(2), "{}", world.tell());
    let why = world.sidecars[2].last.as_ref().map(|d| d.why.to_string());
    assert!(
        why.is_some_and(|w| w.contains("volume is full")),
        "{}",
        world.tell()
    );
}

#[test]
fn the_leader_freezes_and_thaws() {
    for millis in [2_000, 6_000, 9_000, 20_000] {
        let mut world = running();
        world.fault(&FreezePod(0, millis));
        world.run(millis + 1_000);
        world.until_whole(SOON);
    }
}

#[test]
fn the_sidecar_of_the_leader_is_away_for_a_while() {
    let mut world = running();
    let before = world.checks.promotions;
    world.fault(&KillSidecar(0, 2_000));
    world.run(8_000);
    world.until_whole(SOON);
    assert_eq!(world.checks.promotions, before, "{}", world.tell());
}

#[test]
fn strict_availability_waits_for_a_standby() {
    let mut world = World::running(Plan {
        members: 2,
        availability: Availability::Strict,
        ..Plan::default()
    });
    world.run(1_000);
    world.fault(&KillPod(1, 30_000));
    world.run(5_000);
    let stopped = world.checks.acked.len();
    world.run(15_000);
    assert_eq!(
        world.checks.acked.len(),
        stopped,
        "nothing is acknowledged without a standby"
    );
    world.until_whole(SOON);
    world.run(1_000);
    assert!(world.checks.acked.len() > stopped);
}

#[test]
fn a_checkpoint_that_began_before_the_names_were_set_does_not_count() {
    for seed in 0..40 {
        let mut world = World::running(Plan {
            members: 2,
            seed,
            slow_checkpoints: true,
            ..Plan::default()
        });
        world.run(1_000);
        world.fault(&KillServer(0));
        world.run(3_000);
        world.until_whole(SOON);
    }
}
