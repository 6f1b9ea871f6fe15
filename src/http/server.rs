//! The server. Bounded in every direction: connections, their lives, sizes, and the time of each request.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use super::cluster::Feed;
use super::exposition;
use super::health::Pulse;
use super::page::hosts::{AllowedHosts, known_host};
use super::page::stream::{HangUp, Streams};
use super::page::{self, guarded};
use super::status::StatusPage;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// How long a request's head may take, idle time between requests included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a request may take after its head, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection lives before it is asked to end, and then how long until it is cut.
const CONNECTION_LIFE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(15));
/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest body of a request, in bytes.
pub const MAX_BODY: usize = 64 * 1024;
/// What the kernel keeps for somebody who does not read, in bytes.
const SEND_BUFFER: usize = 64 * 1024;
/// How long to wait after a failed accept (no file descriptors): else the loop would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answer to a peer: status, headers, body.
pub type PeerAnswer = (StatusCode, HeaderMap, Bytes);
/// Answers `POST /peer`: body and headers of the request in, bounded by `MAX_BODY` and the request's time.
pub type PeerHandler = Arc<dyn Fn(Bytes, HeaderMap) -> BoxFuture<'static, PeerAnswer> + Send + Sync>;

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// The page, as last published.
    pub status: watch::Receiver<Arc<StatusPage>>,
    /// Ticked by the loop.
    pub pulse: Pulse,
    /// What `/metrics` shows.
    pub registry: Arc<Registry>,
    /// Answers peers.
    pub peer: PeerHandler,
    /// The cluster, for the live page.
    pub cluster: watch::Receiver<Arc<Feed>>,
    /// Who watches it.
    pub streams: Streams,
    /// The names that this endpoint goes by.
    pub hosts: Arc<AllowedHosts>,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served")
            .field("pulse", &self.pulse)
            .finish_non_exhaustive()
    }
}

/// Serves until `shutdown` resolves; connections end with it.
pub async fn serve(listener: TcpListener, served: Served, shutdown: impl Future<Output = ()>) {
    let routes = router(served);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = tokio::task::JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = async {
            // The semaphore is never closed.
            let slot = slots.clone().acquire_owned().await.ok();
            (slot, listener.accept().await)
        };
        tokio::select! {
            () = &mut shutdown => return,
            (slot, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let connection = connection(stream, routes.clone());
                    connections.spawn(async move {
                        connection.await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "status endpoint: a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, routes: Router) {
    // A peer's answer must not wait for the delayed acknowledgement; without the option it is only slower.
    let _ = stream.set_nodelay(true);
    // Without this option a slow reader costs more memory, no more.
    let _ = setsockopt(&stream, SndBuf, &SEND_BUFFER);
    let hang_up = HangUp::default();
    let of_this = hang_up.clone();
    let service = TowerToHyperService::new(routes.map_request(
        move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(of_this.clone());
            request.map(Body::new)
        },
    ));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let (life, grace) = CONNECTION_LIFE;
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = hang_up.0.notified() => return,
        () = tokio::time::sleep(life) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(grace, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "status endpoint: a connection ended badly");
    }
}

fn router(served: Served) -> Router {
    let hosts = served.hosts.clone();
    // What a person's browser may be made to read by a page from elsewhere.
    let read = Router::new()
        .route("/", get(page::index))
        .route("/cluster", get(page::cluster))
        .route("/events", get(page::events))
        .route("/runbook", get(page::runbook_page))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .layer(axum::middleware::from_fn_with_state(hosts, known_host));
    // Probes and peers come with whatever Host; the ones learn a word, the others must be authentic.
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/peer", post(peer))
        .merge(read)
        .with_state(served)
        .layer(axum::middleware::from_fn(bounded))
        .layer(axum::middleware::from_fn(guarded))
}

async fn bounded(request: Request, next: axum::middleware::Next) -> Result<Response, Infallible> {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    Ok(answer
        .unwrap_or_else(|_| (StatusCode::REQUEST_TIMEOUT, "the request took too long\n").into_response()))
}

async fn status(State(served): State<Served>) -> Response {
    let page = served.status.borrow().clone();
    (
        [(CACHE_CONTROL, HeaderValue::from_static("no-store"))],
        axum::Json(&*page),
    )
        .into_response()
}

async fn healthz(State(served): State<Served>) -> Response {
    if served.pulse.is_alive() {
        "ok\n".into_response()
    } else {
        let text = format!("the loop has not ticked for {} s\n", served.pulse.age().as_secs());
        (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
    }
}

async fn readyz(State(served): State<Served>) -> Response {
    // A page that nobody renews any more says nothing about the server.
    let stale = (!served.pulse.is_alive()).then(|| "the loop does not tick".to_owned());
    let page = served.status.borrow().clone();
    match stale.or_else(|| page.not_ready()) {
        None => "ok\n".into_response(),
        Some(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics(State(served): State<Served>, headers: HeaderMap) -> Response {
    match exposition::text(&served.registry, &headers) {
        Ok((kind, text)) => ([(CONTENT_TYPE, kind)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn peer(State(served): State<Served>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match to_bytes(body, MAX_BODY).await {
        Ok(bytes) => {
            let (status, headers, bytes) = (served.peer)(bytes, parts.headers).await;
            (status, headers, bytes).into_response()
        }
        Err(_) => {
            let text = format!("the body is not whole, or longer than {MAX_BODY} bytes\n");
            (StatusCode::PAYLOAD_TOO_LARGE, text).into_response()
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
pub(crate) mod tests;
