//! Stories: what happens, told step by step; the world checks its rules after each.

use crate::faults::Fault;
use crate::world::{Plan, World};

#[test]
fn three_members_bootstrap() {
    let world = World::running(Plan::default());
    assert_eq!(world.primary(), Some(0));
    assert!(world.checks.acks > 0 || world.now < 60_000);
}

#[test]
fn the_postmaster_is_killed_and_a_standby_leads() {
    let mut world = World::running(Plan::default());
    world.run(2_000);
    world.fault(&Fault::KillServer(0));
    let took = world.until("a standby leads", 3_000, |w| w.primary().is_some_and(|p| p != 0));
    world.until_whole(20_000);
    eprintln!("took {took}");
}
