//! The watcher: outages, stalled connections, restarts, and the order of what arrives by two ways.

use std::time::Duration;

use pgbaton::core::types::{Millis, Term};
use pgbaton::lease::{LeaseSettings, LeaseState, LiveClock, SettingsError, SwapKind, WatchTimes, open};
use serde_json::json;

use super::fake::Fake;
use super::member::{Member, SOON, TTL, done, held, held_spec, id};

const AGO: Duration = Duration::from_secs(1);
const QUIET: Duration = Duration::from_millis(100);

async fn soon(what: &str, good: impl Fn() -> bool) {
    let came = tokio::time::timeout(SOON, async {
        while !good() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(came.await.is_ok(), "never came: {what}");
}

#[tokio::test]
async fn changes_arrive_and_count_from_their_sight() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::new(&fake, 2);
    let first = member.newest(&fake).await;
    member.live(Duration::from_secs(5));
    // An order by a person changes no spec: the holder did not renew.
    fake.edit(&json!({"metadata": {"annotations": {"pgbaton.dev/pause": "true"}}}));
    let ordered = member.newest(&fake).await;
    assert_eq!(ordered.spec_changed_at, first.spec_changed_at);
    assert_eq!(ordered.spec_unchanged_for(member.clock.now()), Millis(5_000));
    fake.edit(&json!({"spec": held_spec("postgres-1_other", 3, Duration::ZERO)}));
    let renewed = member.newest(&fake).await;
    assert_eq!(renewed.spec_unchanged_for(member.clock.now()), Millis(0));
    assert_eq!(renewed.seen_at, member.clock.now());
}

#[tokio::test]
async fn an_outage_is_no_absence_and_ends() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::new(&fake, 2);
    let before = member.newest(&fake).await;
    let answered = member.view.borrow().contact.answered_at;
    member.live(AGO);
    fake.set_down(true);
    let view = member.until("trouble", |v| v.contact.trouble.is_some()).await;
    assert_eq!(view.contact.trouble.as_ref().and_then(|t| t.code), None);
    assert_eq!(view.contact.answered_at, answered, "contact grows old");
    assert_eq!(view.state, LeaseState::Present(before), "what was known stays");
    fake.edit(&json!({"spec": held_spec("postgres-1_other", 4, Duration::ZERO)}));
    fake.set_down(false);
    let view = member
        .until("news", |v| {
            v.state.seen().is_some_and(|s| s.transitions == Term(4))
        })
        .await;
    assert!(view.contact.trouble.is_none());
    assert_eq!(view.contact.answered_at, Some(member.clock.now()));
}

#[tokio::test]
async fn missing_rights_are_named() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    fake.set_status(Some(403));
    let member = Member::new(&fake, 2);
    let view = member.until("trouble", |v| v.contact.trouble.is_some()).await;
    let trouble = view.contact.trouble.unwrap();
    assert_eq!(trouble.code, Some(403));
    assert!(trouble.text.contains("list, watch and patch"), "{}", trouble.text);
    assert_eq!(view.state, LeaseState::Unknown);
    fake.set_status(None);
    member.newest(&fake).await;
}

/// The watch's connection is open and dead: only asking tells.
#[tokio::test]
async fn a_stalled_watch_is_noticed() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::with_quiet(&fake, 2, QUIET);
    member.newest(&fake).await;
    fake.stall_watches();
    fake.edit(&json!({"spec": held_spec("postgres-1_other", 4, Duration::ZERO)}));
    member.newest(&fake).await;
    soon("another watch", || fake.count("watch") == 2).await;
    // And one whose server has stopped, which answers no question either.
    fake.set_stuck(true);
    let view = member.until("trouble", |v| v.contact.trouble.is_some()).await;
    assert!(view.contact.trouble.unwrap().text.contains("did not answer"));
    fake.set_stuck(false);
    member.until("contact", |v| v.contact.trouble.is_none()).await;
}

#[tokio::test]
async fn a_watch_that_is_cut_misses_nothing() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::new(&fake, 2);
    for term in 4..12 {
        member.newest(&fake).await;
        fake.cut_watches();
        fake.edit(&json!({"spec": held_spec("postgres-1_other", term, Duration::ZERO)}));
    }
    assert_eq!(member.newest(&fake).await.transitions, Term(11));
}

/// Own answers overtake the watch, and the watch overtakes them; the view never goes back. With versions that are numbers,
/// and with others.
#[tokio::test]
async fn own_answers_and_the_watch_do_not_go_back() {
    for opaque in [false, true] {
        let fake = Fake::with(held(&id(1).to_string(), 3, AGO));
        if opaque {
            fake.set_opaque();
            fake.edit(&json!({"metadata": {"labels": {"a": "b"}}}));
        }
        let member = Member::new(&fake, 1);
        let mut seen = member.newest(&fake).await;
        let mut view = member.view.clone();
        view.mark_unchanged();
        let mut versions = vec![seen.resource_version.clone()];
        for _ in 0..20 {
            seen = done(member.swap(&seen, SwapKind::Renew).await);
            versions.push(seen.resource_version.clone());
            tokio::task::yield_now().await;
            let known = member.view.borrow().state.seen().cloned().unwrap();
            assert_eq!(known.resource_version, seen.resource_version, "opaque: {opaque}");
        }
        versions.dedup();
        assert_eq!(versions.len(), 21);
        // A foreign change still arrives.
        fake.edit(&json!({"metadata": {"annotations": {"pgbaton.dev/pause": "true"}}}));
        assert!(
            member
                .newest(&fake)
                .await
                .annotations
                .contains_key("pgbaton.dev/pause")
        );
    }
}

#[tokio::test]
async fn at_rest_a_member_only_watches() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::with_quiet(&fake, 2, Duration::from_secs(2));
    member.newest(&fake).await;
    let before = fake.count("list");
    for _ in 0..10 {
        fake.edit(&json!({"spec": held_spec("postgres-1_other", 3, Duration::ZERO)}));
        member.newest(&fake).await;
    }
    assert_eq!((fake.count("list"), fake.count("watch")), (before, 1));
}

#[tokio::test]
async fn absence_stays_known_while_nothing_changes() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    fake.delete();
    let member = Member::with_quiet(&fake, 2, QUIET);
    member
        .until("absence", |v| matches!(v.state, LeaseState::Absent { .. }))
        .await;
    member.live(AGO);
    let now = member.clock.now();
    // Confirmed again and again, without waking anybody.
    let mut view = member.view.clone();
    view.mark_unchanged();
    let asked = fake.count("list");
    soon("three more reads", || fake.count("list") >= asked + 3).await;
    assert!(!view.has_changed().unwrap());
    assert_eq!(view.borrow().state, LeaseState::Absent { seen_at: now });
    fake.put(held("postgres-1_other", 3, AGO));
    member.newest(&fake).await;
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let settings = LeaseSettings {
        client: fake.client(),
        namespace: "default".to_owned(),
        name: "postgres".to_owned(),
        me: id(1),
        duration: TTL,
        clock: LiveClock::system(),
        times: WatchTimes::default(),
    };
    for duration in [
        Duration::ZERO,
        Duration::from_millis(500),
        Duration::from_millis(1500),
        Duration::MAX,
    ] {
        let error = open(LeaseSettings {
            duration,
            ..settings.clone()
        })
        .unwrap_err();
        assert_eq!(error, SettingsError::Duration(duration));
    }
    assert!(
        open(LeaseSettings {
            name: String::new(),
            ..settings.clone()
        })
        .is_err()
    );
    assert!(
        open(LeaseSettings {
            namespace: String::new(),
            ..settings.clone()
        })
        .is_err()
    );
    assert!(open(settings).is_ok());
}

/// An ordinary end: the server forgot the version that the watch began with.
#[tokio::test]
async fn a_watch_that_is_too_old_begins_anew() {
    let fake = Fake::with(held("postgres-1_other", 3, AGO));
    let member = Member::new(&fake, 2);
    member.newest(&fake).await;
    soon("a watch", || fake.count("watch") == 1).await;
    let mut view = member.view.clone();
    view.mark_unchanged();
    fake.expire_watches();
    soon("another watch", || fake.count("watch") == 2).await;
    assert!(!view.has_changed().unwrap(), "{:?}", view.borrow());
    fake.edit(&json!({"spec": held_spec("postgres-1_other", 4, Duration::ZERO)}));
    member.newest(&fake).await;
}
