//! The real client over TCP: what kube would do by itself, and must not.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use pgbaton::core::types::Millis;
use pgbaton::lease::{
    ApiServer, Baton, ClientError, LeaseSeen, LeaseSettings, LeaseWatcher, LiveClock, Swap, SwapKind,
    SwapOutcome, WatchTimes, connect, install_crypto, open,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::member::{SOON, TTL, fresh_record, held, id};

fn kubeconfig(path: &Path, port: u16) {
    let text = format!(
        "{{apiVersion: v1, kind: Config, current-context: c, \
         contexts: [{{name: c, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{}}}}], \
         clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]}}"
    );
    std::fs::write(path, text).unwrap();
}

async fn baton(port: u16) -> (Baton, LeaseWatcher) {
    install_crypto();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    kubeconfig(&path, port);
    let settings = LeaseSettings {
        client: connect(&ApiServer::Kubeconfig(path)).await.unwrap(),
        namespace: "default".to_owned(),
        name: "postgres".to_owned(),
        me: id(1),
        duration: TTL,
        clock: LiveClock::system(),
        times: WatchTimes {
            request: Duration::from_millis(100),
            ..WatchTimes::default()
        },
    };
    let (baton, watcher, _) = open(settings).unwrap();
    (baton, watcher)
}

fn renewal(timeout: Duration) -> Swap {
    let mut lease: Lease = serde_json::from_value(held(&id(1).to_string(), 3, Duration::ZERO)).unwrap();
    lease.metadata.resource_version = Some("7".to_owned());
    let based_on = Arc::new(LeaseSeen::new(lease, Millis(0), Millis(0)));
    Swap {
        based_on,
        kind: SwapKind::Renew,
        record: fresh_record(),
        annotations: BTreeMap::new(),
        timeout,
    }
}

/// Kube's own retries (up to 15, as Retry-After says) would outlast the Lease.
#[tokio::test]
async fn a_busy_server_is_not_asked_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 65_536]).await;
            count.fetch_add(1, Ordering::SeqCst);
            let busy =
                "HTTP/1.1 503 Busy\r\nretry-after: 0\r\ncontent-length: 4\r\nconnection: close\r\n\r\nbusy";
            let _ = stream.write_all(busy.as_bytes()).await;
        }
    });
    let (baton, _watcher) = baton(port).await;
    let outcome = baton.swap(renewal(SOON)).await;
    assert!(
        matches!(&outcome, SwapOutcome::Unknown { reason } if reason.contains("503")),
        "{outcome:?}"
    );
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    server.abort();
}

/// A stopped API server: the kernel accepts, nobody answers. Each try ends in time, on a connection of its own.
#[tokio::test]
async fn a_server_that_hangs_is_left_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (baton, _watcher) = baton(listener.local_addr().unwrap().port()).await;
    for _ in 0..2 {
        let outcome = baton.swap(renewal(Duration::from_millis(100))).await;
        assert!(
            matches!(&outcome, SwapOutcome::Unknown { reason } if reason.contains("100 ms")),
            "{outcome:?}"
        );
        // The request came, and its connection is closed when its sender gave up.
        let (mut stream, _) = tokio::time::timeout(SOON, listener.accept())
            .await
            .unwrap()
            .unwrap();
        let mut request = Vec::new();
        tokio::time::timeout(SOON, stream.read_to_end(&mut request))
            .await
            .unwrap()
            .unwrap();
        let request = String::from_utf8_lossy(&request);
        assert!(
            request.starts_with("PATCH /apis/coordination.k8s.io/v1/namespaces/default/leases/postgres"),
            "{request}"
        );
        assert!(request.contains("\"resourceVersion\":\"7\""), "{request}");
    }
}

#[tokio::test]
async fn nobody_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (baton, _watcher) = baton(port).await;
    let outcome = baton.swap(renewal(SOON)).await;
    assert!(
        matches!(&outcome, SwapOutcome::Unknown { reason } if reason.contains("refused")),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn what_is_wrong_with_the_source_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config");
    let missing = connect(&ApiServer::Kubeconfig(path.clone())).await.err().unwrap();
    assert!(matches!(missing, ClientError::Kubeconfig { .. }), "{missing}");
    assert!(missing.to_string().contains("--kubeconfig"), "{missing}");
    std::fs::write(&path, "nonsense").unwrap();
    assert!(connect(&ApiServer::Kubeconfig(path)).await.is_err());
}
