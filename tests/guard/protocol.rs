//! What is not a right order of the right sender changes nothing.
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::rig::{Rig, request};
use pgbaton::core::types::{SystemId, Term};
use pgbaton::guard::clock::boot_ms;
use pgbaton::guard::protocol::{Answer, MAX_LINE, Order, Refusal, Server};

fn cause(answer: &Answer) -> Option<Refusal> {
    match answer {
        Answer::Refused { cause, .. } => Some(*cause),
        _ => None,
    }
}

#[test]
fn what_is_not_meant_for_this_server_is_refused() {
    let mut rig = Rig::primary();
    rig.permit(3, 120_000);
    let stop = Order::Stop {
        fast_ms: 0,
        hint: None,
    };
    let good = rig.stamp(3);

    let mut other = good.clone();
    other.boot_id = "another".to_owned();
    assert_eq!(
        cause(&rig.ask(&request(stop.clone(), Some(other)))),
        Some(Refusal::Foreign)
    );
    let mut other = good.clone();
    other.system_identifier = Some(SystemId(1));
    assert_eq!(
        cause(&rig.ask(&request(stop.clone(), Some(other)))),
        Some(Refusal::Foreign)
    );
    let mut other = good.clone();
    other.data_id = None;
    assert_eq!(
        cause(&rig.ask(&request(stop.clone(), Some(other)))),
        Some(Refusal::Foreign)
    );
    let mut other = good.clone();
    other.term = Term(2);
    assert_eq!(
        cause(&rig.ask(&request(stop.clone(), Some(other.clone())))),
        Some(Refusal::OldTerm)
    );
    let permit = Order::Permit {
        deadline_boot_ms: boot_ms() + 1000,
    };
    assert_eq!(
        cause(&rig.ask(&request(permit.clone(), Some(other)))),
        Some(Refusal::OldTerm)
    );
    assert_eq!(
        cause(&rig.ask(&request(stop.clone(), None))),
        Some(Refusal::Malformed)
    );
    let past = Order::Permit {
        deadline_boot_ms: boot_ms() - 1,
    };
    assert_eq!(
        cause(&rig.ask(&request(past, Some(good.clone())))),
        Some(Refusal::NotPermitted)
    );
    let endless = Order::Permit {
        deadline_boot_ms: u64::MAX,
    };
    assert_eq!(
        cause(&rig.ask(&request(endless, Some(good.clone())))),
        Some(Refusal::Malformed)
    );
    let mut version = request(stop.clone(), Some(good.clone()));
    version.version = 2;
    assert_eq!(cause(&rig.ask(&version)), Some(Refusal::Malformed));
    let line_break = Order::SetNames {
        synchronous_standby_names: "x'\narchive_command = 'touch /tmp/x'".to_owned(),
    };
    assert_eq!(
        cause(&rig.ask(&request(line_break, Some(good.clone())))),
        Some(Refusal::Malformed)
    );

    // A sequence number counts once; permits have none.
    let names = |n: &str| Order::SetNames {
        synchronous_standby_names: n.to_owned(),
    };
    assert_eq!(cause(&rig.ask(&request(names(""), Some(good.clone())))), None);
    assert_eq!(
        cause(&rig.ask(&request(names("*"), Some(good.clone())))),
        Some(Refusal::OldSequence)
    );
    assert_eq!(cause(&rig.ask(&request(permit, Some(good.clone())))), None);
    let mut older = good;
    older.sequence -= 1;
    assert_eq!(
        cause(&rig.ask(&request(stop, Some(older)))),
        Some(Refusal::OldSequence)
    );

    let status = rig.status();
    assert_eq!(status.server, Server::Primary);
    assert_eq!(status.highest_term, Term(3));
    assert_eq!(status.synchronous_standby_names, "");
    assert!(status.permit.is_some());
}

#[test]
fn garbage_is_refused_and_the_connection_closed() {
    let mut rig = Rig::new();
    rig.start();
    for garbage in [
        &b"garbage"[..],
        b"",
        b"{}",
        b"{\"version\":1}",
        b"{\"version\":1,\"order\":{\"order\":\"explode\"}}",
        b"[1,2]",
        b"\xff\xfe\x00",
        b"{\"version\":-1,\"order\":{\"order\":\"status\"}}",
    ] {
        let mut connection = rig.connect();
        connection.send(garbage);
        assert_eq!(
            cause(&connection.read().unwrap()),
            Some(Refusal::Malformed),
            "{garbage:?}"
        );
        connection.send(b"{\"version\":1,\"order\":{\"order\":\"status\"}}");
        assert!(connection.read().is_none(), "closed");
    }
    // Secrets of a line that is not understood are repeated nowhere.
    let mut connection = rig.connect();
    connection
        .send(b"{\"version\":1,\"order\":{\"order\":\"clone\",\"upstream\":{\"password\":\"hush-hush\"}}}");
    let answer = format!("{:?}", connection.read().unwrap());
    assert!(!answer.contains("hush-hush") && !rig.log().contains("hush-hush"));
    // A line without an end.
    let mut connection = rig.connect();
    let _ = connection.0.get_mut().write_all(&vec![b' '; MAX_LINE + 1]);
    assert_eq!(cause(&connection.read().unwrap()), Some(Refusal::Malformed));
    // Unknown fields are tolerated.
    let mut connection = rig.connect();
    connection.send(b"{\"version\":1,\"order\":{\"order\":\"status\",\"new\":1},\"newer\":{}}");
    assert!(matches!(connection.read(), Some(Answer::Ok { .. })));
    assert_eq!(rig.status().revision, rig.status().revision);
}

#[test]
fn many_connections_do_not_shut_the_sidecar_out_for_good() {
    let mut rig = Rig::new();
    rig.start();
    let ask = |connection: &mut crate::rig::Connection| {
        connection.send(b"{\"version\":1,\"order\":{\"order\":\"status\"}}");
        connection.read()
    };
    let mut many = Vec::new();
    let last = loop {
        let mut connection = rig.connect();
        match ask(&mut connection) {
            Some(Answer::Ok { .. }) if many.len() < 20 => many.push(connection),
            other => break other,
        }
    };
    assert_eq!(last.as_ref().and_then(cause), Some(Refusal::Busy));
    assert!((1..=8).contains(&many.len()), "{}", many.len());
    drop(many);
    crate::rig::wait_for("a place", || {
        let mut connection = rig.connect();
        matches!(ask(&mut connection), Some(Answer::Ok { .. })).then_some(())
    });
}

#[test]
fn a_watch_is_answered_by_a_change_and_permits_are_given_meanwhile() {
    let mut rig = Rig::new();
    rig.start();
    let revision = rig.status().revision;
    let mut watcher = rig.connect();
    let watch = request(
        Order::Watch {
            revision,
            wait_ms: 10_000,
        },
        None,
    );
    watcher.send(&serde_json::to_vec(&watch).unwrap());
    rig.permit(1, 60_000);
    let Some(Answer::Ok { status }) = watcher.read() else {
        panic!("no status")
    };
    assert_ne!(status.revision, revision);
    assert_eq!(status.highest_term, Term(1));
}

#[test]
fn another_user_is_not_let_in() {
    if !crate::rig::is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let mut rig = Rig::new();
    rig.extra_args = vec!["--peer-uid".to_owned(), "4242".to_owned()];
    rig.start();
    let socket = rig.base().join("run/guard.sock");
    fs::set_permissions(rig.base().join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    let ask = |uid: &str| {
        let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 1; \
                      syswrite $s, qq({\"version\":1,\"order\":{\"order\":\"status\"}}\\n); print length <$s>";
        let out = Command::new("setpriv")
            .args(["--reuid", uid, "--clear-groups", "perl", "-e", script])
            .arg(&socket)
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout)
            .trim()
            .parse::<usize>()
            .unwrap_or(0)
    };
    assert!(ask("4242") > 100);
    assert_eq!(ask("4243"), 0);
}
