//! What a look costs, in CPU on both sides. Run by hand: `cargo test --release --test postgres cost -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use crate::pg::{BUDGET, Server, login, superuser};
use pgbaton::core::probe::Probe;
use pgbaton::guard::protocol::Secret;
use pgbaton::postgres::remote::{Identity, identify};
use pgbaton::postgres::{Health, Prober, role::RoleKeeper};

const LOOKS: u32 = 300;

/// CPU of one process, to the nanosecond where the kernel tells it.
fn cpu(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// CPU of a thread of this process.
fn cpu_of_thread(tid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

/// CPU of a process and of its reaped children, in steps of 10 ms.
fn cpu_with_children(pid: i32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<u64> = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .filter_map(|field| field.parse().ok())
        .collect();
    // From the parent's pid on (the command and the state are no numbers) utime is the eleventh, then stime, cutime, cstime.
    Duration::from_millis(fields[10..14].iter().sum::<u64>() * 10)
}

async fn report(what: &str, server: &Server, kept: bool, health: Health, prober: &mut Prober) {
    if kept {
        assert!(matches!(
            prober.probe_kept(BUDGET, health).await,
            Probe::Primary(_)
        ));
    }
    let backend = if kept {
        let client = server.client().await;
        let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbaton'";
        Some(client.query_one(sql, &[]).await.unwrap().get::<_, i32>(0))
    } else {
        None
    };
    let own = nix::unistd::gettid().as_raw();
    let remote = || backend.map_or_else(|| cpu_with_children(server.postmaster()), cpu);
    let (ours, theirs, started) = (cpu_of_thread(own), remote(), Instant::now());
    for _ in 0..LOOKS {
        let probe = if kept {
            prober.probe_kept(BUDGET, health).await
        } else {
            prober.probe_fresh(BUDGET, health).await
        };
        assert!(matches!(probe, Probe::Primary(_)), "{probe:?}");
    }
    println!(
        "{what:32} {:?} elapsed, {:?} CPU here, {:?} CPU in the server, each",
        started.elapsed() / LOOKS,
        (cpu_of_thread(own) - ours) / LOOKS,
        (remote() - theirs) / LOOKS,
    );
}

#[tokio::test]
#[ignore = "a measurement, no check"]
async fn cost_of_a_look() {
    let primary = Server::new("");
    primary.primary().await;
    let two = Server::standby_of(&primary, "two", "");
    let three = Server::standby_of(&primary, "three", "");
    primary
        .primary_when("both stream", |v| {
            v.replication
                .iter()
                .filter(|r| r.state.as_deref() == Some("streaming"))
                .count()
                == 2
        })
        .await;
    let mut trusted = primary.prober();
    report("fresh, read", &primary, false, Health::Read, &mut trusted).await;
    report("fresh, write", &primary, false, Health::Write, &mut trusted).await;
    report("kept, read", &primary, true, Health::Read, &mut trusted).await;
    report("kept, write", &primary, true, Health::Write, &mut trusted).await;
    let (before, started) = (cpu_with_children(primary.postmaster()), Instant::now());
    for _ in 0..LOOKS {
        assert!(matches!(
            identify(&primary.at(), &superuser(), BUDGET).await,
            Identity::Server(_)
        ));
    }
    let used = cpu_with_children(primary.postmaster()).saturating_sub(before) / LOOKS;
    println!(
        "a connection with a small question: {:?} elapsed, {used:?} CPU in the server",
        started.elapsed() / LOOKS
    );
    let secret = Secret("secret".to_owned());
    RoleKeeper::default()
        .ensure(&mut primary.session().await, "asked", &secret, BUDGET)
        .await
        .unwrap();
    primary.sql("ALTER ROLE asked SUPERUSER").await;
    let mut asked = Prober::new(primary.at(), login("asked", "secret"));
    report(
        "fresh, write, with a password",
        &primary,
        false,
        Health::Write,
        &mut asked,
    )
    .await;
    drop((two, three));
}
