//! Stories of what must not go on for ever, and of what a former term left behind.

use pgbaton::core::observe::{PersonWish, RecordView};
use pgbaton::core::record::{Durability, Step, SyncSet};
use pgbaton::core::state::Settling;
use pgbaton::core::types::{Lsn, Millis, Term};
use pgbaton::core::why::Why;
use pgbaton::guard::protocol::DownReason;

use crate::faults::Fault::{
    CutApi, CutPeers, DeletePod, EmptyLease, KillPod, KillServer, KillSidecar, SlowStandby, Switchover,
};
use crate::machine::Proc;
use crate::stories::{asynchronous, running};
use crate::world::{Plan, World, name};

const FOR_GOOD: u64 = 10_000_000;
const SOON: u64 = 60_000;

fn answered(world: &mut World, within: u64) -> (bool, String) {
    world.until("the order is answered", within, |w| !w.answers.is_empty());
    let (_, done, text) = world.answers.remove(0);
    (done, text)
}

#[test]
fn what_a_former_term_saw_of_a_set_releases_none_of_a_later_term() {
    let mut world = running();
    let standbys = [world.machines[2].member_data().unwrap()];
    let set = SyncSet {
        k: 1,
        standbys: standbys.into(),
    };
    world.fault(&SlowStandby(2, 6_000));
    world.run(500);
    world.fault(&Switchover(Some(1)));
    world.until("m2 leads", 5_000, |w| w.primary() == Some(1));
    world.fault(&KillPod(0, 6_000));
    world.until("m2 leads with m3 as its only standby", 5_000, |w| {
        let set_up = w.api.record().is_some_and(|r| r.current_set() == set);
        w.primary() == Some(1) && set_up && w.machines[1].names == set.names()
    });
    // m2 led before, with the same set, and saw then that m3 has flushed a position that is long past. Now m3 lacks what m2 holds.
    let state = &mut world.sidecars[1].state;
    state.sets_term = Some(Term(1));
    state.settling = Some(Settling {
        set,
        since: Millis(0),
        ordered: false,
        ended: Some(Vec::new()),
        checkpointed: true,
        in_force: true,
        position: Some(Lsn(0)),
    });
    // The world fails when the former sets are released before m3 has what was acknowledged without it.
    world.run(2_500);
    world.until_whole(SOON);
}

#[test]
fn a_member_that_sees_an_old_lease_does_not_call_it_damaged() {
    let mut world = running();
    world.fault(&CutApi(0, 40_000));
    for other in [1, 2] {
        world.fault(&CutPeers(0, other, 3_500));
    }
    world.until("another member leads", 30_000, |w| {
        w.primary().is_some_and(|p| p != 0)
    });
    // The old primary hears of the later term from the others, and cannot see the Lease that says so.
    world.until("the old primary knows that its view is old", 5_000, |w| {
        let why = w.sidecars[0].last.as_ref().map(|decision| decision.why.clone());
        matches!(why, Some(Why::LeaseBehind { leads, .. }) if leads > Term(1))
    });
    world.until_whole(SOON);
}

#[test]
fn an_old_lease_that_nobody_runs_beyond_is_called_damaged() {
    let mut world = running();
    world.fault(&KillPod(0, FOR_GOOD));
    // Put back from a backup while nobody runs under a permit: only a person knows whose data counts.
    world.damage("an older Lease was put back", |l| l.term = Term(0));
    world.until("a standby asks for a person", 30_000, |w| {
        let why = w.sidecars[1].last.as_ref().map(|decision| decision.why.clone());
        matches!(why, Some(Why::LeaseDamaged { .. }))
    });
    world.run(5_000);
    assert_eq!(world.primary(), None);
}

#[test]
fn a_record_that_somebody_may_have_led_after_is_not_written_back() {
    let mut world = running();
    world.damage("a later term lost its record", |l| {
        l.term = Term(l.term.0 + 3);
        l.record = RecordView::Missing;
    });
    world.until("the permit has ended", 6_000, |w| {
        w.primary().is_none() && w.machines[0].is_down()
    });
    world.run(20_000);
    assert!(world.api.record().is_none(), "{}", world.tell());
    world.order("a", PersonWish::Adopt { member: name(1) });
    world.checks.waived = true;
    world.until_whole(SOON);
    assert_eq!(world.primary(), Some(1), "{}", world.tell());
}

/// m1 is out of sight while another one leads and commits are acknowledged; then the Lease is deleted and applied again, and m1 sees that before it
/// hears of anybody.
#[test]
fn a_record_is_not_written_back_before_a_standby_has_said_that_nobody_led_after_it() {
    let mut early = 0;
    for seed in 0..60 {
        let mut world = World::running(Plan {
            seed,
            ..Plan::default()
        });
        world.run(1_000);
        world.fault(&CutApi(0, FOR_GOOD));
        for other in [1, 2] {
            world.fault(&CutPeers(0, other, FOR_GOOD));
        }
        world.until("another member leads", 10_000, |w| {
            w.primary().is_some_and(|p| p != 0)
        });
        let acks = world.checks.acks;
        world.until("commits are acknowledged there", 2_000, |w| {
            w.checks.acks > acks + 5
        });
        early += u32::from(world.machines[0].permit.is_some());
        world.fault(&EmptyLease);
        world.heal();
        world.until_whole(SOON);
        assert_ne!(world.primary(), Some(0), "{}", world.tell());
    }
    assert!(
        early > 30,
        "the first one's permit had ended in most cases: {early}"
    );
}

#[test]
fn a_sidecar_that_restarts_while_the_lease_is_damaged_writes_the_record_back() {
    let mut world = running();
    world.fault(&KillSidecar(0, 1_500));
    world.lose_record();
    world.until("the record is back", 4_000, |w| w.api.record().is_some());
    assert_eq!(world.primary(), Some(0), "{}", world.tell());
    world.until_whole(SOON);
    // Names that it does not know of: whom commits waited for is not known, and nothing is written back.
    world.fault(&KillSidecar(0, 1_500));
    world.lose_record();
    world.machines[0].names = "ANY 1 (\"m9_0\")".to_owned();
    world.run(20_000);
    assert!(world.api.record().is_none(), "{}", world.tell());
}

#[test]
fn a_deposed_primary_that_comes_into_sight_again_is_ended_before_its_permit_is() {
    let mut world = running();
    world.fault(&Switchover(Some(1)));
    world.until("m2 leads", 5_000, |w| w.primary() == Some(1));
    world.until_whole(SOON);
    // As if its guard had been out of sight since the first term, its server running on all the time.
    let until = world.now + 4_000;
    let machine = &mut world.machines[0];
    machine.proc = Proc::Primary;
    machine.following = None;
    machine.stream = None;
    machine.pledge = None;
    machine.highest_term = Term(1);
    machine.permit = Some((Term(1), until));
    world.run(1_000);
    assert!(!world.machines[0].writes(world.now), "{}", world.tell());
    world.until_whole(SOON);
}

#[test]
fn nobody_is_adopted_beside_a_server_with_a_permit() {
    let mut world = running();
    // m1 cannot write the record back, and its permit runs.
    world.fault(&CutApi(0, FOR_GOOD));
    world.lose_record();
    world.order("a", PersonWish::Adopt { member: name(1) });
    let (done, text) = answered(&mut world, 3_000);
    assert!(!done && text.contains("m1 runs read-write"), "{text}");
    world.until("the permit has ended", 6_000, |w| w.machines[0].is_down());
    world.run(1_000);
    world.checks.waived = true;
    world.order("b", PersonWish::Adopt { member: name(1) });
    world.until("m2 leads", 20_000, |w| w.primary() == Some(1));
    world.heal();
    world.until_whole(SOON);
}

#[test]
fn what_is_adopted_goes_on_a_timeline_of_its_own() {
    let mut world = running();
    world.fault(&SlowStandby(1, 3_000));
    world.run(1_000);
    for member in 0..3 {
        world.fault(&KillPod(member, 6_000));
    }
    world.lose_record();
    world.run(20_000);
    // m2 lacks what m3 has: m3 must not follow on the same timeline as it is.
    world.checks.waived = true;
    world.order("a", PersonWish::Adopt { member: name(1) });
    world.until_whole(SOON);
    assert_eq!(world.primary(), Some(1));
    let record = world.api.record().unwrap();
    assert!(record.timeline.is_some_and(|t| t.0 > 1), "{}", world.tell());
}

/// m1 and m2 lead for a moment; m2's server is down and tells no timeline when a person adopts m3, which has only seen the first one.
#[test]
fn adopted_data_gets_no_number_that_a_server_that_is_down_has_made() {
    let mut world = running();
    world.fault(&SlowStandby(2, FOR_GOOD));
    world.fault(&Switchover(Some(1)));
    world.until("m2 leads", 10_000, |w| w.primary() == Some(1));
    // A new process of its guard has read nothing of what lies on its disk.
    for member in 0..3 {
        world.fault(&KillPod(member, 500));
    }
    world.fault(&EmptyLease);
    world.run(12_000);
    world.checks.waived = true;
    world.order("a", PersonWish::Adopt { member: name(2) });
    // The world fails when a timeline is made twice.
    world.until_whole(SOON);
    assert_eq!(world.primary(), Some(2), "{}", world.tell());
}

#[test]
fn a_taker_whose_server_does_not_get_ready_lets_another_one_lead() {
    let mut world = running();
    world.fault(&KillPod(0, FOR_GOOD));
    world.machines[1].kill(DownReason::Crashed);
    world.machines[1].proc = Proc::Starting {
        until: u64::MAX,
        primary: false,
    };
    world.until("m3 leads", 40_000, |w| w.primary() == Some(2));
}

#[test]
fn a_leader_whose_server_does_not_get_ready_hands_over() {
    let mut world = running();
    for member in [1, 2] {
        world.fault(&KillSidecar(member, 8_000));
    }
    world.fault(&KillServer(0));
    world.until("m1 starts in place", 10_000, |w| {
        matches!(w.machines[0].proc, Proc::Starting { .. })
    });
    world.machines[0].proc = Proc::Starting {
        until: u64::MAX,
        primary: true,
    };
    world.until("another one leads", 30_000, |w| {
        w.primary().is_some_and(|p| p != 0)
    });
}

#[test]
fn clients_come_back_after_a_start_in_place_when_a_standby_has_what_recovery_showed() {
    let mut world = running();
    for member in [1, 2] {
        world.fault(&SlowStandby(member, 3_000));
        world.fault(&KillSidecar(member, 12_000));
    }
    // The others' last answers are too old to count: nobody is fit.
    world.run(1_600);
    world.fault(&KillServer(0));
    let restarting = |w: &World| matches!(w.api.record().and_then(|r| r.step), Some(Step::Restarting { .. }));
    let serves = |w: &World| w.machines[0].proc == Proc::Primary;
    world.until("m1 runs again", 10_000, |w| serves(w) && restarting(w));
    let term = world.api.record().unwrap().term;
    while restarting(&world) {
        let flushed = world.rows(0).iter().any(|row| row.flush.is_some());
        let leads = world.sidecars[0].seen.service_points_to.clone();
        assert!(
            leads == Some((term, None)) || flushed || world.sidecars[0].last.as_ref().is_some(),
            "{}",
            world.tell()
        );
        if !flushed && world.api.record().unwrap().current_set().k > 0 {
            assert_eq!(leads, Some((term, None)), "{}", world.tell());
        }
        world.step();
    }
    assert_eq!(
        world.sidecars[0].seen.service_points_to,
        Some((term, Some(name(0))))
    );
    world.until_whole(SOON);
}

#[test]
fn a_switchover_is_done_while_paused_and_a_deleted_pod_hands_over_to_nobody() {
    let mut world = running();
    world.order("p", PersonWish::Pause);
    assert!(answered(&mut world, 5_000).0);
    world.fault(&Switchover(Some(1)));
    let began = world.now;
    assert!(answered(&mut world, 5_000).0, "{}", world.tell());
    assert!(
        world.primary() == Some(1) && world.now - began < 2_500,
        "{}",
        world.tell()
    );
    world.until_whole(SOON);
    world.fault(&DeletePod(1, 1_000));
    world.run(8_000);
    assert_eq!(world.primary(), None, "{}", world.tell());
    world.until("the paused primary leads again", 30_000, |w| {
        w.primary() == Some(1)
    });
}

#[test]
fn a_standby_that_dies_at_each_start_is_copied_once_and_tried_now_and_then() {
    let mut world = running();
    let first = world.machines[1].data.as_ref().unwrap().id.clone();
    let mut ids = std::collections::BTreeSet::from([first.to_string()]);
    let mut starts = 0;
    let until = world.now + 300_000;
    while world.now < until {
        if world.machines[1].proc == Proc::Standby {
            starts += 1;
            world.machines[1].kill(DownReason::Crashed);
        }
        ids.extend(world.machines[1].data.as_ref().map(|d| d.id.to_string()));
        world.step();
    }
    assert_eq!(ids.len(), 2, "one copy, no more: {}", world.tell());
    assert!((6..20).contains(&starts), "{starts} starts in five minutes");
    world.until_whole(120_000);
}

#[test]
fn asynchronous_a_waiver_counts_where_too_much_would_be_lost() {
    let mut world = asynchronous(0x100);
    for member in [1, 2] {
        world.fault(&SlowStandby(member, FOR_GOOD));
    }
    world.run(4_000);
    world.fault(&KillPod(0, FOR_GOOD));
    world.run(20_000);
    assert_eq!(world.primary(), None);
    world.order("f", PersonWish::Failover { to: name(1) });
    world.until("m2 leads", 20_000, |w| w.primary() == Some(1));
}

#[test]
fn asynchronous_a_dead_server_starts_in_place_when_all_others_are_too_far_behind() {
    let mut world = asynchronous(0x100);
    for member in [1, 2] {
        world.fault(&SlowStandby(member, FOR_GOOD));
    }
    world.run(4_000);
    let term = world.api.record().unwrap().term;
    world.fault(&KillServer(0));
    world.until("m1 runs again", 3_000, |w| w.primary() == Some(0));
    assert_eq!(world.api.record().unwrap().term, term, "{}", world.tell());
}

#[test]
fn asynchronous_a_switchover_loses_nothing() {
    for seed in 0..10 {
        let mut world = World::running(Plan {
            durability: Durability::Async,
            seed,
            ..Plan::default()
        });
        world.run(3_000);
        let before = world.machines[0].data.as_ref().unwrap().wal.len();
        world.fault(&Switchover(Some(1)));
        assert!(answered(&mut world, 15_000).0, "{}", world.tell());
        let old = world.machines[0].data.as_ref().unwrap().wal.clone();
        let new = &world.machines[1].data.as_ref().unwrap().wal;
        assert!(new.len() > before && crate::wal::is_within(&old[..before], new));
        world.until_whole(SOON);
    }
}
