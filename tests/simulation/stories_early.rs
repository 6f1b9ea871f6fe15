//! Stories of leaders that are gone, or seem so: the Lease is taken before it has run out, with the answers for a proof at hand, or not.

use pgbaton::core::observe::PersonWish;
use pgbaton::core::record::Durability;

use crate::faults::Fault::{
    ApiDown, CutApi, CutPeers, FreezePod, GuardAway, HangServer, KillPod, KillSidecar, LosePodAndData, Lossy,
    SlowStandby,
};
use crate::stories::{another_leads, running};
use crate::world::{Plan, World};

const FOR_GOOD: u64 = 10_000_000;
const SOON: u64 = 60_000;
/// The world's Lease lasts 5 s: whoever leads before is no successor by expiry.
const BEFORE_EXPIRY: u64 = 4_000;

fn term(world: &World) -> u64 {
    world.api.lease().map_or(0, |l| l.term.0)
}

/// Nobody but m1 takes the Lease in this time.
fn nobody_claims(world: &mut World, millis: u64) {
    let before = term(world);
    world.run(millis);
    assert_eq!(term(world), before, "{}", world.tell());
}

#[test]
fn a_dead_pod_is_succeeded_at_once() {
    let mut world = running();
    world.fault(&KillPod(0, 20_000));
    another_leads(&mut world, 0, 1_200);
    world.until_whole(SOON);
}

#[test]
fn a_primary_whose_container_is_gone_is_given_up_at_once() {
    let mut world = running();
    world.fault(&GuardAway(0, 20_000));
    another_leads(&mut world, 0, 1_000);
    world.until_whole(SOON);
}

/// Without a proof by pledges nobody may lead before the guard's permit has surely ended.
#[test]
fn in_async_a_primary_whose_container_is_gone_keeps_the_lease_until_it_expires() {
    let mut world = World::running(Plan {
        durability: Durability::Async,
        ..Plan::default()
    });
    world.run(1_000);
    world.fault(&GuardAway(0, 20_000));
    nobody_claims(&mut world, BEFORE_EXPIRY);
    world.until_whole(SOON);
}

#[test]
fn paused_a_primary_whose_container_is_gone_hands_over_to_nobody() {
    let mut world = running();
    world.order("p", PersonWish::Pause);
    world.until("paused", SOON, |w| w.api.record().is_some_and(|r| r.paused));
    world.fault(&GuardAway(0, 8_000));
    nobody_claims(&mut world, 8_000);
    world.until("it leads again", SOON, |w| w.primary() == Some(0));
}

#[test]
fn of_two_members_the_other_one_leads() {
    let mut world = World::running(Plan {
        members: 2,
        ..Plan::default()
    });
    world.run(1_000);
    world.fault(&KillPod(0, 20_000));
    another_leads(&mut world, 0, 1_200);
    world.until_whole(SOON);
}

#[test]
fn a_pod_that_answers_nothing_is_succeeded_after_the_silence() {
    for fault in [FreezePod(0, 20_000), LosePodAndData(0, 20_000)] {
        let mut world = running();
        world.fault(&fault);
        nobody_claims(&mut world, 1_200);
        another_leads(&mut world, 0, BEFORE_EXPIRY - 1_200);
        world.until_whole(SOON);
    }
}

#[test]
fn a_leader_that_thaws_at_each_moment_of_its_succession() {
    for millis in (1_000..4_000).step_by(60) {
        let mut world = running();
        world.fault(&FreezePod(0, millis));
        world.run(millis + 1_000);
        world.until_whole(SOON);
    }
}

#[test]
fn a_leader_whose_pod_is_back_at_each_moment_of_its_succession() {
    for millis in (20..1_500).step_by(40) {
        let mut world = running();
        world.fault(&KillPod(0, millis));
        world.run(millis + 1_000);
        world.until_whole(SOON);
    }
}

#[test]
fn a_claimer_that_dies_at_each_step() {
    for delay in (0..1_200).step_by(20) {
        let mut world = running();
        world.fault(&KillPod(0, 15_000));
        world.run(delay);
        let holder = world.api.lease().and_then(|l| l.holder.clone());
        let claimer = (1..3).find(|m| holder.as_ref() == Some(&world.sidecars[*m].settings.holder));
        world.fault(&KillPod(claimer.unwrap_or(1), 6_000));
        world.until_whole(120_000);
    }
}

#[test]
fn replies_to_claims_are_lost() {
    for seed in 0..30 {
        let mut world = World::running(Plan {
            seed,
            ..Plan::default()
        });
        world.run(1_000);
        world.fault(&Lossy(70, 4_000));
        world.fault(&KillPod(0, 9_000));
        world.run(4_000);
        world.heal();
        world.until_whole(120_000);
    }
}

#[test]
fn two_claimers_at_once_end_as_one() {
    for (seed, slow) in (0..30).zip([1, 2, 3].into_iter().cycle()) {
        let mut world = World::running(Plan {
            members: 4,
            seed,
            ..Plan::default()
        });
        world.run(1_000);
        world.fault(&SlowStandby(slow, 900));
        world.run(600);
        world.fault(&KillPod(0, 12_000));
        another_leads(&mut world, 0, 8_000);
        world.until_whole(SOON);
    }
}

#[test]
fn a_sidecar_that_is_away_is_no_death_of_its_server() {
    let mut world = running();
    world.fault(&KillSidecar(0, 3_000));
    nobody_claims(&mut world, 8_000);
    assert_eq!(world.primary(), Some(0));
}

#[test]
fn a_server_whose_sidecar_stands_still_is_succeeded_when_its_permit_has_ended_it() {
    let mut world = running();
    world.sidecars[0].stuck_until = world.now + 30_000;
    nobody_claims(&mut world, 3_500);
    another_leads(&mut world, 0, 1_400);
    world.sidecars[0].stuck_until = 0;
    world.until_whole(SOON);
}

#[test]
fn a_leader_that_still_renews_is_not_silent() {
    let mut world = running();
    for standby in [1, 2] {
        world.fault(&CutPeers(0, standby, 10_000));
    }
    nobody_claims(&mut world, 10_000);
    assert_eq!(world.primary(), Some(0));
    world.until_whole(SOON);
}

#[test]
fn a_leader_that_answers_is_not_silent_without_an_api_server() {
    for fault in [ApiDown(3_500), CutApi(0, 3_500)] {
        let mut world = running();
        world.fault(&fault);
        nobody_claims(&mut world, 3_500);
        world.run(2_000);
        world.until_whole(SOON);
    }
}

#[test]
fn a_server_that_hangs_is_given_up_by_its_own_sidecar() {
    let mut world = running();
    world.fault(&HangServer(0, 30_000));
    nobody_claims(&mut world, 2_000);
}

#[test]
fn without_the_answers_for_a_proof_nobody_claims() {
    let mut world = running();
    world.fault(&KillPod(2, FOR_GOOD));
    world.fault(&KillPod(0, 20_000));
    nobody_claims(&mut world, 15_000);
    let why = |w: &World| w.sidecars[1].last.as_ref().map(|d| d.why.to_string());
    let said = why(&world).unwrap_or_default();
    assert!(said.starts_with("does not take over"), "{said}");
    world.until("with m1's data there is proof", SOON, |w| w.primary().is_some());
}

#[test]
fn in_asynchronous_durability_only_expiry_opens_the_lease() {
    for fault in [KillPod(0, 20_000), FreezePod(0, 20_000)] {
        let mut world = World::running(Plan {
            durability: Durability::Async,
            ..Plan::default()
        });
        world.run(1_000);
        world.fault(&fault);
        nobody_claims(&mut world, BEFORE_EXPIRY);
        another_leads(&mut world, 0, 6_000);
    }
}

#[test]
fn nobody_claims_while_paused() {
    let mut world = running();
    world.order("p", PersonWish::Pause);
    world.run(2_000);
    world.fault(&KillPod(0, 8_000));
    nobody_claims(&mut world, 7_000);
}
