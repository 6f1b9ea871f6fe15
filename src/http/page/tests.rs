//! The page and its stream over real connections to the real server.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout};

use super::stream::Limits;
use crate::http::cluster::tests::example;
use crate::http::cluster::{ClusterView, Feed};
use crate::http::server::tests::{Running, start_with};
use crate::http::status::Role;
use crate::postgres::base64;

/// Generous: the machine may be loaded.
const BOUND: Duration = Duration::from_secs(30);
/// What the page may weigh in all.
const PAGE_MAX: usize = 60_000;

const QUICK: Limits = Limits {
    streams: 3,
    gap: Duration::from_millis(1),
    steady: Duration::from_secs(3_600),
    heartbeat: Duration::from_millis(50),
    stall: Duration::from_millis(300),
    life: Duration::from_secs(60),
};

async fn start() -> Running {
    start_with(Limits::USUAL).await
}

async fn open(server: &Running, headers: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Reads until `what` has come; everything that came.
async fn until(stream: &mut TcpStream, what: &str) -> String {
    let mut text = String::new();
    let read = async {
        let mut buffer = [0; 4096];
        while !text.contains(what) {
            let count = stream.read(&mut buffer).await.unwrap();
            assert!(count > 0, "closed before '{what}' came: {text}");
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    timeout(BOUND, read).await.unwrap();
    text
}

/// Reads to the end; false: still open after `bound`.
async fn ends(stream: &mut TcpStream, bound: Duration) -> bool {
    let mut rest = Vec::new();
    timeout(bound, stream.read_to_end(&mut rest)).await.is_ok()
}

fn publish(server: &Running, change: impl FnOnce(&mut ClusterView)) {
    let mut view = example();
    change(&mut view);
    server.cluster.send_replace(Arc::new(Feed::new(view)));
}

fn within<'a>(text: &'a str, from: &str, to: &str) -> &'a str {
    text.split_once(from).unwrap().1.split_once(to).unwrap().0
}

#[tokio::test]
async fn the_page_is_one_small_file_that_asks_nobody_else() {
    let server = start().await;
    let (status, head, body) = server.get("/").await;
    assert_eq!(status, 200);
    assert!(body.len() < PAGE_MAX, "{} bytes", body.len());
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    // Names of other places: only the namespace of SVG, which nobody fetches.
    let urls: Vec<&str> = body
        .split("//")
        .skip(1)
        .map(|rest| rest.split(['"', '\'']).next().unwrap())
        .collect();
    let places: Vec<&&str> = urls
        .iter()
        .filter(|url| url.starts_with(|c: char| c.is_ascii_alphanumeric()))
        .collect();
    assert!(
        places.iter().all(|url| **url == "www.w3.org/2000/svg"),
        "{places:?}"
    );
    for word in [
        "<link rel=\"stylesheet",
        "<script src",
        "@import",
        "url(",
        "<iframe",
        "innerHTML",
        "eval(",
    ] {
        assert!(!body.contains(word), "{word}");
    }
    assert!(!body.contains("/*STYLE*/") && !body.contains("/*SCRIPT*/") && !body.contains("<!--TABLE-->"));
    // Without script there is a table all the same.
    let plain = within(&body, "<noscript>", "</noscript>");
    assert!(
        plain.contains("postgres-2") && plain.contains("the disk is nearly full"),
        "{plain}"
    );
}

#[tokio::test]
async fn the_policy_lets_nothing_run_but_what_was_compiled_in() {
    let server = start().await;
    for path in ["/", "/runbook"] {
        let (status, head, body) = server.get(path).await;
        assert_eq!(status, 200, "{path}");
        let policy = within(&head, "content-security-policy: ", "\r\n");
        for rule in [
            "default-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(
            !policy.contains("unsafe") && !policy.contains('*'),
            "{path}: {policy}"
        );
        let hash = |text: &str| format!("'sha256-{}'", base64(&Sha256::digest(text)));
        let style = hash(within(&body, "<style>", "</style>"));
        assert!(
            policy.contains(&format!("style-src {style};")),
            "{path}: {policy}"
        );
        if path == "/" {
            let script = hash(within(&body, "<script>", "</script>"));
            assert!(policy.contains(&format!("script-src {script};")), "{policy}");
        } else {
            assert!(
                !policy.contains("script-src") && !body.contains("<script"),
                "{policy}"
            );
        }
        // Blocked by that policy, so it must not be needed.
        assert!(
            !body.contains(" style=\"") && !body.contains(" onclick"),
            "{path}"
        );
    }
}

#[tokio::test]
async fn every_answer_says_that_it_is_nothing_else() {
    let server = start().await;
    for path in [
        "/", "/runbook", "/cluster", "/status", "/metrics", "/healthz", "/nothing",
    ] {
        let (_, head, _) = server.get(path).await;
        for header in [
            "x-content-type-options: nosniff",
            "x-frame-options: DENY",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{path} lacks {header}: {head}");
        }
        assert!(
            head.contains("content-security-policy: default-src 'none'"),
            "{path}: {head}"
        );
        assert!(!head.contains("access-control-allow"), "{path}: {head}");
    }
}

#[tokio::test]
async fn whoever_means_another_host_is_refused() {
    let server = start().await;
    let ask = async |path: &str, host: &str| {
        let request = format!("GET {path} HTTP/1.1\r\n{host}connection: close\r\n\r\n");
        server.raw(&request).await
    };
    for path in ["/", "/cluster", "/events", "/runbook", "/status", "/metrics"] {
        for host in [
            "host: evil.example\r\n",
            "host: postgres-1.default.svc.evil.example\r\n",
            "host: \r\n",
        ] {
            let answer = ask(path, host).await;
            assert!(answer.starts_with("HTTP/1.1 421 "), "{path} {host}: {answer}");
            assert!(!answer.contains("postgres-2"), "{answer}");
        }
        let two = ask(path, "host: localhost\r\nhost: evil.example\r\n").await;
        assert!(two.starts_with("HTTP/1.1 4"), "{path}: {two}");
    }
    assert!(
        ask("/status", "host: evil.example\r\n")
            .await
            .contains("PGBATON_ALLOWED_HOSTS")
    );
    for host in [
        "10.0.0.7:8008",
        "[fd00::7]:8008",
        "localhost:9",
        "postgres-1.default.svc",
        "db.example.com",
    ] {
        let answer = ask("/cluster", &format!("host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
    // Probes come with whatever they are told to.
    assert!(
        !ask("/healthz", "host: evil.example\r\n")
            .await
            .starts_with("HTTP/1.1 421")
    );
}

#[tokio::test]
async fn pages_of_other_origins_read_no_stream() {
    let server = start().await;
    for path in ["/events", "/cluster"] {
        for foreign in [
            "origin: http://evil.example\r\n",
            "origin: http://127.0.0.1\r\n",
            "origin: null\r\n",
            "sec-fetch-site: cross-site\r\n",
            "sec-fetch-site: same-site\r\n",
        ] {
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{foreign}connection: close\r\n\r\n");
            let answer = server.raw(&request).await;
            assert!(answer.starts_with("HTTP/1.1 403 "), "{path} {foreign}: {answer}");
        }
    }
    for own in [
        "",
        "origin: http://localhost\r\n",
        "sec-fetch-site: same-origin\r\n",
    ] {
        let mut stream = open(&server, own).await;
        let head = until(&mut stream, "\"postgres-2\"").await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.contains("content-type: text/event-stream"), "{head}");
    }
}

#[tokio::test]
async fn a_change_comes_at_once_and_the_rest_when_it_is_due() {
    let server = start_with(QUICK).await;
    let mut stream = open(&server, "").await;
    until(&mut stream, "\"postgres-2\"").await;
    // Nothing but ages: heartbeats, no page.
    for age in 0..5 {
        publish(&server, |view| view.members[1].age_ms = Some(age));
        let told = until(&mut stream, ": nothing new\n").await;
        assert!(!told.contains("data: "), "{told}");
    }
    publish(&server, |view| view.members[1].role = Role::Down);
    let told = until(&mut stream, "\n\n").await;
    assert!(told.contains("data: ") && told.contains("\"down\""), "{told}");
    // With the time between two pages over, ages alone are told.
    let server = start_with(Limits {
        steady: Duration::from_millis(1),
        heartbeat: BOUND,
        ..QUICK
    })
    .await;
    let mut stream = open(&server, "").await;
    until(&mut stream, "\"age_ms\":120").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    publish(&server, |view| view.members[1].age_ms = Some(4711));
    until(&mut stream, "\"age_ms\":4711").await;
}

#[tokio::test]
async fn changes_come_no_faster_than_allowed() {
    let gap = Duration::from_millis(200);
    let server = start_with(Limits { gap, ..QUICK }).await;
    let mut stream = open(&server, "").await;
    until(&mut stream, "\"postgres-2\"").await;
    let began = Instant::now();
    let mut pages = 0;
    let mut buffer = [0; 16 * 1024];
    while began.elapsed() < 5 * gap {
        publish(&server, |view| {
            view.cluster = format!("number {:?}", began.elapsed());
        });
        if let Ok(count) = timeout(Duration::from_millis(5), stream.read(&mut buffer)).await {
            pages += String::from_utf8_lossy(&buffer[..count.unwrap()])
                .matches("data: ")
                .count();
        }
    }
    let most = began.elapsed().as_millis() / gap.as_millis() + 1;
    assert!(
        pages >= 1 && u128::try_from(pages).unwrap() <= most,
        "{pages} of at most {most}"
    );
}

#[tokio::test]
async fn so_many_streams_and_no_more() {
    let server = start_with(QUICK).await;
    let mut streams = Vec::new();
    for _ in 0..QUICK.streams {
        let mut stream = open(&server, "").await;
        until(&mut stream, "data: ").await;
        streams.push(stream);
    }
    let mut more = open(&server, "connection: close\r\n").await;
    let refused = until(&mut more, "/cluster").await;
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("retry-after: 5"),
        "{refused}"
    );
    // Everybody else is served, and a place that was left is given again.
    assert_eq!(server.get("/cluster").await.0, 200);
    assert_eq!(server.get("/healthz").await.0, 200);
    streams.clear();
    let deadline = Instant::now() + BOUND;
    loop {
        let mut again = open(&server, "connection: close\r\n").await;
        if until(&mut again, "\r\n\r\n").await.starts_with("HTTP/1.1 200 ") {
            break;
        }
        assert!(Instant::now() < deadline, "no place is given back");
    }
}

#[tokio::test]
async fn whoever_reads_nothing_is_cut_off() {
    let server = start_with(QUICK).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut slow = socket.connect(server.address).await.unwrap();
    slow.write_all(b"GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let deadline = Instant::now() + BOUND;
    let mut number = 0;
    // It has taken its place, and reads nothing: the buffers fill, then it is over.
    while slow.peer_addr().is_ok() {
        number += 1;
        publish(&server, |view| {
            view.cluster = format!("{number} {}", "x".repeat(100_000));
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        let broken = slow.write_all(b"x").await.is_err();
        if broken {
            break;
        }
        assert!(Instant::now() < deadline, "a slow reader is kept");
    }
    // One that reads goes on being told.
    let mut good = open(&server, "").await;
    until(&mut good, "data: ").await;
}

#[tokio::test]
async fn a_stream_has_an_end_and_the_browser_is_told_when_to_come_back() {
    let server = start_with(Limits {
        life: Duration::from_millis(200),
        ..QUICK
    })
    .await;
    let mut stream = open(&server, "connection: close\r\n").await;
    let told = until(&mut stream, "data: ").await;
    assert!(told.contains("retry: 1000\n"), "{told}");
    assert!(ends(&mut stream, BOUND).await);
}

#[tokio::test]
async fn nothing_can_be_changed_here() {
    let server = start().await;
    for path in ["/", "/cluster", "/events", "/runbook"] {
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            );
            let answer = server.raw(&request).await;
            assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {path}: {answer}");
        }
    }
}
