//! The server over real connections.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;
use crate::http::cluster::tests::example as cluster_example;
use crate::http::metrics::Metrics;
use crate::http::page::stream::Limits;
use crate::http::status::tests::example;

/// Generous: the machine may be loaded.
const LONGEST_ANSWER: Duration = Duration::from_secs(20);

pub(crate) struct Running {
    pub address: std::net::SocketAddr,
    pub cluster: watch::Sender<Arc<Feed>>,
    status: watch::Sender<Arc<StatusPage>>,
    metrics: Metrics,
    pulse: Pulse,
    _end: oneshot::Sender<()>,
}

async fn start() -> Running {
    start_with(Limits::USUAL).await
}

/// A server that goes by postgres-1 in the namespace default, and by db.example.com.
pub(crate) async fn start_with(limits: Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (status, receiver) = watch::channel(Arc::new(example()));
    let (cluster, shown) = watch::channel(Arc::new(Feed::new(cluster_example())));
    let (metrics, registry) = Metrics::new();
    let pulse = Pulse::start();
    let (end, ended) = oneshot::channel::<()>();
    let served = Served {
        status: receiver,
        pulse: pulse.clone(),
        registry: Arc::new(registry),
        peer: Arc::new(|body, headers| {
            Box::pin(async move {
                let mut answer = HeaderMap::new();
                if let Some(mac) = headers.get("x-mac") {
                    answer.insert("x-mac", mac.clone());
                }
                (StatusCode::ACCEPTED, answer, body)
            })
        }),
        cluster: shown,
        streams: Streams::new(limits),
        hosts: Arc::new(AllowedHosts::new(
            "postgres-1",
            "postgres",
            "default",
            &["db.example.com".to_owned()].into(),
        )),
    };
    tokio::spawn(serve(listener, served, async {
        let _ = ended.await;
    }));
    Running {
        address,
        cluster,
        status,
        metrics,
        pulse,
        _end: end,
    }
}

impl Running {
    /// Sends `request` and reads until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // The server may answer and close before all is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        // What does not end, a stream for one, is judged by what has come.
        let _ = tokio::time::timeout(LONGEST_ANSWER, stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, String, String) {
        let answer = self
            .raw(&format!(
                "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }
}

#[tokio::test]
async fn the_page_last_published_is_served() {
    let server = start().await;
    let mut page = example();
    page.phase = "paused".into();
    server.status.send(Arc::new(page)).unwrap();
    let (status, head, body) = server.get("/status").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["phase"], "paused");
}

#[tokio::test]
async fn health_and_readiness_say_what_is_wrong() {
    let server = start().await;
    server.pulse.tick();
    assert_eq!(server.get("/healthz").await.0, 200);
    assert_eq!(server.get("/readyz").await.0, 200);
    let mut page = example();
    page.postgres.diverged = true;
    server.status.send(Arc::new(page)).unwrap();
    let (status, _, body) = server.get("/readyz").await;
    assert_eq!((status, body.contains("diverged")), (503, true), "{body}");
    assert_eq!(server.get("/healthz").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_stands_still_is_not_alive() {
    let pulse = Pulse::start();
    assert!(pulse.is_alive());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!pulse.is_alive());
    pulse.tick();
    assert!(pulse.is_alive());
}

#[tokio::test]
async fn metrics_follow_the_page() {
    let server = start().await;
    server.metrics.show(&example());
    server.metrics.ticks.inc();
    let (status, head, body) = server.get("/metrics").await;
    assert_eq!(status, 200);
    assert!(
        head.contains("application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    for line in [
        "pgbaton_role{role=\"primary\"} 1",
        "pgbaton_role{role=\"standby\"} 0",
        "pgbaton_term 7",
        "pgbaton_permit_remaining_seconds 9.1",
        "pgbaton_loop_ticks_total 1",
        "pgbaton_replication_lag_bytes 0.0",
        "pgbaton_failover_possible 1",
    ] {
        assert!(body.lines().any(|l| l == line), "{line} is not in\n{body}");
    }
    let series = body.lines().filter(|l| !l.starts_with('#'));
    assert!(series.clone().all(|l| l.starts_with("pgbaton_")), "{body}");
    assert!(body.ends_with("# EOF\n"));
}

#[tokio::test]
async fn peers_are_answered_by_their_handler() {
    let server = start().await;
    let answer = server
        .raw("POST /peer HTTP/1.1\r\nhost: localhost\r\nx-mac: abc\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello")
        .await;
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert!(
        answer.contains("x-mac: abc\r\n") && answer.ends_with("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn nothing_can_be_changed_and_nothing_large_comes_in() {
    let server = start().await;
    for path in ["/status", "/healthz", "/metrics"] {
        let answer = server
            .raw(&format!(
                "POST {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            ))
            .await;
        assert!(answer.starts_with("HTTP/1.1 405 "), "{path}: {answer}");
    }
    assert_eq!(server.get("/peer").await.0, 405);
    assert_eq!(server.get("/other").await.0, 404);
    let body = "x".repeat(MAX_BODY + 1);
    let answer = server
        .raw(&format!(
            "POST /peer HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ))
        .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let head = format!(
        "GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n",
        "x".repeat(2 * MAX_HEAD)
    );
    let answer = server.raw(&head).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
}

#[tokio::test]
async fn those_who_say_nothing_keep_nobody_out() {
    let server = start().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS - 1 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    assert_eq!(server.get("/healthz").await.0, 200);
    drop(silent);
}
