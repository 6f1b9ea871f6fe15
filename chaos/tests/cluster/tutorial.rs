//! The tutorial's cluster with deploy/ on top, word for word: `kubectl delete sts postgres-1`, and what people did by hand there after it
//! happens by itself.

use std::fs;

use pgbaton_chaos::cluster::target::Target;
use pgbaton_chaos::oracles::trial::Subject as _;
use tokio::time::Instant;

use super::clients::Clients;
use super::kubectl::{eventually, root};
use super::place::{MEMBERS, Place, mode};

const FOURTH: &str = "postgres-4";

fn pair(mode: &str, primary: &str) -> (String, String) {
    (mode.to_owned(), primary.to_owned())
}

/// The env of these StatefulSets says that this member is the primary and that the others follow it.
fn env_says(place: &Place, members: &[&str], primary: &str) -> bool {
    members.iter().all(|member| {
        let wanted = if *member == primary {
            pair("off", "")
        } else {
            pair("on", primary)
        };
        place
            .object(&format!("sts/{member}"))
            .is_some_and(|set| mode(&set) == wanted)
    })
}

fn selected(place: &Place) -> String {
    let service = place.object("svc/postgres").unwrap_or_default();
    service["spec"]["selector"]["app"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// The folder of one more member, as deploy/README.md says: the third one's with another name.
fn one_more(place: &Place) {
    let third = root().join("deploy/overlays/tutorial/members/postgres-3/kustomization.yaml");
    let text = fs::read_to_string(third).unwrap();
    let text = text.replace("postgres-3", FOURTH);
    // It lies elsewhere.
    let text = text.replace("../../../../member", "../../../../deploy/member");
    let folder = place.folder().join("tutorial").join(FOURTH);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("kustomization.yaml"), text).unwrap();
    let list = place.folder().join("tutorial/kustomization.yaml");
    let text = fs::read_to_string(&list).unwrap();
    fs::write(
        &list,
        text.replace("resources:\n", &format!("resources:\n- {FOURTH}\n")),
    )
    .unwrap();
}

async fn names(target: &Target) -> (Vec<String>, Vec<String>) {
    let record = target.record().await.unwrap();
    let set = record.current_set();
    let standbys = set.standbys.iter();
    (
        record.members.iter().map(|m| m.member.to_string()).collect(),
        standbys.map(|data| data.member.to_string()).collect(),
    )
}

/// The failover, with nothing done but that one command; gives the new primary.
async fn fails_over(place: &Place, target: &Target, clients: &Clients) -> String {
    assert!(env_says(place, &MEMBERS, "postgres-1"), "as the manifests say");
    let at = Instant::now();
    place.must(&["delete", "sts", "postgres-1"]);
    let bound = std::time::Duration::from_secs(60);
    let successor = target.taken_over("postgres-1", bound).await.unwrap();
    let taken = at.elapsed();
    eventually("the Service leads to the new primary", || {
        selected(place) == successor
    });
    clients.served().await;
    let outage = clients.workload.summary(at, Instant::now()).outage_ms;
    eventually("the env of both StatefulSets says who is primary", || {
        env_says(place, &MEMBERS[1..], &successor)
    });
    println!(
        "delete sts: {successor} recorded after {} ms, env right after {} ms, longest time without a write {outage} ms",
        taken.as_millis(),
        at.elapsed().as_millis()
    );
    successor
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tutorials_failover_happens_by_itself() {
    let place = Place::new("tutorial", &["postgres-1", "postgres-2", "postgres-3", FOURTH]);
    let overlay = place.over("tutorial", "");
    let began = Instant::now();
    place.apply(&overlay);
    let target = place.whole().await;
    println!(
        "three members from nothing after {} ms",
        began.elapsed().as_millis()
    );
    let clients = Clients::start(&target).await;
    let primary = fails_over(&place, &target, &clients).await;

    one_more(&place);
    let at = Instant::now();
    let folder = overlay.to_string_lossy();
    let only = format!("app={FOURTH}");
    place.kubectl.must(&["apply", "-k", &folder, "-l", &only]);
    let grown = place.whole().await;
    println!(
        "{FOURTH} streams and is in the sync set after {} ms",
        at.elapsed().as_millis()
    );
    let (members, set) = names(&grown).await;
    assert!(members.iter().any(|m| m == FOURTH) && set.iter().any(|m| m == FOURTH));
    assert!(place.object("sts/postgres-1").is_none(), "nobody brought it back");

    let at = Instant::now();
    place.apply(&overlay);
    let reset = place.object(&format!("sts/{primary}")).unwrap();
    println!("applied again, {primary} says {:?}", mode(&reset));
    let whole = place.whole().await;
    println!(
        "postgres-1 streams, env right again everywhere after {} ms",
        at.elapsed().as_millis()
    );
    assert!(env_says(
        &place,
        &["postgres-1", "postgres-2", "postgres-3", FOURTH],
        &primary
    ));
    assert_eq!(
        whole.primary().await.unwrap(),
        primary,
        "an old manifest makes no primary"
    );
    let (members, set) = names(&whole).await;
    assert_eq!((members.len(), set.len()), (4, 3));
    let summary = clients.end(&whole).await;
    println!("{} writes acknowledged, none lost", summary.acknowledged);
}
