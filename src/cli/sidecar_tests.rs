//! Settings at the door: each wrong one is refused, and the refusal names flag, variable and remedy.

use clap::{CommandFactory as _, Parser as _};

use super::*;
use crate::cli::{Cli, Command, checks};

const GOOD: [(&str, &str); 36] = [
    ("install", ""),
    ("member", "postgres-1"),
    ("namespace", "default"),
    ("pod-uid", "0e6c5f0a-7d0b-4a3e-9a2e-1f7f0a3f5a11"),
    ("pod-ip", "127.0.0.11"),
    ("lease", "postgres"),
    ("service", "postgres"),
    ("listen", "127.0.0.11:8008"),
    ("allowed-hosts", "DB.example.com, status.internal"),
    ("postgres-host", "127.0.0.11"),
    ("postgres-port", "5432"),
    ("run-dir", "/pgbaton"),
    ("kubeconfig", ""),
    ("lease-duration", "10s"),
    ("renew-interval", "1s"),
    ("health-timeout", "3s"),
    ("standby-timeout", "3s"),
    ("silence-timeout", "1500ms"),
    ("durability", "sync"),
    ("availability", "available"),
    ("sync-standbys", "1"),
    ("maximum-lag", "1048576"),
    ("patch-env", "on"),
    ("replace-data", "off"),
    ("standby-mode", "on"),
    ("postgres-user", "postgres"),
    ("postgres-password", "secret"),
    ("postgres-db", "app"),
    ("replication-user", "replicator"),
    ("replication-password", "secret too"),
    ("log", "info"),
    ("log-format", "human"),
    ("maximum-read-lag", "16777216"),
    ("replication-password-previous", "the old one"),
    ("preflight-interval", "12min"),
    ("pod-name", "postgres-1-0"),
];

/// The settings of a command line in which these flags have other values (none: are left out).
fn read(changes: &[(&str, Option<&str>)]) -> Result<SidecarSettings, String> {
    let mut line = vec!["pgbaton".to_owned(), "sidecar".to_owned()];
    for (flag, good) in GOOD {
        let change = changes.iter().find(|(changed, _)| *changed == flag);
        if let Some(value) = change.map_or(Some(good), |(_, value)| *value) {
            line.push(format!("--{flag}={value}"));
        }
    }
    let cli = Cli::try_parse_from(line)
        .map_err(|error| checks::with_environment(&error, &Cli::command(), "sidecar"))?;
    let Command::Sidecar(args) = cli.command else {
        unreachable!("the line says sidecar")
    };
    logging::check(&args.log).map_err(|e| e.to_string())?;
    args.settings()
}

#[test]
fn good_settings_are_taken() {
    let settings = read(&[]).unwrap();
    assert_eq!(settings.core.permit, crate::core::types::Millis(8_000));
    assert_eq!(
        settings.core.holder,
        "postgres-1_0e6c5f0a-7d0b-4a3e-9a2e-1f7f0a3f5a11"
    );
    assert_eq!(settings.kubeconfig, None, "set and empty is not set");
    let hosts: Vec<_> = settings.allowed_hosts.iter().map(String::as_str).collect();
    assert_eq!(hosts, ["db.example.com", "status.internal"]);
    for good in [
        &[("pod-ip", Some("fd00::5")), ("listen", Some("[::]:8008"))][..],
        &[("pod-ip", Some("10.1.2.3")), ("listen", Some("0.0.0.0:8008"))],
        &[("postgres-db", None), ("replication-password-previous", None)],
        &[("lease-duration", Some("3s")), ("renew-interval", Some("800ms"))],
        &[
            ("lease-duration", Some("15s")),
            ("renew-interval", Some("4s")),
            ("silence-timeout", Some("6s")),
        ],
        &[("postgres-host", Some("localhost"))],
        &[("pod-name", None)],
        &[("sync-standbys", Some("15"))],
    ] {
        assert!(read(good).is_ok(), "{good:?}: {:?}", read(good).err());
    }
}

/// Flag, value, variable, and a part of the remedy. `\n`, `\r`, `\t`, `\d` (DEL) stand for control characters.
const WRONG: &str = r"
member | (none) | PGBATON_MEMBER | name of its StatefulSet
member | Postgres_1 | PGBATON_MEMBER | as in postgres-1
member |  | PGBATON_MEMBER | name of its StatefulSet
namespace | (none) | POD_NAMESPACE | Namespace of all objects
namespace |  | POD_NAMESPACE | as in default
namespace | my.space | POD_NAMESPACE | as in default
namespace | Default | POD_NAMESPACE | as in default
pod-uid | (none) | POD_UID | metadata.uid
pod-uid |  | POD_UID | metadata.uid
pod-uid | a_b | POD_UID | metadata.uid
pod-uid | a b | POD_UID | metadata.uid
pod-name | postgres-1-1 | POD_NAME | --replicas=1
pod-name | postgres-2-0 | POD_NAME | PGBATON_MEMBER
pod-name |  | POD_NAME | pod postgres-1-0
pod-ip | (none) | POD_IP | status.podIP
pod-ip |  | POD_IP | status.podIP
pod-ip | postgres-1 | POD_IP | status.podIP
pod-ip | 10.0.0.999 | POD_IP | status.podIP
pod-ip | 0.0.0.0 | POD_IP | status.podIP
pod-ip | :: | POD_IP | status.podIP
pod-ip | 224.0.0.1 | POD_IP | status.podIP
pod-ip | ff02::1 | POD_IP | status.podIP
pod-ip | 255.255.255.255 | POD_IP | status.podIP
lease |  | PGBATON_LEASE | as in postgres
lease | a..b | PGBATON_LEASE | as in postgres
lease | -a | PGBATON_LEASE | as in postgres
service |  | PGBATON_SERVICE | as in postgres
service | 1st | PGBATON_SERVICE | a letter first
service | a.b | PGBATON_SERVICE | as in postgres
service | (64 bytes) | PGBATON_SERVICE | up to 62
listen | 8008 | PGBATON_LISTEN | Where status
listen | localhost:8008 | PGBATON_LISTEN | Where status
listen | 0.0.0.0:0 | PGBATON_LISTEN | as in 0.0.0.0:8008
listen | 0.0.0.0:5432 | PGBATON_LISTEN | another one
allowed-hosts | http://db.example.com | PGBATON_ALLOWED_HOSTS | without scheme and port
allowed-hosts | db.example.com:8008 | PGBATON_ALLOWED_HOSTS | without scheme and port
allowed-hosts | * | PGBATON_ALLOWED_HOSTS | as in db.example.com
postgres-host |  | PGBATON_POSTGRES_HOST | as in 127.0.0.1
postgres-host | a host | PGBATON_POSTGRES_HOST | as in 127.0.0.1
postgres-host | 0.0.0.0 | PGBATON_POSTGRES_HOST | as in 127.0.0.1
postgres-port | 0 | PGBATON_POSTGRES_PORT | 1..=65535
postgres-port | 70000 | PGBATON_POSTGRES_PORT | 1..=65535
run-dir | pgbaton | PGBATON_RUN_DIR | as in /pgbaton
run-dir | (101 bytes) | PGBATON_RUN_DIR | a shorter one
lease-duration | 0s | PGBATON_LEASE_DURATION | 3s to 3600s
lease-duration | 2s | PGBATON_LEASE_DURATION | 3s to 3600s
lease-duration | 2h | PGBATON_LEASE_DURATION | 3s to 3600s
lease-duration | 4500ms | PGBATON_LEASE_DURATION | as in 10s
lease-duration | 10 | PGBATON_LEASE_DURATION | time unit needed
renew-interval | 0s | PGBATON_RENEW_INTERVAL | 100ms to 2666ms
renew-interval | 3s | PGBATON_RENEW_INTERVAL | 100ms to 2666ms
renew-interval | 10s | PGBATON_RENEW_INTERVAL | 100ms to 2666ms
health-timeout | 0s | PGBATON_HEALTH_TIMEOUT | 500ms to 600s
health-timeout | 11min | PGBATON_HEALTH_TIMEOUT | 500ms to 600s
health-timeout | 11s | PGBATON_HEALTH_TIMEOUT | at most 10s
standby-timeout | 499ms | PGBATON_STANDBY_TIMEOUT | 500ms to 600s
standby-timeout | 11s | PGBATON_STANDBY_TIMEOUT | at most 10s
silence-timeout | 0s | PGBATON_SILENCE_TIMEOUT | 500ms to 600s
silence-timeout | 11s | PGBATON_SILENCE_TIMEOUT | at most 10s
silence-timeout | 1s | PGBATON_SILENCE_TIMEOUT | as in 1500ms
preflight-interval | 0s | PGBATON_PREFLIGHT_INTERVAL | 1s to 3600s
durability | fsync | PGBATON_DURABILITY | sync, async
durability |  | PGBATON_DURABILITY | sync, async
availability | maximum | PGBATON_AVAILABILITY | available, strict
sync-standbys | 0 | PGBATON_SYNC_STANDBYS | 1..=15
sync-standbys | 16 | PGBATON_SYNC_STANDBYS | 1..=15
sync-standbys | -1 | PGBATON_SYNC_STANDBYS | 1..=15
maximum-lag | 1MB | PGBATON_MAXIMUM_LAG | in bytes
maximum-read-lag | -1 | PGBATON_MAXIMUM_READ_LAG | bytes
patch-env | yes | PGBATON_PATCH_ENV | on, off
replace-data | yes | PGBATON_REPLACE_DATA | on, off
standby-mode | primary | STANDBY_MODE | on, off
standby-mode |  | STANDBY_MODE | on, off
postgres-user |  | POSTGRES_USER | Secret
postgres-user | (64 bytes) | POSTGRES_USER | shorter
postgres-password | (none) | POSTGRES_PASSWORD | Its password
postgres-password |  | POSTGRES_PASSWORD | from the Secret
postgres-password | hunter2\n | POSTGRES_PASSWORD | newline
postgres-password | a\tb | POSTGRES_PASSWORD | printable
postgres-db |  | POSTGRES_DB | from the Secret
postgres-db | a\d | POSTGRES_DB | printable
replication-password-previous |  | REPLICATION_PASSWORD_PREVIOUS | from the Secret
replication-password-previous | secret too | REPLICATION_PASSWORD_PREVIOUS | the one before
replication-user | (none) | REPLICATION_USER | Replication role
replication-user |  | REPLICATION_USER | from the Secret
replication-user | postgres | REPLICATION_USER | as in replicator
replication-user | pg_repl | REPLICATION_USER | as in replicator
replication-user | repl\n | REPLICATION_USER | newline
replication-password | (none) | REPLICATION_PASSWORD | must have the same
replication-password |  | REPLICATION_PASSWORD | from the Secret
replication-password | hunter2\r\n | REPLICATION_PASSWORD | newline
log | pgbaton=loud | PGBATON_LOG | pgbaton=debug
log-format | xml | PGBATON_LOG_FORMAT | human, json
";

fn value_of(told: &str) -> Option<String> {
    let value = match told {
        "(none)" => return None,
        "(64 bytes)" => "x".repeat(64),
        "(101 bytes)" => format!("/{}", "d".repeat(100)),
        plain => plain.to_owned(),
    };
    let controls = [("\\n", "\n"), ("\\r", "\r"), ("\\t", "\t"), ("\\d", "\u{7f}")];
    Some(
        controls
            .iter()
            .fold(value, |value, (told, is)| value.replace(told, is)),
    )
}

#[test]
fn every_wrong_setting_is_refused_by_name_with_what_to_put_there() {
    let rows = WRONG.lines().filter(|line| !line.is_empty());
    assert!(rows.clone().count() > 80);
    for row in rows {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [flag, told, env, remedy] = cells[..] else {
            panic!("{row} is no row")
        };
        let value = value_of(told);
        let value = value.as_deref();
        let error = read(&[(flag, value)])
            .err()
            .unwrap_or_else(|| panic!("--{flag}={value:?} was taken"));
        for part in [&format!("--{flag}"), &format!("({env})"), remedy] {
            assert!(
                error.contains(part),
                "--{flag}={value:?}: '{part}' is not in: {error}"
            );
        }
        let secret = value.unwrap_or_default().trim();
        assert!(
            !flag.ends_with("password") || secret.is_empty() || !error.contains(secret),
            "a password is shown: {error}"
        );
    }
}

#[test]
fn an_address_that_others_cannot_reach_is_refused() {
    let error = read(&[("pod-ip", Some("10.1.2.3")), ("listen", Some("127.0.0.1:8008"))]).unwrap_err();
    assert!(
        error.contains("--listen (PGBATON_LISTEN)") && error.contains("0.0.0.0:8008"),
        "{error}"
    );
}
