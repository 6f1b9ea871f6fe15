//! `decide` on observations that contradict themselves: pieces of many worlds, members and moments put together.

use pgbaton::core::action::{Action, GuardOrder};
use pgbaton::core::decide::decide;
use pgbaton::core::observe::{GuardView, Lanes, LeaseView, Observation, RecordView, SeenLease, Settings};
use pgbaton::core::record::{Member, Record, Step};
use pgbaton::core::state::State;
use pgbaton::core::types::{MemberData, Term};
use pgbaton::guard::protocol::{DataState, Server};

use crate::faults::Fault;
use crate::rng::Rng;
use crate::world::{Plan, World};

type Snapshot = (Settings, State, Observation);

/// The moments that matter most: a leader whose server is not read-write yet.
fn is_about_to_write(sidecar: &crate::sidecar::Sidecar) -> bool {
    let GuardView::Heard(status) = &sidecar.seen.guard else {
        return false;
    };
    sidecar.state.phase == pgbaton::core::phase::Phase::Leading && status.value.server != Server::Primary
}

/// What members saw and remembered through a few troubled lives.
fn snapshots() -> Vec<Snapshot> {
    let mut all = Vec::new();
    for seed in 0..6 {
        let mut world = World::new(Plan {
            seed,
            ..Plan::default()
        });
        let faults = [
            Fault::Wait(0),
            Fault::KillServer(0),
            Fault::CutApi(1, 7_000),
            Fault::LosePodAndData(2, 300),
            Fault::Lossy(50, 5_000),
            Fault::DeletePod(1, 500),
            Fault::GuardAway(0, 3_000),
        ];
        for fault in faults {
            world.fault(&fault);
            let until = world.now + 5_000;
            while world.now < until {
                world.step();
                let some = world.rng.percent(1);
                for sidecar in &world.sidecars {
                    if some || is_about_to_write(sidecar) {
                        let mut copy = sidecar.clone();
                        all.push((
                            copy.settings.clone(),
                            copy.state.clone(),
                            copy.observe(world.now).clone(),
                        ));
                    }
                }
            }
        }
    }
    all
}

fn mixed(rng: &mut Rng, all: &[Snapshot]) -> Snapshot {
    let count = all.len() as u64;
    let mut pick = || &all[usize::try_from(rng.next() % count).unwrap()];
    let (settings, mut state, mut seen) = pick().clone();
    let (first, second, third) = (pick(), pick(), pick());
    seen.peers.clone_from(&pick().2.peers);
    seen.outcomes.clone_from(&pick().2.outcomes);
    if rng.percent(50) {
        state = first.1.clone();
    }
    if rng.percent(50) {
        seen.lease.clone_from(&second.2.lease);
    }
    if rng.percent(30) {
        seen.guard.clone_from(&third.2.guard);
    }
    if rng.percent(30) {
        seen.server.clone_from(&first.2.server);
    }
    if let LeaseView::Seen(lease) = &mut seen.lease {
        disturb(rng, &settings, lease);
    }
    if rng.percent(80) {
        seen.lanes = Lanes::default();
    }
    if rng.percent(20) {
        seen.told_term = Some(Term(rng.between(0, 9)));
    }
    if let GuardView::Heard(status) = &mut seen.guard {
        if rng.percent(10) {
            status.value.highest_term = Term(rng.between(0, 9));
        }
        if rng.percent(10) {
            status.value.permit = None;
        }
    }
    (settings, state, seen)
}

fn disturb(rng: &mut Rng, settings: &Settings, lease: &mut SeenLease) {
    if rng.percent(30) {
        lease.holder = Some(settings.holder.clone());
    }
    if rng.percent(20) {
        lease.term = Term(rng.between(0, 9));
    }
    if rng.percent(5) {
        lease.record = RecordView::Missing;
    }
    if let RecordView::Good(record) = &mut lease.record {
        let mut other = record.clone();
        if rng.percent(10) {
            other.term = lease.term;
        }
        if rng.percent(10) {
            other.sync_sets.reverse();
        }
        if rng.percent(10) {
            other.timeline = None;
        }
        if rng.percent(10) {
            other.members.clear();
        }
        // Others do not come through the door (`Record::parse`).
        if other.check().is_ok() {
            *record = other;
        }
    }
}

fn own_data(settings: &Settings, seen: &Observation) -> Option<MemberData> {
    let GuardView::Heard(status) = &seen.guard else {
        return None;
    };
    let data_id = status
        .value
        .data_id
        .clone()
        .filter(|_| status.value.data == DataState::Complete)?;
    Some(MemberData {
        member: settings.me.clone(),
        data_id,
    })
}

fn usable(seen: &Observation) -> Option<(&SeenLease, &Record)> {
    match &seen.lease {
        LeaseView::Seen(lease) => match &lease.record {
            RecordView::Good(record) => Some((lease, record)),
            RecordView::Missing | RecordView::Unreadable(_) => None,
        },
        LeaseView::Unknown | LeaseView::Absent => None,
    }
}

/// Holds the Lease, and the record names the data here in this very term.
fn leads(settings: &Settings, seen: &Observation) -> bool {
    usable(seen).is_some_and(|(lease, record)| {
        let mine = own_data(settings, seen);
        lease.holder.as_ref() == Some(&settings.holder)
            && record.term == lease.term
            && mine.is_some()
            && record.primary.as_ref().map(Member::data) == mine
    })
}

fn initialises(settings: &Settings, seen: &Observation) -> bool {
    usable(seen).is_some_and(|(lease, record)| {
        let by_me = matches!(&record.step, Some(Step::Initialising { by }) if *by == settings.holder);
        lease.holder.as_ref() == Some(&settings.holder) && record.is_never_initialised() && by_me
    })
}

#[test]
fn contradictions_never_make_a_server_writable() {
    let all = snapshots();
    let mut rng = Rng::new(7);
    let (mut writable, mut permits) = (0, 0);
    for _ in 0..60_000 {
        let (settings, state, seen) = mixed(&mut rng, &all);
        let decision = decide(&settings, &state, &seen);
        for action in &decision.actions {
            match action {
                Action::Guard {
                    order: GuardOrder::Promote { .. } | GuardOrder::StartPrimary { .. },
                    ..
                } => {
                    writable += 1;
                    assert!(
                        leads(&settings, &seen),
                        "{action:?} by {:?}: {seen:#?}",
                        settings.holder
                    );
                }
                Action::Permit { .. } => {
                    permits += 1;
                    // While there is no record at all the permit given before runs on.
                    let lost = usable(&seen).is_none();
                    assert!(
                        leads(&settings, &seen) || initialises(&settings, &seen) || lost,
                        "{action:?} in {:?} ({}) by {}, state {state:#?}: {seen:#?}",
                        decision.phase,
                        decision.why,
                        settings.holder
                    );
                }
                _ => {}
            }
        }
    }
    assert!(
        writable > 20 && permits > 20,
        "{writable} orders and {permits} permits were judged"
    );
}
