//! What is done next, for what was read.

use super::*;
use crate::core::record::{Step as RecordStep, SyncSet};
use crate::core::report::CouldFailOver;
use crate::core::types::{Address, DataId, SystemId, Term, Timeline};

fn name(number: u8) -> MemberName {
    format!("postgres-{number}").parse().unwrap()
}

fn uid(number: u8) -> String {
    format!("old-{number}")
}

fn changed() -> Option<Outdated> {
    Some(Outdated::Changed(vec![
        "containers[postgres].image: postgres:15.3 -> postgres:15.4".to_owned(),
    ]))
}

fn record(count: u8) -> Record {
    let member = |number: u8| Member {
        member: name(number),
        data_id: DataId::from_random([number; 8]),
        address: Address {
            ip: format!("10.0.0.{number}"),
            postgres_port: 5432,
            sidecar_port: 8008,
        },
    };
    let members: Vec<Member> = (1..=count).map(member).collect();
    let mut record = Record::never_initialised(Durability::Sync, Availability::Available);
    record.system_identifier = Some(SystemId(7));
    record.term = Term(3);
    record.timeline = Some(Timeline(2));
    record.primary = members.first().cloned();
    record.sync_sets = vec![sync_set(&members[1..])];
    record.members = members;
    record
}

fn sync_set(members: &[Member]) -> SyncSet {
    SyncSet {
        k: u32::from(!members.is_empty()),
        standbys: members.iter().map(Member::data).collect(),
    }
}

fn told(number: u8) -> MemberReport {
    MemberReport {
        member: name(number),
        role: "standby".to_owned(),
        lag_bytes: Some(0),
        sync: "quorum".to_owned(),
        timeline: None,
        state: "streaming".to_owned(),
    }
}

/// A whole cluster led by postgres-1, every pod outdated.
fn seen(count: u8) -> Seen {
    let member = |number: u8| MemberSeen {
        member: name(number),
        set: Some(SetSeen {
            replicas: 1,
            strategy: "OnDelete".to_owned(),
            is_behind: false,
        }),
        pod: Some(PodSeen {
            uid: uid(number),
            ip: Some(format!("10.0.0.{number}")),
            is_ending: false,
            is_ready: true,
            stuck: None,
            outdated: changed(),
            reports: FRESH_REPORTS,
        }),
    };
    Seen {
        record: record(count),
        report: Some(Report {
            members: (1..=count).map(told).collect(),
            could_fail_over: CouldFailOver {
                yes: true,
                ..CouldFailOver::default()
            },
            ..Report::default()
        }),
        is_led: true,
        open_order: None,
        step: None,
        members: (1..=count).map(member).collect(),
    }
}

impl Seen {
    fn pod(&mut self, number: u8) -> &mut PodSeen {
        self.members[usize::from(number) - 1].pod.as_mut().unwrap()
    }

    fn set(&mut self, number: u8) -> &mut SetSeen {
        self.members[usize::from(number) - 1].set.as_mut().unwrap()
    }

    fn row(&mut self, number: u8) -> &mut MemberReport {
        &mut self.report.as_mut().unwrap().members[usize::from(number) - 1]
    }

    /// As after the pod's renewal.
    fn renew(&mut self, number: u8) {
        let pod = self.pod(number);
        pod.uid = format!("new-{number}");
        pod.outdated = None;
    }

    /// As after a switchover.
    fn led_by(&mut self, number: u8) {
        let at = usize::from(number) - 1;
        self.record.primary = Some(self.record.members[at].clone());
        let mut standbys = self.record.members.clone();
        standbys.remove(at);
        self.record.sync_sets = vec![sync_set(&standbys)];
    }
}

fn all() -> Goal {
    Goal::default()
}

fn only(numbers: &[u8]) -> Goal {
    Goal {
        only: numbers.iter().map(|number| name(*number)).collect(),
        ..Goal::default()
    }
}

/// `2`, `>3` for a switchover.
fn short(steps: &[Step]) -> String {
    let one = |step: &Step| match step {
        Step::Renew { member, .. } => member.as_str().replace("postgres-", ""),
        Step::Switchover { to, .. } => to.as_str().replace("postgres-", ">"),
    };
    steps.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn texts(goal: &Goal, seen: &Seen) -> Vec<String> {
    obstacles(goal, seen).into_iter().map(|o| o.text).collect()
}

/// Exactly one obstacle.
fn one(goal: &Goal, seen: &Seen, text: &str, passes: bool) {
    let found = obstacles(goal, seen);
    assert!(
        found.len() == 1 && found[0].text.contains(text) && found[0].passes == passes,
        "expected '{text}' ({passes}): {found:#?}"
    );
}

#[test]
fn standbys_come_first_then_the_role_then_the_old_primary() {
    let mut seen = seen(3);
    assert_eq!(short(&plan(&all(), &seen)), "2 3 >2 1");
    assert_eq!(texts(&all(), &seen), Vec::<String>::new());
    seen.renew(2);
    assert_eq!(short(&plan(&all(), &seen)), "3 >2 1");
    seen.renew(3);
    assert_eq!(short(&plan(&all(), &seen)), ">2 1");
    seen.led_by(2);
    assert_eq!(short(&plan(&all(), &seen)), "1");
    seen.renew(1);
    assert_eq!(plan(&all(), &seen), []);
}

#[test]
fn each_step_names_the_pod_that_was_seen_and_why() {
    let steps = plan(&all(), &seen(2));
    let renew = |number| Step::Renew {
        member: name(number),
        uid: uid(number),
        why: Why::Outdated(changed().unwrap()),
    };
    let switchover = Step::Switchover {
        from: name(1),
        to: name(2),
    };
    assert_eq!(steps, [renew(2), switchover, renew(1)]);
}

#[test]
fn after_a_failover_meanwhile_the_plan_is_another_one() {
    let mut seen = seen(3);
    seen.renew(2);
    // postgres-3, which runs the old template, took over.
    seen.led_by(3);
    assert_eq!(short(&plan(&all(), &seen)), "1 >1 3");
    seen.renew(1);
    assert_eq!(short(&plan(&all(), &seen)), ">1 3");
    // It took over to one that is renewed: no switchover any more.
    let mut seen = self::seen(3);
    seen.renew(2);
    seen.led_by(2);
    assert_eq!(short(&plan(&all(), &seen)), "1 3");
}

#[test]
fn a_primary_that_is_as_its_template_says_keeps_its_role() {
    let mut seen = seen(3);
    seen.renew(1);
    assert_eq!(short(&plan(&all(), &seen)), "2 3");
    assert_eq!(
        notes(&all(), &seen, &plan(&all(), &seen)),
        Vec::<String>::new(),
        "nothing interrupts writes"
    );
}

#[test]
fn a_single_server_is_renewed_alone_and_it_is_said() {
    let seen = seen(1);
    let steps = plan(&all(), &seen);
    assert_eq!(short(&steps), "1");
    assert_eq!(texts(&all(), &seen), Vec::<String>::new());
    let notes = notes(&all(), &seen, &steps);
    assert!(notes.len() == 1 && notes[0].contains("no standby"), "{notes:?}");
}

#[test]
fn what_is_interrupted_is_said_before() {
    let said = |seen: &Seen| notes(&all(), seen, &plan(&all(), seen)).join("\n");
    let three = said(&seen(3));
    assert!(
        three.contains("'pgbaton switchover --to postgres-1' takes it back"),
        "{three}"
    );
    assert!(!three.contains("one standby only"), "{three}");
    let mut two = seen(2);
    assert!(said(&two).contains("commits wait until it has left the sync set"));
    two.record.availability = Availability::Strict;
    assert!(said(&two).contains("writes wait for it (strict)"));
    two.record.durability = Durability::Async;
    assert!(said(&two).contains("nobody could take over."));
}

#[test]
fn of_named_members_only_those_are_renewed() {
    let mut seen = seen(3);
    assert_eq!(short(&plan(&only(&[3]), &seen)), "3");
    // None of the others is renewed: any of them may take the role.
    assert_eq!(short(&plan(&only(&[1]), &seen)), ">2 1");
    // One that runs the new template comes before one that does not.
    seen.renew(3);
    assert_eq!(short(&plan(&only(&[1]), &seen)), ">3 1");
    assert_eq!(short(&plan(&only(&[1, 2]), &seen)), "2 >2 1");
}

#[test]
fn pods_are_renewed_on_demand_too_and_once() {
    let mut seen = seen(3);
    for number in 1..=3 {
        seen.pod(number).outdated = None;
    }
    assert_eq!(plan(&all(), &seen), []);
    let goal = Goal {
        even: (1..=3).map(uid).collect(),
        ..Goal::default()
    };
    let steps = plan(&goal, &seen);
    assert_eq!(short(&steps), "2 3 >2 1");
    assert!(matches!(&steps[0], Step::Renew { why: Why::Asked, .. }));
    seen.renew(2);
    assert_eq!(short(&plan(&goal, &seen)), "3 >2 1");
}

#[test]
fn what_a_pod_was_made_from_is_not_known() {
    let mut seen = seen(2);
    seen.renew(1);
    let unknown = Outdated::Unknown("its revision is gone".to_owned());
    seen.pod(2).outdated = Some(unknown.clone());
    let Some(Step::Renew { why, .. }) = plan(&all(), &seen).pop() else {
        panic!("nothing to do");
    };
    assert_eq!(why, Why::Outdated(unknown));
}

#[test]
fn the_one_that_lags_least_gets_the_role() {
    let mut seen = seen(3);
    seen.row(2).lag_bytes = Some(EQUAL_LAG);
    assert_eq!(short(&plan(&all(), &seen)), "2 3 >3 1");
    seen.row(2).lag_bytes = Some(EQUAL_LAG - 1);
    assert_eq!(short(&plan(&all(), &seen)), "2 3 >2 1");
    seen.row(2).lag_bytes = None;
    assert_eq!(short(&plan(&all(), &seen)), "2 3 >3 1");
}

type Change<'a> = &'a dyn Fn(&mut Seen);

/// Three members, changed so.
fn cluster(change: Change<'_>) -> Seen {
    let mut seen = seen(3);
    change(&mut seen);
    seen
}

#[test]
fn what_needs_a_person_is_left_alone() {
    let lasting: [(Change<'_>, &str); 6] = [
        (&|seen| seen.record.primary = None, "never initialised"),
        (&|seen| seen.record.paused = true, "pgbaton resume"),
        (&|seen| seen.members[2].set = None, "there is no StatefulSet"),
        (&|seen| seen.set(3).replicas = 0, "scaled to 0"),
        (&|seen| seen.set(3).replicas = 2, "2 replicas"),
        (
            &|seen| seen.set(1).strategy = "RollingUpdate".into(),
            "RollingUpdate",
        ),
    ];
    for (change, text) in lasting {
        one(&all(), &cluster(change), text, false);
    }
}

#[test]
fn what_passes_by_itself_is_waited_for() {
    let passing: [(Change<'_>, &str); 13] = [
        (&|seen| seen.is_led = false, "no leader reports"),
        (&|seen| seen.step = Some("handover".into()), "handover"),
        (
            &|seen| seen.open_order = Some("pause".into()),
            "another order is open: pause",
        ),
        (&|seen| seen.set(2).is_behind = true, "its newest template"),
        (
            &|seen| seen.members[1].pod = None,
            "postgres-2: its pod is not there",
        ),
        (&|seen| seen.pod(2).is_ending = true, "postgres-2: its pod ends"),
        (
            &|seen| seen.pod(1).is_ready = false,
            "postgres-1: its pod is not Ready",
        ),
        (
            &|seen| seen.pod(1).stuck = Some("no image".into()),
            "postgres-1: its pod cannot run: no image",
        ),
        (
            &|seen| seen.pod(3).reports = 1,
            "postgres-3: the leader has not reported",
        ),
        (
            &|seen| seen.pod(3).ip = Some("10.0.0.9".into()),
            "postgres-3: the record still has",
        ),
        (
            &|seen| seen.row(3).state = "catchup".into(),
            "postgres-3: its server does not stream: catchup",
        ),
        (
            &|seen| {
                let standby = seen.record.members[1].clone();
                seen.record.sync_sets = vec![sync_set(&[standby])];
            },
            "postgres-3: it is not in the sync set",
        ),
        (
            &|seen| seen.record.sync_sets.push(SyncSet::empty()),
            "a former sync set",
        ),
    ];
    for (change, text) in passing {
        one(&all(), &cluster(change), text, true);
    }
    // Without a report nothing is known of any standby.
    let silent = cluster(&|seen| seen.report = None);
    assert_eq!(texts(&all(), &silent).len(), 2);
}

#[test]
fn an_asynchronous_cluster_has_no_sync_set() {
    let mut seen = seen(3);
    seen.record.durability = Durability::Async;
    seen.record.sync_sets = Vec::new();
    assert_eq!(texts(&all(), &seen), Vec::<String>::new());
}

#[test]
fn the_role_moves_only_when_somebody_could_take_over() {
    let mut seen = seen(3);
    seen.report.as_mut().unwrap().could_fail_over = CouldFailOver {
        missing: "pledges".into(),
        ..CouldFailOver::default()
    };
    assert_eq!(texts(&all(), &seen), Vec::<String>::new(), "a standby is next");
    seen.renew(2);
    seen.renew(3);
    one(&all(), &seen, "nobody could take over now: pledges", true);
}

#[test]
fn a_member_that_was_scaled_away_may_be_left_out() {
    let mut seen = seen(3);
    seen.set(3).replicas = 0;
    seen.members[2].pod = None;
    let found = obstacles(&all(), &seen);
    assert!(
        found[0].text.contains("name the others with --member"),
        "{found:?}"
    );
    assert!(!found[0].passes);
    let goal = only(&[1, 2]);
    assert_eq!(texts(&goal, &seen), Vec::<String>::new());
    let steps = plan(&goal, &seen);
    assert_eq!(short(&steps), "2 >2 1");
    let said = notes(&goal, &seen, &steps);
    assert!(
        said.contains(&"postgres-3 is scaled away and left alone.".to_owned()),
        "{said:?}"
    );
    assert!(
        said.iter().any(|note| note.contains("one standby only")),
        "{said:?}"
    );
    // Of members not named everything else counts all the same.
    let mut seen = self::seen(3);
    seen.row(3).state = "catchup".into();
    one(&only(&[2]), &seen, "postgres-3: its server does not stream", true);
}

#[test]
fn a_standby_whose_template_cannot_run_is_mended_first() {
    let mut seen = seen(3);
    seen.pod(3).is_ready = false;
    seen.pod(3).stuck = Some("container postgres: ImagePullBackOff".into());
    assert_eq!(short(&plan(&all(), &seen)), "3 2 >2 1");
    assert_eq!(texts(&all(), &seen), Vec::<String>::new());
    // Its new pod cannot run either: there it ends.
    seen.pod(3).outdated = None;
    assert_eq!(short(&plan(&all(), &seen)), "2 >2 1");
    one(&all(), &seen, "postgres-3: its pod cannot run", true);
    // An old primary that comes back is not broken: it is waited for.
    let mut seen = self::seen(3);
    seen.led_by(2);
    seen.pod(1).is_ready = false;
    one(&all(), &seen, "postgres-1: its pod is not Ready", true);
}

#[test]
fn a_renewal_goes_on_until_its_member_is_whole() {
    let mut seen = seen(3);
    let state = |seen: &Seen| renewal(seen, &name(2), &uid(2));
    let waiting = |text: &str| Renewal::Waiting(text.to_owned());
    assert_eq!(state(&seen), Renewal::NotBegun);
    seen.pod(2).is_ending = true;
    assert_eq!(state(&seen), waiting("its old pod ends"));
    let pod = seen.members[1].pod.take();
    assert_eq!(state(&seen), waiting("its pod is not there"));
    seen.members[1].pod = pod;
    seen.pod(2).is_ending = false;
    seen.renew(2);
    seen.pod(2).is_ready = false;
    assert_eq!(state(&seen), waiting("its pod is not Ready"));
    seen.pod(2).is_ready = true;
    seen.pod(2).reports = 0;
    assert_eq!(
        state(&seen),
        waiting("the leader has not reported since its pod is Ready")
    );
    seen.pod(2).reports = FRESH_REPORTS;
    seen.record.sync_sets = vec![SyncSet::empty()];
    assert_eq!(state(&seen), waiting("it is not in the sync set"));
    seen.led_by(1);
    assert_eq!(state(&seen), Renewal::Whole);
    seen.is_led = false;
    assert_eq!(state(&seen), waiting("no leader reports"));
    // It came back and took over: whole all the same.
    seen.is_led = true;
    seen.led_by(2);
    assert_eq!(state(&seen), Renewal::Whole);
}

#[test]
fn a_pod_on_its_way_out_is_not_deleted_again() {
    let mut seen = seen(3);
    seen.pod(2).is_ending = true;
    assert_eq!(short(&plan(&all(), &seen)), "3 >2 1");
    one(&all(), &seen, "postgres-2: its pod ends", true);
    // The record says what is to be done; a step in it is told in words.
    seen.record.step = Some(RecordStep::Promoting { member: name(2) });
    assert_eq!(texts(&all(), &seen).len(), 1);
}
