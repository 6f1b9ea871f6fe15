//! Faults of hosts are taken back by commands that are noted before the fault is done.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Commands that take back what was done. They run once: by `now`, or at the latest when this is dropped.
#[derive(Debug, Default)]
#[must_use = "dropping it undoes the fault"]
pub struct Undo(Vec<Vec<String>>);

impl Undo {
    /// One more command, run before those that were added earlier.
    pub fn add(&mut self, command: &[&str]) {
        self.0.push(command.iter().map(|&word| word.to_owned()).collect());
    }

    /// Nothing is to be taken back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes back the other one too, before this one.
    pub fn and(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }

    /// Takes it back.
    ///
    /// # Errors
    /// When a command failed; the others were run all the same.
    pub fn now(mut self) -> Result<()> {
        self.run()
    }

    fn run(&mut self) -> Result<()> {
        let mut first = Ok(());
        for command in std::mem::take(&mut self.0).into_iter().rev() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            first = first.and(run(&words));
        }
        first
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Err(error) = self.run() {
            tracing::error!("a fault could not be taken back: {error:#}");
        }
    }
}

/// Runs a command to its end.
///
/// # Errors
/// What it said, when it did not succeed.
pub fn run(command: &[&str]) -> Result<()> {
    let [program, arguments @ ..] = command else {
        bail!("an empty command");
    };
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!(
            "'{}' ended with {}: {}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_taken_back_once_last_first_and_when_it_is_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let fault = || {
            let mut undo = Undo::default();
            for word in ["first", "last"] {
                let command = format!("echo {word} >> {}", log.display());
                undo.add(&["sh", "-c", &command]);
            }
            undo
        };
        fault().now().unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "last\nfirst\n");
        drop(fault());
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "last\nfirst\n".repeat(2));
        let mut failing = fault();
        failing.add(&["false"]);
        assert!(failing.now().is_err());
        let all = std::fs::read_to_string(&log).unwrap();
        assert_eq!(all.lines().count(), 6, "the others are taken back all the same");
    }
}
