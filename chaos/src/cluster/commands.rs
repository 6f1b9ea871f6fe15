//! People's commands, run as people run them: kubectl and pgbaton, each bounded.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

use super::target::Target;

/// How long a command may take; a rollout waits for each pod.
const BOUND: Duration = Duration::from_secs(240);

impl Target {
    /// kubectl in the members' namespace; what it prints.
    ///
    /// # Errors
    /// When it does not end in time, or fails: with what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let (program, first) = self.kubectl.split_first().context("kubectl is not known")?;
        let kubeconfig = self.kubeconfig.to_string_lossy();
        let mut words: Vec<&str> = first.iter().map(String::as_str).collect();
        words.extend(["--kubeconfig", &kubeconfig, "-n", &self.kube.namespace]);
        words.extend(arguments);
        run(Path::new(program), &words).await
    }

    /// pgbaton's command of this name in the members' namespace; what it prints.
    ///
    /// # Errors
    /// As `kubectl`.
    pub async fn pgbaton(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let kubeconfig = self.kubeconfig.to_string_lossy();
        let mut words = vec![
            command,
            "-n",
            self.kube.namespace.as_str(),
            "--kubeconfig",
            &kubeconfig,
        ];
        words.extend(arguments);
        run(&self.pgbaton, &words).await
    }
}

async fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let run = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let words = || format!("'{} {}'", program.display(), arguments.join(" "));
    let output = timeout(BOUND, run)
        .await
        .with_context(|| format!("{} did not end within {BOUND:?}", words()))?
        .with_context(|| format!("cannot run {}", words()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if !output.status.success() {
        // pgbaton says on stdout why it did not do something.
        let said = [text(&output.stderr), text(&output.stdout)].join(" ");
        bail!("{} ended with {}: {}", words(), output.status, said.trim());
    }
    Ok(text(&output.stdout))
}
