//! kubectl as an administrator, every call bounded.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Where the overlay `tutorial` runs.
pub const NAMESPACE: &str = "psql-namespace";
/// Generous: a pod's life on a loaded machine.
pub const BOUND: Duration = Duration::from_secs(120);

/// The repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// kubectl with its first arguments.
pub struct Kubectl(Vec<String>);

impl Kubectl {
    /// As PGBATON_KUBECTL names it; the kubeconfig is KUBECONFIG's.
    pub fn new() -> Self {
        assert!(
            std::env::var_os("KUBECONFIG").is_some(),
            "KUBECONFIG is not set: run these tests with chaos/cluster/smoke.sh (make cluster-smoke)"
        );
        let kubectl = std::env::var("PGBATON_KUBECTL").unwrap_or_else(|_| "kubectl".to_owned());
        Self(kubectl.split_whitespace().map(str::to_owned).collect())
    }

    /// What it prints, or what it says is wrong.
    pub fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let out = Command::new(&self.0[0])
            .args(&self.0[1..])
            .arg("--request-timeout=60s")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("cannot run {:?}: {error}", self.0));
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if out.status.success() {
            Ok(text(out.stdout))
        } else {
            Err(text(out.stderr))
        }
    }

    /// As `run`, which must succeed.
    pub fn must(&self, arguments: &[&str]) -> String {
        self.run(arguments)
            .unwrap_or_else(|error| panic!("kubectl {arguments:?}: {error}"))
    }
}

/// Waits until the condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        std::thread::sleep(Duration::from_millis(300));
    }
}
