//! What counts as news; and an example for the tests of the page.

use super::*;
use crate::core::report::CouldFailOver;
use crate::http::status::tests::example as status_page;

fn member(name: &str, role: Role) -> MemberView {
    MemberView {
        member: name.parse().unwrap(),
        serves: role == Role::Primary,
        endpoint: Some("127.0.0.11:8008".to_owned()),
        age_ms: Some(120),
        error: None,
        holds_lease: role == Role::Primary,
        recorded_primary: role == Role::Primary,
        role,
        server: role.as_str().to_owned(),
        phase: "following".to_owned(),
        why: None,
        follows: (role == Role::Standby).then(|| "postgres-1".parse().unwrap()),
        streams: Some(true),
        sync: Sync::Sync,
        timeline: Some(Timeline(2)),
        lsn: Some(Lsn(0x0300_0100)),
        lag_bytes: Some(0),
        lag_age_ms: Some(90),
        diverged: false,
        pledged_term: None,
        rest: None,
        permit_left_ms: None,
        work: None,
        terminating: false,
        disk_free: Some(1 << 30),
        disk_total: Some(1 << 34),
    }
}

/// A page of two members with a value nearly everywhere.
pub(crate) fn example() -> ClusterView {
    let page = status_page();
    ClusterView {
        cluster: "default/postgres".to_owned(),
        namespace: "default".to_owned(),
        member: page.member.clone(),
        version: page.build.version,
        at: page.at,
        term: page.term,
        lease: page.lease,
        record: Some(Recorded {
            durability: "sync".to_owned(),
            k: 1,
            standbys: vec!["postgres-2".parse().unwrap()],
            ..Recorded::default()
        }),
        record_error: None,
        why: page.why,
        why_of: page.member,
        why_see: "leading".to_owned(),
        could_fail_over: CouldFailOverView {
            answer: CouldFailOver {
                yes: true,
                to: Some("postgres-2".parse().unwrap()),
                about_ms: Some(400),
                missing: String::new(),
            },
            ..CouldFailOverView::default()
        },
        members: vec![
            member("postgres-1", Role::Primary),
            member("postgres-2", Role::Standby),
        ],
        more_members: 0,
        history: page.record.unwrap().history,
        warnings: vec![Warning {
            member: "postgres-1".parse().unwrap(),
            text: "the disk is nearly full: 27 MiB are left".to_owned(),
            see: "volume_full".to_owned(),
        }],
        settings: vec![Setting {
            name: "lease-duration",
            value: "10000 ms".to_owned(),
        }],
    }
}

#[test]
fn ages_and_positions_are_no_news_and_the_rest_is() {
    let news = |change: &dyn Fn(&mut ClusterView)| {
        let mut view = example();
        change(&mut view);
        Feed::new(view).news() != Feed::new(example()).news()
    };
    let quiet: [&dyn Fn(&mut ClusterView); 6] = [
        &|view| view.at = "2026-01-02T03:04:06Z".to_owned(),
        &|view| view.lease.age_ms = Some(900),
        &|view| view.members[1].age_ms = Some(700),
        &|view| view.members[1].lsn = Some(Lsn(0x0400_0000)),
        &|view| view.members[0].disk_free = Some(1),
        &|view| view.warnings[0].text = "the disk is nearly full: 9 MiB are left".to_owned(),
    ];
    for change in quiet {
        assert!(!news(change));
    }
    let loud: [&dyn Fn(&mut ClusterView); 6] = [
        &|view| view.members[1].role = Role::Primary,
        &|view| view.members[1].error = Some("refused".to_owned()),
        &|view| view.members[1].age_ms = None,
        &|view| view.lease.holder = None,
        &|view| view.could_fail_over.answer.yes = false,
        &|view| view.warnings.clear(),
    ];
    for change in loud {
        assert!(news(change));
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_is_one_line_of_json_that_grows_old() {
    let feed = Feed::new(example());
    for age in [0, 7_000] {
        let json = feed.told();
        assert!(!json.contains(&b'\n'));
        let read: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(read["view"]["members"][1]["sync"], "sync");
        assert_eq!(read["age_ms"], age);
        tokio::time::advance(std::time::Duration::from_millis(7_000)).await;
    }
}
