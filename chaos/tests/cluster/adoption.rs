//! docs/adopt.md on a real cluster with data: the tutorial's own manifests, taken under pgbaton pod by pod while a client writes.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use pgbaton_chaos::names::POSTGRES_PORT;
use pgbaton_chaos::oracles::sql::{self, Login};

use super::kubectl::{Kubectl, eventually, root};

/// A new one for each run: volumes of an earlier run hold its data.
static NAMESPACE: LazyLock<String> = LazyLock::new(|| format!("adoption-{}", std::process::id()));
const MEMBERS: [&str; 3] = ["postgres-1", "postgres-2", "postgres-3"];
const PASSWORD: &str = "a1b2c3d4";
const ROWS: usize = 10_000;

struct Plain {
    kubectl: Kubectl,
}

impl Plain {
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        self.kubectl
            .run(&[&["-n", NAMESPACE.as_str()], arguments].concat())
    }

    fn must(&self, arguments: &[&str]) -> String {
        self.kubectl
            .must(&[&["-n", NAMESPACE.as_str()], arguments].concat())
    }

    fn sql(&self, member: &str, text: &str) -> Result<String, String> {
        let pod = format!("{member}-0");
        let command = format!("psql -At -U \"$POSTGRES_USER\" -d \"$POSTGRES_DB\" -c \"{text}\"");
        let arguments = ["exec", &pod, "-c", "postgres", "--", "sh", "-c", &command];
        self.run(&arguments).map(|out| out.trim().to_owned())
    }

    fn ip(&self, member: &str) -> Option<Ipv4Addr> {
        let pod = format!("{member}-0");
        let ip = self.run(&["get", "pod", &pod, "-o", "jsonpath={.status.podIP}"]);
        ip.ok()?.trim().parse().ok()
    }

    fn event_says(&self, text: &str) -> bool {
        let notes = self.run(&[
            "get",
            "events.v1.events.k8s.io",
            "-o",
            "jsonpath={.items[*].note}",
        ]);
        notes.is_ok_and(|notes| notes.contains(text))
    }

    /// As the tutorial does it: Secret, manifests as they are, one after the other.
    fn start(manifests: &Path) -> Self {
        let plain = Self {
            kubectl: Kubectl::new(),
        };
        plain.kubectl.must(&["create", "namespace", &NAMESPACE]);
        let volumes = root().join("chaos/cluster/volumes.sh");
        let made = Command::new(volumes)
            .arg(NAMESPACE.as_str())
            .args(MEMBERS)
            .status()
            .unwrap();
        assert!(made.success(), "volumes.sh: {made}");
        plain.must(&[
            "create",
            "secret",
            "generic",
            "postgresql",
            "--from-literal=POSTGRES_USER=postgresadmin",
            &format!("--from-literal=POSTGRES_PASSWORD={PASSWORD}"),
            "--from-literal=POSTGRES_DB=postgresdb",
            "--from-literal=REPLICATION_USER=replicationuser",
            "--from-literal=REPLICATION_PASSWORD=replicationPassword",
        ]);
        for member in MEMBERS {
            let manifest = manifests.join(format!("{member}.yaml"));
            plain.must(&["apply", "-f", &manifest.to_string_lossy()]);
            eventually(&format!("{member} answers"), || {
                plain.sql(member, "SELECT 1").is_ok()
            });
        }
        let fill = format!(
            "CREATE TABLE customers AS SELECT id, md5(id::text) AS name FROM generate_series(1, {ROWS}) id"
        );
        plain.sql("postgres-1", &fill).unwrap();
        plain
            .sql("postgres-1", "CREATE TABLE written (id bigint)")
            .unwrap();
        eventually("both standbys stream", || {
            let streams = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'";
            plain.sql("postgres-1", streams).as_deref() == Ok("2")
        });
        plain
    }
}

/// The manifests of a user: one file for each member.
fn manifests() -> tempfile::TempDir {
    let directory = tempfile::tempdir_in(root().join("target")).unwrap();
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
        fs::write(directory.path().join(format!("{member}.yaml")), text).unwrap();
    }
    directory
}

/// A client that writes to the first primary's pod, wherever it is.
struct Client {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Vec<(Instant, i64)>>>,
    thread: std::thread::JoinHandle<()>,
}

impl Client {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Vec::new()));
        let (stopped, noted) = (stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            let plain = Plain {
                kubectl: Kubectl::new(),
            };
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
                let Some(at) = ip.or_else(|| plain.ip("postgres-1")) else {
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

    /// The ids that were acknowledged, and the longest time without one.
    fn end(self) -> (Vec<i64>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let all = self.acknowledged.lock().unwrap();
        let gaps = all.windows(2).map(|two| two[1].0 - two[0].0);
        (
            all.iter().map(|(_, id)| *id).collect(),
            gaps.max().unwrap_or_default(),
        )
    }
}

/// Step 1 of the page, beside the manifests.
fn kustomization(directory: &Path) -> usize {
    let text = format!(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nnamespace: {}\nresources:\n- postgres-1.yaml\n\
         - postgres-2.yaml\n- postgres-3.yaml\ncomponents:\n- ../../deploy/adopt\n",
        *NAMESPACE
    );
    fs::write(directory.join("kustomization.yaml"), &text).unwrap();
    text.lines().count()
}

#[test]
fn the_tutorials_cluster_is_adopted_in_place() {
    let directory = manifests();
    let plain = Plain::start(directory.path());
    let sum = "SELECT count(*) || ' ' || md5(string_agg(name, '' ORDER BY id)) FROM customers";
    let before = plain.sql("postgres-1", sum).unwrap();
    let client = Client::start();
    let began = Instant::now();

    let lines = kustomization(directory.path());
    for member in MEMBERS {
        let patch = r#"{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}"#;
        plain.must(&["patch", "sts", member, "--type", "merge", "-p", patch]);
    }
    let folder = directory.path().to_string_lossy().into_owned();
    plain.kubectl.must(&["apply", "-k", &folder]);
    for (standby, next) in [("postgres-2", "postgres-3-0"), ("postgres-3", "postgres-1-0")] {
        plain.must(&["delete", "pod", &format!("{standby}-0")]);
        eventually(&format!("{standby} says which pod is next"), || {
            plain.event_says(&format!("next: kubectl delete pod {next}"))
        });
    }
    plain.must(&["delete", "pod", "postgres-1-0"]);
    eventually("all are members, and both standbys are in the sync set", || {
        let names = plain.sql("postgres-1", "SHOW synchronous_standby_names");
        names.is_ok_and(|names| names.contains("postgres_2_") && names.contains("postgres_3_"))
    });
    let took = began.elapsed();
    let (acknowledged, outage) = client.end();

    assert_eq!(plain.sql("postgres-1", sum).as_deref(), Ok(before.as_str()));
    let held = plain.sql("postgres-1", "SELECT id FROM written").unwrap();
    let held: std::collections::HashSet<i64> = held.lines().map(|id| id.parse().unwrap()).collect();
    let lost: Vec<&i64> = acknowledged.iter().filter(|id| !held.contains(id)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    assert!(
        acknowledged.len() > 50,
        "{} writes are no load",
        acknowledged.len()
    );
    println!(
        "adopted in {:.1} s by {lines} lines of YAML and none edited; {} writes acknowledged, none lost; longest time without one {} ms",
        took.as_secs_f64(),
        acknowledged.len(),
        outage.as_millis()
    );
    plain
        .kubectl
        .must(&["delete", "namespace", &NAMESPACE, "--wait=true", "--timeout=120s"]);
    for member in MEMBERS {
        plain
            .kubectl
            .must(&["delete", "pv", &format!("{}-{member}", *NAMESPACE)]);
    }
}
