//! The user's command: what comes after `--`. The guard adds its own configuration file to it and refuses what would undo that.

use std::path::{Path, PathBuf};

/// Settings that only pgbaton writes. On the command line they would win over its file.
const OWNED: &[&str] = &[
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "promote_trigger_file",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "data_directory",
    "hot_standby",
];

/// Options of `postgres` that take a value as the next argument.
const WITH_VALUE: &[char] = &[
    'B', 'C', 'D', 'N', 'S', 'W', 'd', 'f', 'h', 'k', 'o', 'p', 'r', 't', 'v',
];

/// The command that runs the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerCommand {
    /// The entrypoint.
    pub program: String,
    /// Its arguments up to and with `postgres`.
    pub before: Vec<String>,
    /// The server's options, without `config_file`.
    pub options: Vec<String>,
    /// The user's configuration file.
    pub config_file: PathBuf,
}

/// The command cannot be guarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCommand {
    /// Nothing after `--`.
    #[error("no command to guard: put it after `--`, as in `pgbaton guard -- docker-entrypoint.sh`")]
    Empty,
    /// Two configuration files.
    #[error("config_file is set twice on the command line ('{0}' and '{1}'): leave one")]
    TwoConfigFiles(String, String),
    /// A setting of pgbaton's.
    #[error("the command line sets {0}, which pgbaton writes itself: take it out of the container's args")]
    Owned(String),
    /// wal_level.
    #[error(
        "the command line sets wal_level to '{0}', which standbys cannot follow: take it out, or use replica"
    )]
    WalLevel(String),
}

impl ServerCommand {
    /// Understands the arguments after `--`.
    ///
    /// # Errors
    /// When they are empty or set what pgbaton must set.
    pub fn parse(words: &[String], pgdata: &Path) -> Result<Self, BadCommand> {
        let (program, words) = words.split_first().ok_or(BadCommand::Empty)?;
        let is_server = |w: &String| {
            Path::new(w)
                .file_name()
                .is_some_and(|n| n == "postgres" || n == "postmaster")
        };
        let own = is_server(program);
        let (before, rest) = match words.iter().position(is_server) {
            _ if own => (Vec::new(), words),
            Some(at) => (words[..=at].to_vec(), &words[at + 1..]),
            None => (vec!["postgres".to_owned()], words),
        };
        let mut config_file: Option<String> = None;
        let mut directory: Option<String> = None;
        let mut options = Vec::new();
        let mut at = 0;
        while at < rest.len() {
            let word = &rest[at];
            let next = rest.get(at + 1).cloned();
            let (taken, setting) = read_option(word, next.as_deref(), &mut directory);
            match setting {
                Some((name, value)) if name == "config_file" => {
                    if let Some(first) = config_file {
                        return Err(BadCommand::TwoConfigFiles(first, value));
                    }
                    config_file = Some(value);
                }
                setting => {
                    check(setting)?;
                    options.extend_from_slice(&rest[at..rest.len().min(at + taken)]);
                }
            }
            at += taken;
        }
        let home = directory.map_or_else(|| pgdata.to_owned(), PathBuf::from);
        let config_file = config_file.map_or_else(|| home.join("postgresql.conf"), PathBuf::from);
        Ok(Self {
            program: program.clone(),
            before,
            options,
            config_file: std::path::absolute(&config_file).unwrap_or(config_file),
        })
    }

    /// What the entrypoint is told to run as the server: a name, or a path.
    #[must_use]
    pub fn server_word(&self) -> &str {
        self.before.last().unwrap_or(&self.program)
    }

    /// All arguments to run the server with this configuration file and these options last, which therefore win.
    #[must_use]
    pub fn arguments(&self, config_file: &Path, last: &[&str]) -> Vec<String> {
        let mut all = self.before.clone();
        all.extend(self.options.iter().cloned());
        all.push("-c".to_owned());
        all.push(format!("config_file={}", config_file.display()));
        all.extend(last.iter().map(|&w| w.to_owned()));
        all
    }
}

/// How many words the option takes, and the setting in it if it is one.
fn read_option(
    word: &str,
    next: Option<&str>,
    directory: &mut Option<String>,
) -> (usize, Option<(String, String)>) {
    let setting = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, "on"));
        Some((name.replace('-', "_").to_lowercase(), value.to_owned()))
    };
    if let Some(long) = word.strip_prefix("--") {
        return (1, if long.contains('=') { setting(long) } else { None });
    }
    if word == "-c" {
        return (2, next.and_then(setting));
    }
    if let Some(short) = word.strip_prefix("-c") {
        return (1, setting(short));
    }
    if word == "-D" {
        *directory = next.map(str::to_owned);
        return (2, None);
    }
    if let Some(value) = word.strip_prefix("-D") {
        *directory = Some(value.to_owned());
        return (1, None);
    }
    let mut letters = word.strip_prefix('-').unwrap_or_default().chars();
    let alone = letters.next().is_some_and(|l| WITH_VALUE.contains(&l)) && letters.next().is_none();
    (if alone { 2 } else { 1 }, None)
}

fn check(setting: Option<(String, String)>) -> Result<(), BadCommand> {
    match setting {
        Some((name, _)) if OWNED.contains(&name.as_str()) => Err(BadCommand::Owned(name)),
        Some((name, value)) if name == "wal_level" && value.eq_ignore_ascii_case("minimal") => {
            Err(BadCommand::WalLevel(value))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerCommand, BadCommand> {
        let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        ServerCommand::parse(&words, Path::new("/data/pgdata"))
    }

    fn run(text: &str) -> String {
        parse(text)
            .unwrap()
            .arguments(Path::new("/g.conf"), &[])
            .join(" ")
    }

    #[test]
    fn the_servers_arguments_are_kept_and_the_file_replaced() {
        for (text, arguments, config) in [
            (
                "entry.sh",
                "postgres -c config_file=/g.conf",
                "/data/pgdata/postgresql.conf",
            ),
            (
                "entry.sh -c config_file=/config/postgresql.conf",
                "postgres -c config_file=/g.conf",
                "/config/postgresql.conf",
            ),
            (
                "entry.sh postgres --config-file=/c.conf -c port=5433 --log-min-messages=debug1",
                "postgres -c port=5433 --log-min-messages=debug1 -c config_file=/g.conf",
                "/c.conf",
            ),
            (
                "entry.sh postgres -D /etc/pg -p 5433 -cmax_connections=5",
                "postgres -D /etc/pg -p 5433 -cmax_connections=5 -c config_file=/g.conf",
                "/etc/pg/postgresql.conf",
            ),
            (
                "tini -- entry.sh postgres -cconfig_file=/c.conf",
                "-- entry.sh postgres -c config_file=/g.conf",
                "/c.conf",
            ),
            (
                "/usr/bin/postgres -D/x",
                "-D/x -c config_file=/g.conf",
                "/x/postgresql.conf",
            ),
        ] {
            assert_eq!(run(text), arguments, "{text}");
            assert_eq!(parse(text).unwrap().config_file, PathBuf::from(config), "{text}");
        }
    }

    #[test]
    fn the_servers_own_word_is_known() {
        for (text, word) in [
            ("entry.sh", "postgres"),
            ("entry.sh /opt/pg/bin/postgres -p 1", "/opt/pg/bin/postgres"),
            ("/usr/bin/postgres -D/x", "/usr/bin/postgres"),
        ] {
            assert_eq!(parse(text).unwrap().server_word(), word, "{text}");
        }
    }

    #[test]
    fn what_pgbaton_owns_is_refused() {
        assert_eq!(parse(""), Err(BadCommand::Empty));
        assert!(matches!(
            parse("e -c config_file=/a --config_file=/b"),
            Err(BadCommand::TwoConfigFiles(..))
        ));
        for owned in [
            "e -c primary_conninfo=x",
            "e --synchronous-standby-names=*",
            "e -cPrimary_Slot_Name=s",
            "e postgres --recovery-target-time=now",
            "e -c data_directory=/x",
        ] {
            assert!(matches!(parse(owned), Err(BadCommand::Owned(_))), "{owned}");
        }
        assert!(matches!(
            parse("e -c wal_level=minimal"),
            Err(BadCommand::WalLevel(_))
        ));
    }
}
