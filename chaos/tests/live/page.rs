//! The live page in a real browser, served by real sidecars: what it shows of a cluster, of a failover and of the end of the very
//! member that serves it.

use std::time::Duration;

use pgbaton_chaos::local::faults::Fault;
use tokio::time::Instant;

use super::browser::{Chromium, DARK, LIGHT, Look, NARROW, Tab};
use super::support::Live;

/// Names in the drawing of those that take writes.
const PRIMARY: &str = "svg .box.primary .name";
const WHOLE: &str = "could fail over";

fn url(live: &Live, member: &str) -> String {
    live.member(member).member().status_url().replace("/status", "/")
}

fn standby(live: &Live) -> String {
    let standbys = live.rig().standby_kubelets().unwrap();
    standbys[0].member().name.clone()
}

fn others(live: &Live, member: &str) -> Vec<String> {
    let members = live.rig().members.iter().map(|m| m.name.clone());
    members.filter(|name| name != member).collect()
}

async fn shows_the_cluster(live: &Live, tab: &Tab, member: &str) {
    let primary = live.rig().primary().unwrap();
    tab.until(PRIMARY, "the primary is drawn", |text| text == primary)
        .await;
    tab.until("#verdict .answer", "the verdict", |text| {
        text.starts_with("yes, to ")
    })
    .await;
    tab.until("svg .tie-words", "both standbys are tied to it", |text| {
        text.matches("sync").count() == 2
    })
    .await;
    let names = tab.text("svg .name").await;
    for other in &live.rig().members {
        assert!(names.contains(&other.name), "{names}");
    }
    let words = tab.text("svg desc").await;
    assert!(words.contains(&format!("{primary} is primary at ")), "{words}");
    assert!(words.contains(&format!("follows {primary}, sync")), "{words}");
    let lease = tab.text("#lease").await;
    assert!(
        lease.contains(&format!("{primary} holds it, term 1")) && lease.contains("runs out in"),
        "{lease}"
    );
    let facts = tab.text("#recorded").await;
    assert!(
        facts.contains("sync, available") && facts.contains("for 1 of "),
        "{facts}"
    );
    let rows = tab.text("#members tbody tr").await;
    assert!(
        rows.contains("this page") && rows.matches(" ago").count() >= 3,
        "{rows}"
    );
    assert!(tab.text("#seen-by").await.contains(member));
    assert!(tab.text("#terms li").await.contains("Term 1"));
    assert!(tab.text("#settings").await.contains("lease-duration"));
}

/// Nobody is kept out, whatever they see with.
async fn is_for_everybody(tab: &Tab) {
    for look in [LIGHT, DARK, NARROW, Look { dark: true, ..NARROW }] {
        tab.look(look).await;
        let found = tab.barriers().await;
        assert!(found.is_empty(), "{look:?}: {}", found.join("\n"));
        let wide = tab
            .ask("document.documentElement.scrollWidth <= innerWidth")
            .await;
        assert_eq!(wide, true, "{look:?}: wider than the screen");
    }
    tab.look(LIGHT).await;
    let motion = "getComputedStyle(document.querySelector('.fill')).transitionDuration";
    tab.emulate("prefers-reduced-motion", "reduce").await;
    assert_eq!(tab.ask(motion).await, "0s");
    tab.emulate("prefers-reduced-motion", "no-preference").await;
    assert_eq!(tab.ask(motion).await, "0.4s");
    // By keyboard: first past everything, then each link in turn, and the focus stays where it is while the page renews itself.
    tab.press("Tab").await;
    assert_eq!(tab.ask("document.activeElement.className").await, "skip");
    tab.press("Tab").await;
    tab.ask("window.held = document.activeElement; window.renewals = 0; new MutationObserver(() => renewals++).observe(document.body, { subtree: true, childList: true, characterData: true }); 0")
        .await;
    assert_eq!(tab.ask("held.localName").await, "a");
    let deadline = Instant::now() + Duration::from_secs(30);
    while tab.ask("renewals").await.as_u64() < Some(10) {
        assert!(Instant::now() < deadline, "the page stands still");
    }
    assert_eq!(
        tab.ask("document.activeElement === held && held.isConnected")
            .await,
        true
    );
}

/// One member's server dies: the page tells it as it happens, without being loaded again.
async fn follows_a_failover(live: &Live, tab: &Tab) {
    let before = live.rig().primary().unwrap();
    let listen = "window.notReloaded = true; window.told = []; new MutationObserver(() => told.push(document.getElementById('news').textContent))\
                  .observe(document.getElementById('news'), { childList: true, characterData: true, subtree: true }); 0";
    tab.ask(listen).await;
    Fault::PostmasterKill.inflict(live.rig()).await.unwrap();
    let after = tab
        .until(PRIMARY, "another primary is drawn", |text| {
            !text.is_empty() && text != before && !text.contains('|')
        })
        .await;
    tab.until("#terms li:first-child", "its term with phases", |text| {
        text.contains(&after) && text.contains("Phases in ms: ")
    })
    .await;
    let bars = tab
        .ask("document.querySelectorAll('#terms li:first-child .phases div').length")
        .await;
    assert!(bars.as_u64() > Some(2), "{bars}");
    let told = tab.ask("told.join(' | ')").await;
    let news = format!("{after} is the recorded primary, term 2");
    assert!(told.as_str().unwrap().contains(&news), "{told}");
    live.until_settled().await;
    let back = |text: &str| text.matches("sync").count() == 2;
    tab.until("svg .tie-words", "both standbys follow", back).await;
    tab.until("#verdict h2", WHOLE, |text| text == "Could fail over now")
        .await;
    assert_eq!(tab.ask("window.notReloaded").await, true);
}

/// The member that serves the page dies: the page says so, what it shows looks old, and the others can be asked.
async fn outlives_its_member(live: &Live, chromium: &Chromium, tab: &Tab, member: &str) {
    live.away(member).await;
    let said = tab
        .until("#silence", "the silence is told", |text| {
            text.contains("does not answer")
        })
        .await;
    assert!(said.contains(member) && said.contains("port-forward"), "{said}");
    assert_eq!(
        tab.ask("document.querySelector('#silence').getAttribute('role')")
            .await,
        "alert"
    );
    assert_eq!(tab.text("#verdict h2").await, "Could fail over, when last known");
    // Nothing is said of a Lease that goes on without this page.
    let lease = tab.text("#lease").await;
    assert!(
        lease.contains("not known here") && !lease.contains("runs out"),
        "{lease}"
    );
    tab.until("#members tr.old th", "all facts look old", |text| {
        text.matches("postgres-").count() == 3
    })
    .await;
    let links = tab
        .ask("[...document.querySelectorAll('#silence a')].map(a => a.href).join(' ')")
        .await;
    let expected: Vec<String> = others(live, member)
        .iter()
        .map(|other| url(live, other))
        .collect();
    assert_eq!(links, expected.join(" "));
    // Another member tells of the same cluster, and that one is away.
    let second = chromium.open(&expected[0], LIGHT).await;
    let away = format!("{member} ");
    second
        .until("#members tr.old", "it is told as away", |text| {
            text.contains("no answer")
        })
        .await;
    let words = second.text("svg desc").await;
    assert!(words.contains(&away) && words.contains("(old)"), "{words}");
    let found = second.barriers().await;
    assert!(found.is_empty(), "{}", found.join("\n"));
    // Its pod comes back, and so does its page, by itself.
    live.member(member).hold(false);
    tab.until(".live .pill", "live again", |text| text == "live")
        .await;
    assert_eq!(tab.text("#silence").await, "");
    assert_eq!(tab.ask("window.notReloaded").await, true);
    assert_eq!(second.complaints(), Vec::<String>::new());
}

/// All in one, since most of its time is that of a cluster's start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_the_cluster_follows_a_failover_and_outlives_its_member() {
    let live = Live::whole(251, |_| {}).await;
    let chromium = Chromium::start().await;
    let member = standby(&live);
    let tab = chromium.open(&url(&live, &member), LIGHT).await;
    shows_the_cluster(&live, &tab, &member).await;
    is_for_everybody(&tab).await;
    follows_a_failover(&live, &tab).await;
    assert_eq!(tab.complaints(), Vec::<String>::new());
    outlives_its_member(&live, &chromium, &tab, &member).await;
    // Only that nobody answered for a while.
    let complaints = tab.complaints();
    let other: Vec<_> = complaints
        .iter()
        .filter(|text| !text.contains("net::ERR_"))
        .collect();
    assert!(other.is_empty(), "{other:?}");
    drop(tab);
    chromium.end().await;
    live.end().await;
}

/// `make screenshots`: the pictures in docs/, of a cluster that went through a failover and of one whose page has lost its member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "writes into docs/: make screenshots"]
async fn pictures_for_the_docs() {
    const MOST: usize = 150_000;
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/images");
    std::fs::create_dir_all(&directory).unwrap();
    let live = Live::whole(252, |_| {}).await;
    let chromium = Chromium::start().await;
    let member = standby(&live);
    let tab = chromium.open(&url(&live, &member), LIGHT).await;
    follows_a_failover(&live, &tab).await;
    Fault::Switchover.inflict(live.rig()).await.unwrap();
    live.until_settled().await;
    tab.until("#terms li:first-child", "the third term's phases", |text| {
        text.contains("Phases in ms: ")
    })
    .await;
    let save = async |name: &str, look: Look| {
        tab.look(look).await;
        tab.until("#title", "drawn", |text| !text.is_empty()).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let picture = tab.picture().await;
        assert!(picture.len() < MOST, "{name}: {} bytes", picture.len());
        std::fs::write(directory.join(name), picture).unwrap();
    };
    save("page-light.webp", LIGHT).await;
    save("page-dark.webp", DARK).await;
    save("page-narrow.webp", NARROW).await;
    live.away(&member).await;
    tab.until("#silence", "the silence is told", |text| {
        text.contains("does not answer")
    })
    .await;
    save("page-silent.webp", LIGHT).await;
    drop(tab);
    chromium.end().await;
    live.end().await;
}
