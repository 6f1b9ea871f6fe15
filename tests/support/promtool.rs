//! Prometheus and promtool: those on PATH, or Debian's package, which scripts/setup.sh unpacks.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The directory that has both programs. Ends the test when they cannot be had, with what to do.
pub fn programs(repository: &Path) -> PathBuf {
    let out = Command::new(repository.join("scripts/setup.sh"))
        .arg("prometheus")
        .stderr(Stdio::inherit())
        .output()
        .expect("scripts/setup.sh runs");
    assert!(
        out.status.success(),
        "these tests need Prometheus and promtool, and scripts/setup.sh could not provide them: see above"
    );
    PathBuf::from(String::from_utf8_lossy(&out.stdout).trim())
}

/// Runs promtool with these arguments and this standard input; its whole output, Err when it says no.
pub fn promtool(repository: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
    let mut child = Command::new(programs(repository).join("promtool"))
        .args(arguments)
        .current_dir(repository)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.to_owned();
    // It may end before it has read all.
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(input.as_bytes());
    });
    let out = child.wait_with_output().expect("promtool ends");
    writer.join().expect("the writer ends");
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if out.status.success() { Ok(said) } else { Err(said) }
}
