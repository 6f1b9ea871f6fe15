//! The live page: one file of HTML, style and script, all of it in this binary; what it shows, as JSON (`/cluster`) and as a stream
//! (`/events`); and the runbook that it links to. The browser asks this member only: what it tells of others came over the peers' channel.

pub mod hosts;
pub mod runbook;
pub mod stream;
mod table;

use std::sync::OnceLock;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::server::Served;
use crate::postgres::base64;
use stream::HangUp;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// Words first, then each part of the page, then what ties them to the stream.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("words.js"),
    include_str!("topology.js"),
    include_str!("parts.js"),
    include_str!("live.js"),
);

/// Said of every answer that has no policy of its own: it is data, and nothing in it runs.
const DATA_ONLY: &str = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// The page, put together once.
struct Assembled {
    /// Up to the place of the plain table.
    before: String,
    /// From there on.
    after: String,
    /// The runbook's page around its text.
    runbook: String,
    policy: HeaderValue,
    runbook_policy: HeaderValue,
}

fn assembled() -> &'static Assembled {
    static PAGE: OnceLock<Assembled> = OnceLock::new();
    PAGE.get_or_init(|| {
        let hash = |text: &str| format!("'sha256-{}'", base64(&Sha256::digest(text.as_bytes())));
        let page = HTML.replace("/*STYLE*/", STYLE).replace("/*SCRIPT*/", SCRIPT);
        let (before, after) = page.split_once("<!--TABLE-->").unwrap_or((&page, ""));
        let common = "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        let style = hash(STYLE);
        let policy = format!(
            "default-src 'none'; style-src {style}; script-src {}; connect-src 'self'; {common}; require-trusted-types-for 'script'; \
             trusted-types 'none'",
            hash(SCRIPT)
        );
        let runbook_policy = format!("default-src 'none'; style-src {style}; {common}");
        let runbook = format!(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width, \
             initial-scale=1\"><title>pgbaton runbook</title><link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head><body \
             class=\"runbook\"><main><p><a href=\"./\">Back to the cluster</a></p>{}</main></body></html>",
            runbook::body()
        );
        Assembled {
            before: before.to_owned(),
            after: after.to_owned(),
            runbook,
            policy: value(&policy),
            runbook_policy: value(&runbook_policy),
        }
    })
}

/// All of them are plain ASCII; what is not would be answered without a policy, and the tests would see it.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(DATA_ONLY))
}

fn html(policy: &HeaderValue, body: String) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (CONTENT_SECURITY_POLICY, policy.clone()),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

/// `GET /`.
pub async fn index(State(served): State<Served>) -> Response {
    let page = assembled();
    let table = table::plain(&served.cluster.borrow().view);
    html(&page.policy, [&page.before, table.as_str(), &page.after].concat())
}

/// `GET /runbook`.
pub async fn runbook_page() -> Response {
    let page = assembled();
    html(&page.runbook_policy, page.runbook.clone())
}

/// `GET /cluster`: what the page shows, for browsers without a stream.
pub async fn cluster(State(served): State<Served>, headers: HeaderMap) -> Response {
    if let Some(refusal) = hosts::other_origin(&served.hosts, &headers) {
        return refusal;
    }
    let kind = HeaderValue::from_static("application/json");
    let json = served.cluster.borrow().told();
    let headers = [
        (CONTENT_TYPE, kind),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, json).into_response()
}

/// `GET /events`.
pub async fn events(
    State(served): State<Served>,
    Extension(hang_up): Extension<HangUp>,
    headers: HeaderMap,
) -> Response {
    if let Some(refusal) = hosts::other_origin(&served.hosts, &headers) {
        return refusal;
    }
    served.streams.open(served.cluster.clone(), hang_up)
}

/// What every answer says of itself to a browser.
pub async fn guarded(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (HeaderName::from_static("x-content-type-options"), "nosniff"),
        (HeaderName::from_static("x-frame-options"), "DENY"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
        (CONTENT_SECURITY_POLICY, DATA_ONLY),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
