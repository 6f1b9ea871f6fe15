//! docs/adopt.md on a real cluster with data, block by block: the tutorial's own manifests, taken under pgbaton pod by pod while a client
//! writes. Then docs/undo.md gives it back (undo.rs).

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pgbaton_chaos::names::POSTGRES_PORT;
use pgbaton_chaos::oracles::sql::{self, Login};

use super::kubectl::{Kubectl, eventually};
use super::page::{Page, here, paste};
use super::place::{MEMBERS, PASSWORD, Place, SHIPPED, tag};
use super::undo;

const ROWS: usize = 10_000;
/// The rows that were there before pgbaton came, as one line.
pub const SUM: &str = "SELECT count(*) || ' ' || md5(string_agg(name, '' ORDER BY id)) FROM customers";

/// As the tutorial does it: manifests as they are, one after the other. With data, and both standbys streaming.
fn plain_cluster() -> Place {
    let place = Place::new("adoption", &MEMBERS);
    manifests(place.folder());
    for member in MEMBERS {
        let manifest = place.folder().join(format!("{member}.yaml"));
        place.must(&["apply", "-f", &manifest.to_string_lossy()]);
        eventually(&format!("{member} answers"), || {
            place.sql(member, "SELECT 1").is_ok()
        });
    }
    let fill = format!(
        "CREATE TABLE customers AS SELECT id, md5(id::text) AS name FROM generate_series(1, {ROWS}) id"
    );
    place.sql("postgres-1", &fill).unwrap();
    place
        .sql("postgres-1", "CREATE TABLE written (id bigint)")
        .unwrap();
    until_both_stream(&place);
    place
}

pub fn until_both_stream(place: &Place) {
    eventually("both standbys stream", || {
        let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
        place.sql("postgres-1", streams).as_deref() == Ok("2")
    });
}

/// The manifests of a user: one file for each member.
fn manifests(folder: &Path) {
    let template = include_str!("../../cluster/plain-member.yaml");
    for member in MEMBERS {
        let (mode, primary) = if member == MEMBERS[0] {
            ("off", "")
        } else {
            ("on", MEMBERS[0])
        };
        let text = template
            .replace("NAME", member)
            .replace("\"MODE\"", &format!("\"{mode}\""))
            .replace("\"PRIMARY\"", &format!("\"{primary}\""));
        fs::write(folder.join(format!("{member}.yaml")), text).unwrap();
    }
}

/// A client that writes to the first primary's pod, wherever it is.
pub struct Client {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Instant, i64)>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Client {
    fn start(place: &Place) -> Self {
        let namespace = place.namespace.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (stopped, noted) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let kubectl = Kubectl::new();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let login = Login {
                user: "postgresadmin".to_owned(),
                password: PASSWORD.to_owned(),
                database: "postgresdb".to_owned(),
                port: POSTGRES_PORT,
            };
            let mut ip = None;
            let mut id = 0;
            while !stopped.load(Ordering::Relaxed) {
                id += 1;
                let Some(at) = ip.or_else(|| address(&kubectl, &namespace)) else {
                    continue;
                };
                let text = format!("INSERT INTO written VALUES ({id})");
                let bound = Duration::from_secs(2);
                match runtime.block_on(sql::ask_within(&login, at, &text, bound)) {
                    Ok(_) => {
                        noted.lock().unwrap().push((Instant::now(), id));
                        ip = Some(at);
                    }
                    Err(_) => ip = None,
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Self {
            stop,
            acknowledged,
            thread,
        }
    }

    /// The longest time without an acknowledged write between these two.
    pub fn longest_pause(&self, from: Instant, to: Instant) -> Duration {
        let all = self.acknowledged.lock().unwrap();
        let inside = all.iter().map(|(at, _)| *at).filter(|at| *at > from && *at < to);
        let mut last = from;
        let mut longest = Duration::ZERO;
        for at in inside.chain([to]) {
            longest = longest.max(at - last);
            last = at;
        }
        longest
    }

    /// The ids that were acknowledged.
    pub fn end(self) -> Vec<i64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let all = self.acknowledged.lock().unwrap();
        all.iter().map(|(_, id)| *id).collect()
    }
}

fn address(kubectl: &Kubectl, namespace: &str) -> Option<Ipv4Addr> {
    let path = "jsonpath={.status.podIP}";
    let ip = kubectl.run(&["-n", namespace, "get", "pod", "postgres-1-0", "-o", path]);
    ip.ok()?.trim().parse().ok()
}

/// Step 1 of the page, beside the manifests; gives its number of lines.
fn kustomization(place: &Place, page: &Page) -> usize {
    let text = here(place, page.block("1.", "yaml", 0));
    let text = text.replace("../pgbaton/deploy/adopt", "../../deploy/adopt");
    let mut file = text.clone();
    if tag() != SHIPPED {
        file += &format!("images:\n- name: pgbaton\n  newTag: {}\n", tag());
    }
    fs::write(place.folder().join("kustomization.yaml"), file).unwrap();
    text.lines().count()
}

/// Step 5: the right to search is taken away, and stays away when the kustomization is applied again.
fn without_the_search(place: &Place, page: &Page) {
    paste(place, place.folder(), page.block("5.", "sh", 0));
    let file = place.folder().join("kustomization.yaml");
    let text = fs::read_to_string(&file).unwrap() + page.block("5.", "yaml", 0);
    fs::write(file, text).unwrap();
    place.apply(place.folder());
    assert!(place.object("role/pgbaton-adopt").is_none());
}

fn adopt(place: &Place, page: &Page) {
    let run = |heading: &str, number: usize| paste(place, place.folder(), page.block(heading, "sh", number));
    run("1.", 0);
    let before = pods(place);
    let said = run("2.", 0);
    assert!(
        said.contains("term 0, nobody holds the Lease") && said.contains("never initialised"),
        "{said}"
    );
    assert_eq!(pods(place), before, "nothing restarts");
    assert_eq!(run("3.", 0).lines().collect::<Vec<_>>(), ["f", "t", "t"]);
    for (block, next) in [(1, "postgres-3-0"), (2, "postgres-1-0")] {
        run("3.", block);
        eventually(&format!("{next} is next"), || {
            place.event_says("AdoptionStep", &[&format!("next: kubectl delete pod {next}")])
        });
    }
    run("4.", 0);
    eventually("all are members, and both standbys are in the sync set", || {
        let names = place.sql("postgres-1", "SHOW synchronous_standby_names");
        names.is_ok_and(|names| names.contains("postgres_2_") && names.contains("postgres_3_"))
    });
    assert!(!place.events("Adopted").is_empty());
    without_the_search(place, page);
}

/// UIDs of the pods that are there.
pub fn pods(place: &Place) -> String {
    place.must(&["get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"])
}

#[test]
fn the_tutorials_cluster_is_adopted_in_place_and_given_back() {
    let page = Page::of("docs/adopt.md");
    page.has_only("sh", &[("1.", 1), ("2.", 1), ("3.", 3), ("4.", 1), ("5.", 1)]);
    let place = plain_cluster();
    let before = place.sql("postgres-1", SUM).unwrap();
    let lines = kustomization(&place, &page);
    let client = Client::start(&place);
    let began = Instant::now();
    adopt(&place, &page);
    println!(
        "adopted in {:.1} s by {lines} lines of YAML and none edited; longest time without a write {} ms",
        began.elapsed().as_secs_f64(),
        client.longest_pause(began, Instant::now()).as_millis()
    );
    assert_eq!(place.sql("postgres-1", SUM).as_deref(), Ok(before.as_str()));
    let began = Instant::now();
    undo::follow(&place);
    println!(
        "given back in {:.1} s; longest time without a write {} ms",
        began.elapsed().as_secs_f64(),
        client.longest_pause(began, Instant::now()).as_millis()
    );
    let acknowledged = client.end();
    undo::is_plain(&place, &before, &acknowledged);
    assert!(
        acknowledged.len() > 50,
        "{} writes are no load",
        acknowledged.len()
    );
    println!("{} writes acknowledged, none lost", acknowledged.len());
}
