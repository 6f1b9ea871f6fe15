//! A cluster that was made without pgbaton: everything that must be refused, and who may say otherwise.

use pgbaton::core::adoption::{Adoption, Obstacle};
use pgbaton::core::observe::PersonWish;
use pgbaton::core::phase::Phase;
use pgbaton::core::record::Step;
use pgbaton::core::types::Timeline;
use pgbaton::core::why::Why;

use crate::faults::Fault::{KillPod, KillSidecar, LosePodAndData};
use crate::machine::Proc;
use crate::stories_adoption::{plain, promote_by_hand, standbys_converted, why};
use crate::wal::Entry;
use crate::world::{Event, Plan, World, name};

const FOR_GOOD: u64 = 10_000_000;
const SOON: u64 = 60_000;
/// Longer than everything that a claim waits for.
const QUIET: u64 = 40_000;

fn obstacle(world: &World, member: usize) -> Option<Obstacle> {
    match why(world, member)? {
        Why::Adoption(Adoption::Waits { obstacle }) => Some(obstacle),
        _ => None,
    }
}

fn until_obstacle(world: &mut World, what: &str, is: impl Fn(&Obstacle) -> bool) {
    world.until(what, SOON, |w| obstacle(w, 0).is_some_and(|o| is(&o)));
}

/// For a long time nobody leads, nothing is initialised, and no data is changed.
fn nothing_happens(world: &mut World, member: usize) {
    let before = world.machines[member].data.as_ref().map(|d| d.wal.len());
    let until = world.now + QUIET;
    while world.now < until {
        world.step();
        assert!(
            world.api.record().is_some_and(|r| r.is_never_initialised()),
            "{}",
            world.tell()
        );
    }
    let after = world.machines[member].data.as_ref().map(|d| d.wal.len());
    assert_eq!(before, after, "{}", world.tell());
    assert!(
        world.machines[member].unadopted && world.machines[member].is_down(),
        "{}",
        world.tell()
    );
}

#[test]
fn beside_a_server_that_takes_writes_nobody_leads() {
    let mut world = plain(1);
    world.end_plain(0, true);
    promote_by_hand(&mut world, 1);
    world.at(world.now + 1_000, Event::PodBack(0, true, false));
    until_obstacle(
        &mut world,
        "m2 is named",
        |o| matches!(o, Obstacle::TakesWrites { member } if *member == name(1)),
    );
    nothing_happens(&mut world, 0);
    // A person's word does not change it either.
    world.order("a", PersonWish::Adopt { member: name(0) });
    world.until("the order is answered", 5_000, |w| !w.answers.is_empty());
    let (_, done, text) = world.answers.remove(0);
    assert!(!done && text.contains("m2 takes writes"), "{text}");
    assert!(world.machines[0].unadopted);
}

#[test]
fn a_server_that_is_promoted_while_the_lease_is_claimed_is_seen() {
    for seed in 0..20 {
        let mut world = plain(seed);
        world.convert(0, 1_000);
        world.until("m1 has claimed", 20_000, |w| {
            matches!(w.api.record().and_then(|r| r.step), Some(Step::Adopting { .. }))
        });
        promote_by_hand(&mut world, 1);
        until_obstacle(&mut world, "m2 is named", |o| {
            matches!(o, Obstacle::TakesWrites { .. })
        });
        nothing_happens(&mut world, 0);
    }
}

#[test]
fn two_members_with_a_primarys_data_wait_for_a_person() {
    let mut world = plain(1);
    world.convert(2, 1_000);
    world.end_plain(0, true);
    world.end_plain(1, true);
    world.machines[1].signal = false;
    for member in [0, 1] {
        world.at(world.now + 1_000, Event::PodBack(member, true, false));
    }
    until_obstacle(
        &mut world,
        "m2 is named",
        |o| matches!(o, Obstacle::SecondPrimary { member } if *member == name(1)),
    );
    nothing_happens(&mut world, 0);
    world.order("a", PersonWish::Adopt { member: name(0) });
    world.until("m1 leads", 30_000, |w| w.primary() == Some(0));
    let timeline = world.api.record().unwrap().timeline;
    assert!(timeline > Some(Timeline(1)), "a timeline of its own");
    let held = world.machines[1].data.as_ref().unwrap().wal.clone();
    world.run(20_000);
    // The other primary's data is not touched: it may be all that is left of its rows.
    assert_eq!(world.sidecars[1].state.phase, Phase::Stranded, "{}", world.tell());
    assert!(world.machines[1].unadopted && world.machines[1].data.as_ref().unwrap().wal == held);
    assert!(world.machines[2].stream.is_some(), "{}", world.tell());
    world.fault(&LosePodAndData(1, 500));
    world.until_whole(SOON);
}

#[test]
fn a_server_that_does_not_answer_is_waited_for() {
    let mut world = plain(1);
    world.convert(1, 1_000);
    world.end_plain(2, true);
    world.convert(0, 1_000);
    until_obstacle(
        &mut world,
        "m3 is named",
        |o| matches!(o, Obstacle::Silent { member, scaled_down: false, .. } if *member == name(2)),
    );
    nothing_happens(&mut world, 0);
    world.order("a", PersonWish::Adopt { member: name(0) });
    world.until("the order is answered", 5_000, |w| !w.answers.is_empty());
    let (_, done, text) = world.answers.remove(0);
    assert!(!done && text.contains("m3") && text.contains("scale"), "{text}");
    // Scaled to 0 it runs nowhere; what its volume holds a person must give up.
    world.replicas.insert(2, 0);
    until_obstacle(&mut world, "m3 is scaled to 0", |o| {
        matches!(
            o,
            Obstacle::Silent {
                scaled_down: true,
                ..
            }
        )
    });
    nothing_happens(&mut world, 0);
    world.order("b", PersonWish::Adopt { member: name(0) });
    world.until("m1 leads", 30_000, |w| w.primary() == Some(0));
    world.replicas.clear();
    world.convert(2, 500);
    world.until_whole(SOON);
}

#[test]
fn a_server_that_comes_back_is_enough() {
    let mut world = plain(1);
    world.convert(1, 1_000);
    world.end_plain(2, true);
    world.convert(0, 1_000);
    until_obstacle(&mut world, "m3 is named", |o| {
        matches!(o, Obstacle::Silent { .. })
    });
    world.run_plain(2);
    world.until("m1 leads", 20_000, |w| w.primary() == Some(0));
    world.convert(2, 500);
    world.until_whole(SOON);
}

#[test]
fn an_old_primarys_data_does_not_lead() {
    // The standby with and without a guard; more on the same timeline, and a later timeline.
    for (guarded, later) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut world = plain(1);
        world.convert(1, 1_000);
        if guarded {
            world.convert(2, 1_000);
        }
        world.until("m2 streams", SOON, |w| {
            w.machines[1].stream.is_some() && w.sidecars[1].up && (!guarded || w.sidecars[2].up)
        });
        world.end_plain(0, true);
        // As if m1's volume were of last week.
        world.machines[0].data.as_mut().unwrap().wal.truncate(20);
        if later {
            let id = world.id();
            let log = &mut world.machines[2].data.as_mut().unwrap().wal;
            log.truncate(15);
            log.push(Entry { timeline: 2, id });
        }
        world.at(world.now + 1_000, Event::PodBack(0, true, false));
        until_obstacle(&mut world, "somebody holds more", |o| {
            matches!(o, Obstacle::HoldsMore { .. })
        });
        nothing_happens(&mut world, 0);
    }
}

/// m1's volume is of yesterday; m2 was restarted and has not replayed what it holds beyond it.
fn held_and_not_replayed() -> World {
    let mut world = standbys_converted(1);
    world.end_plain(0, true);
    let log = &mut world.machines[0].data.as_mut().unwrap().wal;
    log.truncate(20);
    for member in [1, 2] {
        world.machines[member].data.as_mut().unwrap().wal.truncate(20);
    }
    let id = world.id();
    let machine = &mut world.machines[1];
    machine.data.as_mut().unwrap().wal.push(Entry { timeline: 1, id });
    machine.unreplayed = 1;
    world.at(world.now + 1_000, Event::PodBack(0, true, false));
    world
}

#[test]
fn what_a_guarded_standby_holds_is_told_by_its_pledge() {
    let mut world = held_and_not_replayed();
    until_obstacle(
        &mut world,
        "m2 holds more",
        |o| matches!(o, Obstacle::HoldsMore { member, .. } if *member == name(1)),
    );
    nothing_happens(&mut world, 0);
}

#[test]
fn the_server_of_a_guard_that_was_just_there_is_not_believed_instead() {
    let mut world = held_and_not_replayed();
    world.until("m1 has claimed", 20_000, |w| {
        matches!(w.api.record().and_then(|r| r.step), Some(Step::Adopting { .. }))
    });
    world.fault(&KillSidecar(1, 5_000));
    until_obstacle(&mut world, "m2 holds more", |o| {
        matches!(o, Obstacle::HoldsMore { .. })
    });
    nothing_happens(&mut world, 0);
}

#[test]
fn a_copy_that_nobody_recovered_yet_is_asked_when_it_runs() {
    for more in [0, 5] {
        let mut world = plain(1);
        world.convert(1, 1_000);
        world.until("m2 streams", SOON, |w| {
            w.machines[1].stream.is_some() && w.sidecars[1].up
        });
        world.end_plain(2, true);
        world.end_plain(0, true);
        // A base backup, of m1 or of somebody who had more, that was never started.
        let mut log = world.machines[0].data.as_ref().unwrap().wal.clone();
        for _ in 0..more {
            let id = world.id();
            log.push(Entry { timeline: 1, id });
        }
        world.machines[2].data.as_mut().unwrap().wal = log;
        world.machines[2].fresh = true;
        for member in [0, 2] {
            world.at(world.now + 1_000, Event::PodBack(member, true, false));
        }
        if more == 0 {
            world.until("m1 leads", 60_000, |w| w.primary() == Some(0));
            world.until_whole(SOON);
        } else {
            until_obstacle(
                &mut world,
                "m3 holds more",
                |o| matches!(o, Obstacle::HoldsMore { member, .. } if *member == name(2)),
            );
            nothing_happens(&mut world, 0);
        }
    }
}

#[test]
fn a_standby_on_another_branch_stands_against_it() {
    let mut world = plain(1);
    world.convert(1, 1_000);
    world.until("m2 streams", SOON, |w| {
        w.machines[1].stream.is_some() && w.sidecars[1].up
    });
    world.end_plain(0, true);
    // m1 left timeline 1 at 20; m3 holds more of timeline 1 than that.
    let id = world.id();
    let log = &mut world.machines[0].data.as_mut().unwrap().wal;
    log.truncate(20);
    log.push(Entry { timeline: 2, id });
    world.machines[1].data.as_mut().unwrap().wal.truncate(20);
    world.machines[1].rest = None;
    world.at(world.now + 1_000, Event::PodBack(0, true, false));
    until_obstacle(
        &mut world,
        "m3 holds more",
        |o| matches!(o, Obstacle::HoldsMore { member, .. } if *member == name(2)),
    );
    nothing_happens(&mut world, 0);
}

#[test]
fn without_the_right_to_ask_nothing_is_adopted() {
    let mut world = World::plain(Plan {
        may_not_list: true,
        ..Plan::default()
    });
    for member in [1, 0] {
        world.convert(member, 1_000);
    }
    until_obstacle(&mut world, "the right is named", |o| {
        matches!(o, Obstacle::CannotLook { .. })
    });
    world.until("m2 says so too", SOON, |w| {
        why(w, 1).is_some_and(|why| why.to_string().contains("the right is missing"))
    });
    nothing_happens(&mut world, 0);
    assert_eq!(world.machines[1].proc, Proc::Standby, "reads are served");
    world.plan.may_not_list = false;
    world.until("m1 leads", 20_000, |w| w.primary() == Some(0));
}

#[test]
fn no_database_is_made_beside_servers_with_data() {
    for guarded in [false, true] {
        let mut world = plain(1);
        if guarded {
            for member in [1, 2] {
                world.convert(member, 1_000);
            }
            world.run(10_000);
        }
        // The volume of the first primary (STANDBY_MODE=off) is lost.
        world.end_plain(0, true);
        world.at(world.now + 1_000, Event::PodBack(0, true, true));
        world.run(QUIET);
        assert!(world.machines[0].data.is_none() && world.api.record().unwrap().is_never_initialised());
        let why = why(&world, 0).unwrap();
        assert!(
            matches!(&why, Why::Adoption(Adoption::DataElsewhere { .. })),
            "{why}\n{}",
            world.tell()
        );
        if guarded {
            world.checks.waived = true;
            world.order("a", PersonWish::Adopt { member: name(1) });
            world.until("m2 leads", 30_000, |w| w.primary() == Some(1));
            world.until_whole(SOON);
        }
    }
}

#[test]
fn data_that_is_lost_while_it_is_adopted_is_not_made_anew() {
    // The others answer or are away too; a new pod, or the same one with an emptied volume.
    for (away, new_pod) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut world = standbys_converted(1);
        world.convert(0, 1_000);
        world.until("m1 has claimed", 20_000, |w| {
            matches!(w.api.record().and_then(|r| r.step), Some(Step::Adopting { .. }))
        });
        if away {
            world.fault(&KillPod(1, FOR_GOOD));
            world.fault(&KillPod(2, FOR_GOOD));
        }
        world.kill_pod(0, 500, new_pod, true);
        world.run(QUIET);
        assert!(
            world.machines[0].data.is_none() && world.api.record().unwrap().is_never_initialised(),
            "{}",
            world.tell()
        );
    }
}

#[test]
fn a_stateful_set_with_two_replicas_is_no_member() {
    let mut world = standbys_converted(1);
    world.replicas.insert(2, 2);
    world.convert(0, 1_000);
    until_obstacle(
        &mut world,
        "m3 is named",
        |o| matches!(o, Obstacle::Replicas { member, replicas: 2 } if *member == name(2)),
    );
    nothing_happens(&mut world, 0);
}

#[test]
fn two_plain_servers_that_take_writes_are_not_followed() {
    let mut world = plain(1);
    promote_by_hand(&mut world, 2);
    world.checks.asynchronous = true;
    world.convert(1, 1_000);
    world.machines[2].plain = true;
    let until = world.now + 20_000;
    while world.now < until {
        // Two servers that nobody holds: the world's rule about that is not this story's.
        world.checks.broken = None;
        let story = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.step()));
        if story.is_err() {
            world.checks.broken = None;
        }
        if matches!(why(&world, 1), Some(Why::Adoption(Adoption::SeveralWrite { .. }))) {
            return;
        }
    }
    panic!("m2 does not say that two take writes: {}", world.tell());
}
