//! The server's configuration as pgbaton wants it: a file of its own that includes the user's, so it wins over one that is mounted
//! read-only, changes by reload, and leaves nothing behind in PGDATA.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{remove_if_there, write_atomically, write_durably};
use super::live::{Guard, lock};
use super::protocol::Upstream;

/// Settings that PostgreSQL would read from postgresql.auto.conf after pgbaton's file.
const OWNED: &[&str] = &[
    "primary_conninfo",
    "primary_slot_name",
    "synchronous_standby_names",
    "restore_command",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "promote_trigger_file",
    "hot_standby",
    "wal_log_hints",
    "restart_after_crash",
    "data_directory",
];
/// At least so many walsenders and slots: standbys, a clone (two) and a rewind at once.
const SENDERS: u64 = 10;

/// What the server is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// `synchronous_standby_names`.
    pub names: String,
    /// Whom to follow, and the slot there; none: nobody, and no archive either.
    pub upstream: Option<(Upstream, String)>,
}

/// Text as a value in postgresql.conf.
#[must_use]
pub fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// A connection string without the password.
#[must_use]
pub fn conninfo(upstream: &Upstream, passfile: &Path, database: Option<&str>) -> String {
    let quoted = |value: &str| format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"));
    let mut text = format!(
        "host={} hostaddr={} port={} user={} application_name={} passfile={} connect_timeout=2 keepalives_idle=3 \
         keepalives_interval=1 keepalives_count=3",
        quoted(upstream.host.as_str()),
        upstream.hostaddr,
        upstream.port,
        quoted(&upstream.user),
        quoted(&upstream.application_name),
        quoted(&passfile.to_string_lossy()),
    );
    if let Some(database) = database {
        let _ = write!(text, " dbname={}", quoted(database));
    }
    text
}

/// The value of one keyword in a connection string (`keyword=value`, quoted where needed); none: not there or empty.
#[must_use]
pub fn connection_value(conninfo: &str, keyword: &str) -> Option<String> {
    let mut rest = conninfo.trim_start();
    while let Some((name, after)) = rest.split_once('=') {
        let mut value = String::new();
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut letters = after.char_indices().skip(usize::from(quoted));
        let mut end = after.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '\\' => value.extend(letters.next().map(|(_, l)| l)),
                '\'' if quoted => {
                    end = at + 1;
                    break;
                }
                l if !quoted && l.is_whitespace() => {
                    end = at;
                    break;
                }
                other => value.push(other),
            }
        }
        if name.trim() == keyword {
            return Some(value).filter(|v| !v.is_empty());
        }
        rest = after[end..].trim_start();
    }
    None
}

/// Writes the password file for this upstream.
///
/// # Errors
/// Of the file system.
pub fn write_passfile(path: &Path, upstream: &Upstream) -> io::Result<()> {
    let escaped = |value: &str| value.replace('\\', "\\\\").replace(':', "\\:");
    let line = format!(
        "{}:{}:*:{}:{}\n",
        escaped(upstream.host.as_str()),
        upstream.port,
        escaped(&upstream.user),
        escaped(&upstream.password.0)
    );
    write_atomically(path, line.as_bytes(), 0o600)
}

/// What in an order cannot stand in a configuration or password file.
#[must_use]
pub fn unfit(text: &str) -> bool {
    text.chars().any(char::is_control)
}

/// True when some part of the upstream cannot be written down.
#[must_use]
pub fn upstream_unfit(upstream: &Upstream) -> bool {
    unfit(&upstream.user) || unfit(&upstream.password.0) || unfit(&upstream.application_name)
}

impl Guard {
    /// Writes the server's configuration (and password file) as desired.
    ///
    /// # Errors
    /// Of the file system.
    pub fn write_settings(&self, desired: &Desired) -> io::Result<()> {
        let mut known = lock(&self.desired);
        let passfile = self.settings.run_dir.join("passfile");
        if let Some((upstream, _)) = &desired.upstream {
            self.secrets.remember(&upstream.password.0);
            write_passfile(&passfile, upstream)?;
        } else {
            // A receiver that were to come back could not log in.
            remove_if_there(&passfile)?;
        }
        let text = self.render(desired, &passfile);
        write_atomically(&self.settings.config_file(), text.as_bytes(), 0o600)?;
        *known = desired.clone();
        drop(known);
        self.update(|live| {
            live.names.clone_from(&desired.names);
            live.following = desired.upstream.as_ref().map(|(u, _)| u.host.clone());
        });
        Ok(())
    }

    fn render(&self, desired: &Desired, passfile: &Path) -> String {
        let (total, version) = {
            let live = self.live();
            (live.disk.1, live.major_version.unwrap_or(0))
        };
        let megabytes = |bytes: u64| (bytes >> 20).max(32);
        let user = &self.command.config_file;
        let mut text = String::from(
            "# Written by pgbaton at each start and reload; changes here are lost. Yours belong into the included file.\n\
             # Defaults, which the included file may set otherwise.\n\
             wal_receiver_timeout = '5s'\nwal_sender_timeout = '5s'\n\
             tcp_keepalives_idle = 5\ntcp_keepalives_interval = 1\ntcp_keepalives_count = 3\n",
        );
        if version >= 13 {
            let _ = writeln!(text, "max_slot_wal_keep_size = '{}MB'", megabytes(total / 4));
            let _ = writeln!(
                text,
                "wal_keep_size = '{}MB'",
                megabytes((total / 10).min(128 << 20))
            );
        }
        let _ = writeln!(text, "include {}", quote(&user.to_string_lossy()));
        text.push_str("# Settings that pgbaton needs as they are here.\n");
        let mut set = |name: &str, value: &str| {
            let _ = writeln!(text, "{name} = {}", quote(value));
        };
        set("data_directory", &self.settings.pgdata.to_string_lossy());
        set("hot_standby", "on");
        set("wal_log_hints", "on");
        set("wal_retrieve_retry_interval", "500ms");
        // Crash recovery shows rows whose commit nobody was told of: who may start again after it, and who may see it, is pgbaton's to say.
        set("restart_after_crash", "off");
        set("recovery_target_timeline", "latest");
        for target in ["", "_lsn", "_name", "_time", "_xid"] {
            set(&format!("recovery_target{target}"), "");
        }
        if (12..16).contains(&version) {
            set("promote_trigger_file", "");
        }
        let mut theirs = Values::default();
        theirs.read(user, 0);
        for name in ["max_wal_senders", "max_replication_slots"] {
            if theirs
                .get(name)
                .and_then(|v| v.parse::<u64>().ok())
                .is_some_and(|n| n < SENDERS)
            {
                set(name, &SENDERS.to_string());
            }
        }
        if theirs
            .get("wal_level")
            .is_some_and(|v| v.eq_ignore_ascii_case("minimal"))
        {
            set("wal_level", "replica");
        }
        set("synchronous_standby_names", &desired.names);
        if let Some((upstream, slot)) = &desired.upstream {
            set("primary_conninfo", &conninfo(upstream, passfile, None));
            set("primary_slot_name", slot);
        } else {
            set("primary_conninfo", "");
            set("primary_slot_name", "");
            set("restore_command", "");
        }
        text
    }

    /// Directories of the server's Unix sockets, as far as the user's files tell.
    #[must_use]
    pub fn socket_directories(&self) -> Vec<PathBuf> {
        let mut theirs = Values::default();
        theirs.read(&self.command.config_file, 0);
        let told = theirs
            .get("unix_socket_directories")
            .unwrap_or("/var/run/postgresql,/tmp");
        told.split(',')
            .map(|d| PathBuf::from(d.trim().trim_matches('"')))
            .collect()
    }

    /// Takes pgbaton's settings out of postgresql.auto.conf, which would win over its file. Answers which were there.
    ///
    /// # Errors
    /// Of the file system.
    pub fn clean_auto_conf(&self, pgdata: &Path) -> io::Result<Vec<String>> {
        let path = pgdata.join("postgresql.auto.conf");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let (kept, removed) = without_owned(&text);
        if !removed.is_empty() {
            write_durably(&path, kept.as_bytes(), 0o600)?;
        }
        Ok(removed)
    }
}

fn without_owned(text: &str) -> (String, Vec<String>) {
    let mut kept = String::with_capacity(text.len());
    let mut removed = Vec::new();
    for line in text.split_inclusive('\n') {
        match setting(line) {
            Some((name, _)) if OWNED.contains(&name.as_str()) => removed.push(name),
            _ => kept.push_str(line),
        }
    }
    (kept, removed)
}

/// Name and value of a line of a configuration file.
fn setting(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.'))?;
    if end == 0 {
        return None;
    }
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    let value = match rest.strip_prefix('\'') {
        Some(quoted) => {
            let mut value = String::new();
            let mut letters = quoted.chars().peekable();
            while let Some(letter) = letters.next() {
                match letter {
                    '\'' if letters.peek() == Some(&'\'') => {
                        letters.next();
                        value.push('\'');
                    }
                    '\'' => break,
                    '\\' => value.extend(letters.next()),
                    other => value.push(other),
                }
            }
            value
        }
        None => rest
            .split(['#', ' ', '\t', '\n', '\r'])
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    Some((line[..end].to_lowercase(), value))
}

/// Values in the user's files, the last one of each.
#[derive(Debug, Default)]
pub struct Values(Vec<(String, String)>);

impl Values {
    /// The last value of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.as_str())
    }

    /// Reads a file and what it includes; PostgreSQL allows ten levels. Unreadable ones are PostgreSQL's to complain about.
    pub fn read(&mut self, path: &Path, depth: u32) {
        if depth > 10 {
            return;
        }
        let beside = |name: &str| path.parent().unwrap_or(Path::new("/")).join(name);
        for line in fs::read_to_string(path).unwrap_or_default().lines() {
            match setting(line) {
                Some((name, value)) if name == "include" || name == "include_if_exists" => {
                    self.read(&beside(&value), depth + 1);
                }
                Some((name, value)) if name == "include_dir" => {
                    let entries = fs::read_dir(beside(&value)).into_iter().flatten().flatten();
                    let mut files: Vec<_> = entries.map(|e| e.path()).collect();
                    files.retain(|f| f.extension().is_some_and(|e| e == "conf"));
                    files.sort();
                    for file in files {
                        self.read(&file, depth + 1);
                    }
                }
                Some(pair) => self.0.push(pair),
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::protocol::Secret;

    #[test]
    fn values_are_quoted_for_the_file_and_for_libpq() {
        assert_eq!(quote(r"a'b\c"), r"'a''b\\c'");
        let upstream = Upstream {
            host: "postgres-1".parse().unwrap(),
            hostaddr: "::1".parse().unwrap(),
            port: 5432,
            user: r"o'b\r".to_owned(),
            password: Secret(r"p:a\s's".to_owned()),
            application_name: "a b".to_owned(),
        };
        let text = conninfo(&upstream, Path::new("/run/pass file"), None);
        assert!(text.starts_with(
            r"host='postgres-1' hostaddr=::1 port=5432 user='o\'b\\r' application_name='a b' passfile='/run/pass file' "
        ));
        assert!(!text.contains("p:a"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passfile");
        write_passfile(&file, &upstream).unwrap();
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "postgres-1:5432:*:o'b\\\\r:p\\:a\\\\s's\n"
        );
        assert!(unfit("a\nb") && !unfit("a b'\\"));
    }

    #[test]
    fn values_are_read_from_connection_strings() {
        // As pg_basebackup -R writes it.
        let text = r"user=replicationuser password='a b\'=c' channel_binding=prefer host='postgres-1' port=5432 sslmode=prefer";
        assert_eq!(connection_value(text, "host").as_deref(), Some("postgres-1"));
        assert_eq!(connection_value(text, "password").as_deref(), Some("a b'=c"));
        assert_eq!(connection_value(text, "sslmode").as_deref(), Some("prefer"));
        assert_eq!(connection_value(text, "application_name"), None);
        assert_eq!(
            connection_value(" host = x  port=1 ", "host").as_deref(),
            Some("x")
        );
        assert_eq!(connection_value("host='' port=1", "host"), None);
        assert_eq!(connection_value("", "host"), None);
        assert_eq!(connection_value("nonsense", "host"), None);
        assert_eq!(
            connection_value("host='never ended", "host").as_deref(),
            Some("never ended")
        );
    }

    #[test]
    fn only_pgbatons_lines_leave_auto_conf() {
        let text = "# Do not edit\nport = '5433'\nprimary_conninfo = 'host=x password=y'\n  Synchronous_Standby_Names '*'\nwork_mem=4MB";
        let (kept, removed) = without_owned(text);
        assert_eq!(kept, "# Do not edit\nport = '5433'\nwork_mem=4MB");
        assert_eq!(removed, ["primary_conninfo", "synchronous_standby_names"]);
    }

    #[test]
    fn the_users_values_are_read_through_includes() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("postgresql.conf");
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        fs::write(dir.path().join("conf.d/a.conf"), "max_wal_senders = 4\n").unwrap();
        fs::write(dir.path().join("conf.d/ignored"), "max_wal_senders = 5\n").unwrap();
        fs::write(
            dir.path().join("loop.conf"),
            "include 'loop.conf'\nwal_level=minimal\n",
        )
        .unwrap();
        fs::write(
            &main,
            "max_wal_senders = 3 # few\ninclude_dir 'conf.d'\ninclude = loop.conf\n",
        )
        .unwrap();
        let mut values = Values::default();
        values.read(&main, 0);
        assert_eq!(values.get("max_wal_senders"), Some("4"));
        assert_eq!(values.get("wal_level"), Some("minimal"));
        assert_eq!(values.get("max_replication_slots"), None);
    }
}
