//! Checks of what flags and environment say. Each refusal names the flag, its variable, and what to put there.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::core::types::{BadMemberName, MemberName};
use crate::guard::protocol::SOCKET_NAME;
use crate::http::page::hosts::NAMES_MAX;

/// Longest name that PostgreSQL keeps, in bytes (NAMEDATALEN - 1); longer ones are cut in silence.
const POSTGRES_NAME_MAX: usize = 63;
/// Longest path of a Unix socket, in bytes.
const SOCKET_PATH_MAX: usize = 107;
/// Longest password, in bytes: PostgreSQL's passfile and messages take no more.
const PASSWORD_MAX: usize = 900;
/// How long a person may wait for an order.
const ORDER_TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

/// What Kubernetes takes as a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NameKind {
    /// DNS-1123 label: namespaces.
    Label,
    /// DNS-1035 label: Services.
    ServiceLabel,
    /// DNS-1123 subdomain: most objects.
    Subdomain,
}

/// Hosts of servers by member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ServerAddresses(pub(super) BTreeMap<MemberName, String>);

/// `postgres-1=HOST,postgres-2=HOST`; empty: none.
pub(super) fn server_addresses(text: &str) -> Result<ServerAddresses, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let read = |pair: &str| {
        let (name, at) = pair.split_once('=').ok_or_else(|| {
            format!("'{pair}' is no NAME=HOST: expected a list as in postgres-1=10.0.0.7,postgres-2=db2")
        })?;
        host("the host", at)?;
        let name: MemberName = name.parse().map_err(|bad: BadMemberName| bad.to_string())?;
        Ok((name, at.to_owned()))
    };
    pairs
        .map(read)
        .collect::<Result<_, String>>()
        .map(ServerAddresses)
}

/// Names of hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct AllowedHosts(pub(super) BTreeSet<String>);

/// `db.example.com,status.internal`; empty: none.
pub(super) fn allowed_hosts(text: &str) -> Result<AllowedHosts, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let names: BTreeSet<String> = parts.map(str::to_ascii_lowercase).collect();
    if names.len() > NAMES_MAX {
        return Err(format!("{} hosts are too many: at most {NAMES_MAX}", names.len()));
    }
    for host in &names {
        let good = name("", host, NameKind::Subdomain).is_ok();
        if !good {
            return Err(format!(
                "'{host}' is not the name of a host: expected names without scheme and port, as in db.example.com,status.internal"
            ));
        }
    }
    Ok(AllowedHosts(names))
}

/// A name of an object or a namespace. `setting` is the flag with its variable.
pub(super) fn name(setting: &str, text: &str, kind: NameKind) -> Result<(), String> {
    let (max, dots, expected) = match kind {
        NameKind::Label => (
            63,
            false,
            "1 to 63 lower-case letters, digits and inner hyphens, as in default",
        ),
        NameKind::ServiceLabel => (
            63,
            false,
            "a letter first, then up to 62 lower-case letters, digits and inner hyphens, as in postgres",
        ),
        NameKind::Subdomain => (
            253,
            true,
            "1 to 253 lower-case letters, digits, inner hyphens and dots, as in postgres",
        ),
    };
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let part = |part: &str| {
        let bytes = part.as_bytes();
        !bytes.is_empty()
            && bytes.iter().all(|&b| inner(b) || b == b'-')
            && inner(bytes[0])
            && inner(bytes[bytes.len() - 1])
    };
    let parts = if dots {
        text.split('.').all(part)
    } else {
        part(text)
    };
    let begins = kind != NameKind::ServiceLabel || text.starts_with(|c: char| c.is_ascii_lowercase());
    if text.len() <= max && parts && begins {
        return Ok(());
    }
    if text.is_empty() {
        return Err(format!(
            "{setting} is empty: set it to a name of Kubernetes: {expected}"
        ));
    }
    Err(format!(
        "{setting} is '{text}', which Kubernetes takes for no name: expected {expected}"
    ))
}

/// A role or a database, as PostgreSQL keeps it.
pub(super) fn postgres_name(setting: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!("{setting} is empty: set it, usually from the Secret"));
    }
    no_control(setting, text)?;
    if text.len() > POSTGRES_NAME_MAX {
        return Err(format!(
            "{setting} has {} bytes: PostgreSQL cuts names after {POSTGRES_NAME_MAX}; give a shorter one",
            text.len()
        ));
    }
    Ok(())
}

/// A password. Never shown.
pub(super) fn password(setting: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Err(format!(
            "{setting} is empty: set it from the Secret; nobody may log in without a password"
        ));
    }
    no_control(setting, text)?;
    if text.len() > PASSWORD_MAX {
        return Err(format!(
            "{setting} has {} bytes: give one of at most {PASSWORD_MAX}",
            text.len()
        ));
    }
    Ok(())
}

/// A newline at the end is what `echo` puts into a Secret; others break passfile and connection strings.
fn no_control(setting: &str, text: &str) -> Result<(), String> {
    if text.ends_with(['\n', '\r']) {
        return Err(format!(
            "{setting} ends with a newline, usually from making the Secret with `echo` or from a file: make the Secret \
             without it (`printf %s ...`, `kubectl create secret generic ... --from-literal`)"
        ));
    }
    match text.chars().position(char::is_control) {
        None => Ok(()),
        Some(at) => Err(format!(
            "{setting} has a control character as character {}: give one of printable characters",
            at + 1
        )),
    }
}

/// The address by which other members reach this pod. Loopback is fine: one machine, several addresses.
pub(super) fn pod_ip(setting: &str, text: &str) -> Result<IpAddr, String> {
    let expected = "give the pod's own IP address, from the downward API's status.podIP";
    let ip: IpAddr = text
        .parse()
        .map_err(|_| format!("{setting} is '{text}', which is no IP address: {expected}"))?;
    let what = match ip {
        _ if ip.is_unspecified() => "means every address",
        _ if ip.is_multicast() => "is a multicast address",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address",
        _ => return Ok(ip),
    };
    Err(format!(
        "{setting} is {ip}, which {what}: nobody can reach this member there; {expected}"
    ))
}

/// Where the local server listens: a name or an address.
pub(super) fn host(setting: &str, text: &str) -> Result<(), String> {
    let expected = "give the server's host name or IP address, as in 127.0.0.1";
    if let Ok(ip) = text.parse::<IpAddr>() {
        if ip.is_multicast() || ip.is_unspecified() {
            return Err(format!(
                "{setting} is {ip}, where no server can be reached: {expected}"
            ));
        }
        return Ok(());
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
    if text.is_empty() || text.len() > 253 || !text.bytes().all(good) {
        return Err(format!(
            "{setting} is '{text}', which is neither a host name nor an address: {expected}"
        ));
    }
    Ok(())
}

/// The directory of the guard's socket.
pub(super) fn run_dir(setting: &str, path: &Path) -> Result<(), String> {
    let text = path.display();
    if !path.is_absolute() {
        return Err(format!(
            "{setting} is '{text}': give the absolute path of the directory shared with the guard, as in /pgbaton"
        ));
    }
    let socket = path.join(SOCKET_NAME);
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(format!(
            "{setting} is '{text}': the guard's socket in it has a path of {} bytes, Linux takes {SOCKET_PATH_MAX}; \
             give a shorter one, as in /pgbaton",
            socket.as_os_str().len()
        ));
    }
    Ok(())
}

/// Both ends included.
pub(super) fn duration(
    setting: &str,
    value: Duration,
    (least, most): (Duration, Duration),
) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!(
        "{setting} is {}: expected {} to {}",
        words(value),
        words(least),
        words(most)
    ))
}

/// `1500ms`, `10s`: as it is written on a command line.
pub(super) fn words(value: Duration) -> String {
    if value.subsec_nanos() == 0 {
        format!("{}s", value.as_secs())
    } else {
        format!("{}ms", value.as_millis())
    }
}

/// For clap: a path that may be empty, which is as not set.
#[expect(clippy::unnecessary_wraps, reason = "the shape that clap asks for")]
pub(super) fn path_value(text: &str) -> Result<PathBuf, String> {
    Ok(PathBuf::from(text))
}

/// For clap: a namespace.
pub(super) fn namespace_value(text: &str) -> Result<String, String> {
    name("the namespace", text, NameKind::Label)?;
    Ok(text.to_owned())
}

/// For clap: the Lease's name.
pub(super) fn lease_value(text: &str) -> Result<String, String> {
    name("the Lease's name", text, NameKind::Subdomain)?;
    Ok(text.to_owned())
}

/// For clap: how long a person waits.
pub(super) fn order_timeout(text: &str) -> Result<Duration, String> {
    let value = humantime::parse_duration(text)
        .map_err(|e| format!("{e}; expected a duration from 1s to 24h, as in 60s"))?;
    duration("the timeout", value, ORDER_TIMEOUT)?;
    Ok(value)
}

/// What clap says, with the variable by which a container usually sets what is wrong, and what it is for.
pub(super) fn with_environment(error: &clap::Error, command: &clap::Command, subcommand: &str) -> String {
    use clap::error::{ContextKind, ContextValue};
    let mut text = error.to_string();
    let told: Vec<String> = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(one)) => vec![one.clone()],
        Some(ContextValue::Strings(many)) => many.clone(),
        _ => Vec::new(),
    };
    let arguments = command
        .find_subcommand(subcommand)
        .into_iter()
        .flat_map(clap::Command::get_arguments);
    for arg in arguments {
        let Some(long) = arg.get_long() else { continue };
        let flag = format!("--{long}");
        let meant = told.iter().any(|t| t.split([' ', '=']).next() == Some(&flag));
        let Some(env) = arg.get_env().filter(|_| meant) else {
            continue;
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{flag} ({}): {help}", env.to_string_lossy());
    }
    text
}
