//! What a cluster costs when nothing happens.

use std::time::Duration;

use jiff::Timestamp;
use pgbaton_chaos::local::kubelet::{Kubelet, Role};
use pgbaton_chaos::local::process;
use pgbaton_chaos::oracles::trial::Subject as _;
use tokio::time::{Instant, sleep};

use super::support::{BOUND, Live};

/// After the start: first rounds of everything, and the guard gives up what the start needed.
const SETTLE: Duration = Duration::from_secs(20);
const WINDOW: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_secs(1);
const SIDECAR_KIB: u64 = 20 * 1024;
const GUARD_KIB: u64 = 5 * 1024;
/// Requests in the window, watches not counted: at most 1.2 a second, less than 0.1 a second.
const LEADER_REQUESTS: u64 = 72;
const STANDBY_REQUESTS: u64 = 5;

fn pid_of(kubelet: &Kubelet, role: Role) -> i32 {
    let pid = kubelet.container(role).unwrap().init_pid();
    let name = process::command_name(pid).unwrap_or_default();
    assert_eq!(name, "pgbaton", "process {pid} of {}", kubelet.member().name);
    pid
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_and_requests_at_rest() {
    let live = Live::whole(231, |_| {}).await;
    sleep(SETTLE).await;
    let rig = live.rig();
    let primary = rig.primary().unwrap();
    let before = rig.store.api().requests();
    let began = Instant::now();
    let mut wrong = Vec::new();
    let mut largest = vec![[0_u64; 2]; rig.kubelets.len()];
    while began.elapsed() < WINDOW {
        for (kubelet, seen) in rig.kubelets.iter().zip(&mut largest) {
            let sidecar = pid_of(kubelet, Role::Sidecar);
            let guard = pid_of(kubelet, Role::Server);
            let now = [
                process::resident_kib(sidecar).unwrap(),
                process::resident_kib(guard).unwrap(),
            ];
            *seen = std::array::from_fn(|at| seen[at].max(now[at]));
        }
        sleep(LOOK).await;
    }
    let requests = rig.store.api().requests().since(&before);
    for (kubelet, [sidecar, guard]) in rig.kubelets.iter().zip(largest) {
        let name = &kubelet.member().name;
        let asked = requests.of(name);
        let watches = requests.watches_of(name);
        let limit = if *name == primary {
            LEADER_REQUESTS
        } else {
            STANDBY_REQUESTS
        };
        let measured = format!(
            "{name}: sidecar {sidecar} KiB, guard {guard} KiB, {asked} requests, {} watches opened, {} open",
            watches.opened, watches.open
        );
        println!("{measured}");
        let big = sidecar >= SIDECAR_KIB || guard >= GUARD_KIB;
        if big || asked > limit || watches.open == 0 {
            wrong.push(measured);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}\n{:#?}", requests.requests);
    // It was rest: nobody took over, and the leader did renew.
    assert_eq!(live.term(), 1);
    assert!(requests.of(&primary) >= 30, "{requests:#?}");
    whole_wants_a_renewal(&live, &primary).await;
    live.end().await;
}

/// A frozen sidecar leaves everything looking well for a while: only the renewal is missing.
async fn whole_wants_a_renewal(live: &Live, primary: &str) {
    let sidecar = live.member(primary).container(Role::Sidecar).unwrap();
    sidecar.freeze();
    let frozen = Timestamp::now();
    live.rig().wait_whole(LOOK).await.unwrap();
    let missing = live.rig().wait_whole_since(frozen, LOOK * 2).await.unwrap_err();
    sidecar.thaw();
    assert!(
        missing
            .iter()
            .any(|text| text.contains("has not renewed the Lease")),
        "{missing:?}"
    );
    live.rig().wait_whole_since(frozen, BOUND).await.unwrap();
}
