//! `scripts/measured.sh`: under which commit a measurement is noted. A page or evidence that is committed later must not make it start again,
//! and what no commit has must not be measured.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

struct Repository(tempfile::TempDir);

impl Repository {
    fn new() -> Self {
        let repository = Self(tempfile::tempdir().unwrap());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/measured.sh");
        repository.run(&["git", "init", "--quiet"]);
        std::fs::copy(script, repository.0.path().join("measured.sh")).unwrap();
        repository.write("src/lib.rs", "one");
        repository.write("chaos/lib.rs", "one");
        repository.write("docs/page.md", "one");
        repository.commit();
        repository
    }

    fn output(&self, words: &[&str]) -> Output {
        let mut command = Command::new(words[0]);
        // Whatever the caller's own repository and settings say.
        let foreign = std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("GIT_"));
        for (name, _) in foreign {
            command.env_remove(name);
        }
        let identity = [
            "user.name=test",
            "user.email=test@localhost",
            "commit.gpgsign=false",
        ];
        command
            .args(&words[1..])
            .current_dir(self.0.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_COUNT", identity.len().to_string());
        for (place, setting) in identity.iter().enumerate() {
            let (key, value) = setting.split_once('=').unwrap();
            command.env(format!("GIT_CONFIG_KEY_{place}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{place}"), value);
        }
        command.output().unwrap()
    }

    fn run(&self, words: &[&str]) -> String {
        let output = self.output(words);
        assert!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// The new commit, as results are noted under it.
    fn commit(&self) -> String {
        self.run(&["git", "add", "--all"]);
        self.run(&["git", "commit", "--quiet", "--message", "Change"]);
        self.run(&["git", "rev-parse", "--short=12", "HEAD"])
    }

    fn measured(&self, paths: &str) -> Output {
        let script = format!(
            "set -Eeuo pipefail; . ./measured.sh; measured \"${{program[@]}}\" {paths}; echo $commit"
        );
        self.output(&["bash", "-c", &script])
    }

    fn name(&self, paths: &str) -> String {
        let output = self.measured(paths);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }
}

#[test]
fn a_commit_is_another_one_only_when_it_changed_what_is_measured() {
    let repository = Repository::new();
    let first = repository.name("chaos");
    repository.write("docs/page.md", "two");
    assert_eq!(repository.name("chaos"), first, "a change of a page in hand");
    repository.commit();
    assert_eq!(repository.name("chaos"), first, "a commit of a page");
    repository.write("chaos/lib.rs", "two");
    let second = repository.commit();
    assert_eq!(repository.name("chaos"), second);
    assert_eq!(repository.name(""), first, "chaos/ is not measured there");
    repository.write("src/lib.rs", "two");
    let third = repository.commit();
    assert_eq!(repository.name("chaos"), third);
    assert_eq!(repository.name(""), third, "the program always is");
}

#[test]
fn what_two_branches_made_together_is_the_merge() {
    let repository = Repository::new();
    let git = |words: &str| repository.run(&format!("git {words}").split(' ').collect::<Vec<_>>());
    git("checkout --quiet -b other");
    repository.write("src/other.rs", "one");
    let other = repository.commit();
    git("checkout --quiet -");
    repository.write("docs/page.md", "two");
    repository.commit();
    git("merge --quiet --no-edit --no-ff other");
    // The code is that of the branch alone.
    assert_eq!(repository.name("chaos"), other);
    git("checkout --quiet -b third HEAD~1");
    repository.write("chaos/third.rs", "one");
    repository.commit();
    git("checkout --quiet -");
    git("merge --quiet --no-edit --no-ff third");
    let merge = git("rev-parse --short=12 HEAD");
    assert_eq!(repository.name("chaos"), merge);
}

#[test]
fn what_no_commit_has_is_refused() {
    let repository = Repository::new();
    for path in ["src/lib.rs", "src/new.rs", "Cargo.toml", "chaos/lib.rs"] {
        let before = std::fs::read(repository.0.path().join(path));
        repository.write(path, "changed");
        let output = repository.measured("chaos");
        assert!(!output.status.success(), "{path}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("changes that no commit has"), "{said}");
        let path = repository.0.path().join(path);
        match before {
            Ok(text) => std::fs::write(path, text).unwrap(),
            Err(_) => std::fs::remove_file(path).unwrap(),
        }
    }
    assert!(repository.measured("chaos").status.success());
}
