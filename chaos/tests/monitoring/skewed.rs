//! Stands before a member's sidecar and hands on what is asked and answered; the wall clock in its answers to other members can be moved.
//! No clock of this machine is touched, and nothing else of an answer.

use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, Response, StatusCode};
use pgbaton::guard::protocol::Secret;
use pgbaton::peers::{Keys, MAC_HEADER};
use pgbaton_chaos::names::SIDECAR_PORT;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const BODY: usize = 1024 * 1024;

/// The members' password, and by how many milliseconds the clock is ahead.
static SKEW: Mutex<Option<(String, u64)>> = Mutex::new(None);

/// From now on.
pub fn set(password: &str, ahead_ms: u64) {
    *SKEW.lock().unwrap_or_else(PoisonError::into_inner) = Some((password.to_owned(), ahead_ms));
}

/// At the address of member 2, whose sidecar listens at the one that ends in 112.
pub fn start(subnet: u8) {
    let ip = |last| Ipv4Addr::new(127, 0, subnet, last);
    let (front, back) = (ip(12), ip(112));
    tokio::spawn(async move {
        // The rig looks first whether the address is free.
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let listener = TcpListener::bind((front, SIDECAR_PORT)).await.unwrap();
        let handle = move |request: Request| hand_on(back, request);
        let router = axum::Router::new().fallback(handle);
        axum::serve(listener, router).await.unwrap();
    });
}

async fn hand_on(back: Ipv4Addr, request: Request) -> Response<Body> {
    let answer = async {
        let (head, body) = request.into_parts();
        let body = to_bytes(body, BODY).await.ok()?;
        let mut text = format!("{} {} HTTP/1.0\r\n", head.method, head.uri);
        for (name, value) in &head.headers {
            if name != "connection" {
                text += &format!("{name}: {}\r\n", value.to_str().ok()?);
            }
        }
        let mut stream = TcpStream::connect((back, SIDECAR_PORT)).await.ok()?;
        stream.write_all(format!("{text}\r\n").as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.ok()?;
        let at = all.windows(4).position(|four| four == b"\r\n\r\n")?;
        let said = String::from_utf8(all[..at].to_vec()).ok()?;
        let status = said.split_whitespace().nth(1)?.parse().ok()?;
        let header = |name: &str| {
            let lines = said.lines().filter_map(|line| line.split_once(": "));
            let mut found = lines.filter(|(known, _)| known.eq_ignore_ascii_case(name));
            found.next().map(|(_, value)| value.to_owned())
        };
        let mut headers = HeaderMap::new();
        for name in ["content-type", MAC_HEADER] {
            if let Some(value) = header(name) {
                headers.insert(name, value.parse().ok()?);
            }
        }
        let mut answer = Bytes::from(all[at + 4..].to_vec());
        if head.uri.path() == "/peer" {
            skew(&body, &mut answer, &mut headers);
        }
        let mut response = Response::new(Body::from(answer));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Some(response)
    };
    answer.await.unwrap_or_else(|| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        response
    })
}

/// Moves the clock in an answer and signs it again.
fn skew(question: &[u8], answer: &mut Bytes, headers: &mut HeaderMap) {
    let skew = SKEW.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some((password, ahead_ms)) = skew else { return };
    let question: Value = serde_json::from_slice(question).unwrap_or_default();
    let Ok(mut value) = serde_json::from_slice::<Value>(answer) else {
        return;
    };
    let (Some(nonce), Some(wall)) = (question["nonce"].as_str(), value["report"]["wall_ms"].as_u64()) else {
        return;
    };
    value["report"]["wall_ms"] = Value::from(wall + ahead_ms);
    let body = serde_json::to_vec(&value).unwrap();
    let keys = Keys::derive(&Secret(password), None);
    let mac = keys.all().next().unwrap().sign_answer(nonce, &body);
    headers.insert(MAC_HEADER, mac.parse().unwrap());
    *answer = body.into();
}
