//! Stories of people and of a damaged Lease.

use pgbaton::core::observe::{PersonWish, RecordView};
use pgbaton::core::record::{Durability, Record};
use pgbaton::core::types::Term;

use crate::faults::Fault::{DeletePod, KillPod, KillServer, SlowStandby, Switchover};
use crate::stories::{asynchronous, running};
use crate::world::{World, name};

const FOR_GOOD: u64 = 10_000_000;
const SOON: u64 = 60_000;

fn answered(world: &mut World, within: u64) -> (bool, String) {
    world.until("the order is answered", within, |w| !w.answers.is_empty());
    let (_, done, text) = world.answers[0].clone();
    (done, text)
}

#[test]
fn a_switchover_goes_where_it_was_ordered_to() {
    for to in [1, 2] {
        let mut world = running();
        world.fault(&Switchover(Some(to)));
        let (done, text) = answered(&mut world, 15_000);
        assert!(done && world.primary() == Some(to), "{text}\n{}", world.tell());
        world.until_whole(SOON);
    }
}

#[test]
fn a_switchover_without_a_name_finds_the_fittest() {
    let mut world = running();
    world.fault(&Switchover(None));
    let (done, text) = answered(&mut world, 15_000);
    assert!(done && world.primary() != Some(0), "{text}\n{}", world.tell());
}

#[test]
fn a_switchover_to_an_unfit_member_is_refused_and_changes_nothing() {
    let mut world = running();
    let before = world.checks.promotions;
    world.fault(&KillPod(1, FOR_GOOD));
    world.run(2_000);
    world.fault(&Switchover(Some(1)));
    let (done, text) = answered(&mut world, 15_000);
    assert!(!done && text.contains("m2"), "{text}");
    assert_eq!((world.primary(), world.checks.promotions), (Some(0), before));
}

#[test]
fn paused_nobody_takes_over_and_resumed_somebody_does() {
    let mut world = running();
    world.order("p", PersonWish::Pause);
    assert!(answered(&mut world, 5_000).0);
    world.answers.clear();
    world.fault(&KillPod(0, 25_000));
    world.run(20_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.until("the paused primary leads again", 20_000, |w| {
        w.primary() == Some(0)
    });
    world.order("r", PersonWish::Resume);
    assert!(answered(&mut world, 5_000).0);
    world.fault(&KillPod(0, 25_000));
    world.until("another one leads", 20_000, |w| {
        w.primary().is_some_and(|p| p != 0)
    });
}

#[test]
fn a_failover_without_proof_is_done_when_a_person_accepts_the_loss() {
    let mut world = running();
    world.fault(&KillPod(0, FOR_GOOD));
    world.fault(&KillPod(2, FOR_GOOD));
    world.run(20_000);
    assert_eq!(world.primary(), None);
    world.checks.waived = true;
    world.order("f", PersonWish::Failover { to: name(1) });
    world.until("m2 leads", 20_000, |w| w.primary() == Some(1));
    assert!(answered(&mut world, 10_000).0);
}

#[test]
fn asynchronous_a_standby_within_the_lag_takes_over() {
    let mut world = asynchronous(1 << 20);
    world.fault(&KillPod(0, 30_000));
    world.until("another one leads", 20_000, |w| {
        w.primary().is_some_and(|p| p != 0)
    });
    world.until_whole(SOON);
}

#[test]
fn asynchronous_standbys_too_far_behind_wait_for_the_primary() {
    let mut world = asynchronous(0x100);
    world.fault(&SlowStandby(1, FOR_GOOD));
    world.fault(&SlowStandby(2, FOR_GOOD));
    world.run(4_000);
    world.fault(&KillPod(0, 25_000));
    world.run(20_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.until("the old primary leads", 30_000, |w| w.primary() == Some(0));
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn a_lost_record_is_written_back_by_the_running_primary() {
    type Damage = fn(&mut World);
    let damages: [Damage; 6] = [
        World::lose_record,
        |w| {
            w.damage("unreadable", |l| {
                l.record = RecordView::Unreadable("no JSON".to_owned());
            });
        },
        |w| {
            let empty = Record::never_initialised(Durability::Sync, w.plan.availability);
            w.damage("never initialised", |l| {
                l.record = RecordView::Good(Box::new(empty));
                l.holder = None;
                l.term = Term(0);
            });
        },
        |w| {
            w.damage("another cluster", |l| {
                if let RecordView::Good(record) = &mut l.record {
                    record.system_identifier = Some(pgbaton::core::types::SystemId(7));
                }
            });
        },
        |w| {
            w.damage("an older term", |l| {
                l.term = Term(0);
            });
        },
        |w| {
            w.api.delete();
            w.run(500);
            w.damage("created again, empty", |_| {});
        },
    ];
    for damage in damages {
        let mut world = running();
        damage(&mut world);
        world.run(1_000);
        world.until_whole(SOON);
        assert_eq!(world.primary(), Some(0), "{}", world.tell());
        world.fault(&KillServer(0));
        world.run(2_000);
        world.until_whole(SOON);
    }
}

#[test]
fn a_lost_record_without_a_running_primary_waits_for_a_person() {
    let mut world = running();
    for member in 0..3 {
        world.fault(&KillPod(member, 6_000));
    }
    world.run(1_000);
    world.lose_record();
    world.run(40_000);
    assert_eq!(world.primary(), None);
    assert!(
        world.machines.iter().all(crate::machine::Machine::is_down),
        "{}",
        world.tell()
    );
    world.order("a", PersonWish::Adopt { member: name(0) });
    world.until_whole(SOON);
    assert_eq!(world.primary(), Some(0));
}

#[test]
fn pods_are_replaced_one_after_the_other() {
    let mut world = running();
    for member in 0..3 {
        world.fault(&DeletePod(member, 1_000));
        world.run(20_000);
        world.until_whole(SOON);
    }
}

#[test]
fn the_record_is_lost_while_the_primarys_pod_is_deleted() {
    let mut world = running();
    world.fault(&DeletePod(0, 500));
    world.lose_record();
    world.until("another one leads", 5_000, |w| {
        w.primary().is_some_and(|p| p != 0)
    });
    world.until_whole(SOON);
}
