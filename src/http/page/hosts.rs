//! Whom the page answers. A web site elsewhere may point its own name at a pod's address (DNS rebinding) and have a visitor's browser
//! read the answers: so the name that the browser was told must be one of ours. An address is no name, and can be none of theirs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, StatusCode};

/// Most names that are configured.
pub const NAMES_MAX: usize = 64;

/// The names that this endpoint goes by; addresses always count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedHosts {
    names: BTreeSet<String>,
    further: BTreeSet<String>,
}

impl AllowedHosts {
    /// `localhost`, what Kubernetes' DNS makes of the member, its pod and the Services, and `further` ones.
    #[must_use]
    pub fn new(member: &str, service: &str, namespace: &str, further: &BTreeSet<String>) -> Self {
        let short = [
            member.to_owned(),
            format!("{member}-0"),
            format!("{member}-0.{member}"),
            service.to_owned(),
            format!("{service}-ro"),
        ];
        let mut names = BTreeSet::from(["localhost".to_owned()]);
        for name in short {
            for end in ["", ".svc", ".svc.cluster.local"] {
                names.insert(format!("{name}.{namespace}{end}"));
            }
            names.insert(name);
        }
        names.extend(further.iter().cloned());
        Self {
            names,
            further: further.clone(),
        }
    }

    fn allows(&self, authority: &str) -> bool {
        let Some(host) = host_of(authority) else {
            return false;
        };
        is_address(&host) || self.names.contains(&host)
    }

    /// A page from `origin` may read what was asked of `host`: its own, or one behind a proxy that says another Host.
    fn allows_origin(&self, origin: &str, host: Option<&str>) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else {
            return false;
        };
        let is_http = scheme == "http" || scheme == "https";
        let is_own = host.is_some_and(|host| host.eq_ignore_ascii_case(authority));
        let is_named = || host_of(authority).is_some_and(|name| self.further.contains(&name));
        is_http && self.allows(authority) && (is_own || is_named())
    }
}

/// Without port, in lower case; none: not a host.
fn host_of(authority: &str) -> Option<String> {
    let parsed: Authority = authority.parse().ok()?;
    // A name and a port, nothing before or behind.
    let port = authority.strip_prefix(parsed.host())?;
    let is_port = port
        .strip_prefix(':')
        .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()));
    let host = parsed.host().trim_end_matches('.').to_ascii_lowercase();
    (!host.is_empty() && (port.is_empty() || is_port)).then_some(host)
}

fn is_address(host: &str) -> bool {
    let bare = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>().is_ok()
}

/// Lets requests through that were meant for this endpoint. One without a Host is no browser's.
pub async fn known_host(State(allowed): State<Arc<AllowedHosts>>, request: Request, next: Next) -> Response {
    let mut hosts = request.headers().get_all(HOST).iter();
    let first = hosts.next().map(|host| host.to_str().unwrap_or_default());
    let good = first.is_none_or(|host| allowed.allows(host)) && hosts.next().is_none();
    if good {
        return next.run(request).await;
    }
    let told: String = first.unwrap_or_default().chars().take(100).collect();
    let text = format!(
        "the host '{told}' is not one that this endpoint goes by: use the pod's address, localhost (kubectl port-forward) or the \
         member's name, or add the host to PGBATON_ALLOWED_HOSTS (--allowed-hosts)\n"
    );
    (StatusCode::MISDIRECTED_REQUEST, text).into_response()
}

/// What to answer when a page of another origin asks; none: it may ask.
pub fn other_origin(allowed: &AllowedHosts, headers: &HeaderMap) -> Option<Response> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_same_site = |site: &str| site == "same-origin" || site == "none";
    let origin = text(ORIGIN.as_str());
    let good = match origin {
        Some(origin) => allowed.allows_origin(origin, text(HOST.as_str())),
        // Not sent with a GET of the same origin.
        None => text("sec-fetch-site").is_none_or(is_same_site),
    };
    let refusal = "a page of another origin may not read this: open the endpoint itself, or add the page's host to \
                   PGBATON_ALLOWED_HOSTS (--allowed-hosts)\n";
    (!good).then(|| (StatusCode::FORBIDDEN, refusal).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> AllowedHosts {
        let further = BTreeSet::from(["db.example.com".to_owned()]);
        AllowedHosts::new("postgres-1", "postgres", "shop", &further)
    }

    #[test]
    fn addresses_and_our_own_names_count_and_no_other() {
        for good in [
            "10.0.0.7:8008",
            "[fd00::7]:8008",
            "127.0.0.1",
            "localhost:8008",
            "LocalHost.",
            "postgres-1",
            "postgres-1.shop.svc:8008",
            "postgres-1-0.postgres-1.shop.svc.cluster.local",
            "postgres.shop",
            "postgres-ro.shop.svc",
            "db.example.com:443",
        ] {
            assert!(allowed().allows(good), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "postgres-1.shop.svc.evil.example",
            "localhost.evil.example",
            "10.0.0.7.evil.example",
            "10.0.0.7@evil.example",
            "evil.example@10.0.0.7",
            "postgres-2.other",
            "a b",
            "[::1",
        ] {
            assert!(!allowed().allows(bad), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_other_text_is_taken_for_ours(text in "[ -~]{0,80}", end in "(\\.|:[0-9]{0,6}|@|/|#|\\?|\\[|\\])?.{0,10}") {
            for host in [text.clone(), format!("postgres-1{text}"), format!("localhost{end}"), format!("10.0.0.7{end}")] {
                if allowed().allows(&host) {
                    let name = host_of(&host).unwrap();
                    proptest::prop_assert!(is_address(&name) || allowed().names.contains(&name), "{}", host);
                    // Nothing stands before the host, and only a port behind it.
                    let rest = host.to_ascii_lowercase();
                    let rest = rest.strip_prefix(name.as_str()).unwrap().trim_start_matches('.');
                    let is_port = rest.strip_prefix(':').is_some_and(|port| port.chars().all(|c| c.is_ascii_digit()));
                    proptest::prop_assert!(rest.is_empty() || is_port, "{}", host);
                }
            }
        }
    }

    #[test]
    fn only_pages_of_the_same_origin_may_read() {
        let asked = |host: &str, origin: Option<&str>, site: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(ORIGIN, origin.parse().unwrap());
            }
            if let Some(site) = site {
                headers.insert("sec-fetch-site", site.parse().unwrap());
            }
            other_origin(&allowed(), &headers).is_none()
        };
        assert!(asked("10.0.0.7:8008", None, None));
        assert!(asked("10.0.0.7:8008", None, Some("same-origin")));
        assert!(asked("10.0.0.7:8008", Some("http://10.0.0.7:8008"), None));
        assert!(asked("10.0.0.7:8008", Some("https://db.example.com"), None));
        assert!(!asked("10.0.0.7:8008", None, Some("cross-site")));
        assert!(!asked("10.0.0.7:8008", Some("http://10.0.0.8:8008"), None));
        assert!(!asked("10.0.0.7:8008", Some("http://10.0.0.7"), None));
        assert!(!asked("10.0.0.7:8008", Some("http://evil.example"), None));
        assert!(!asked("10.0.0.7:8008", Some("null"), None));
        assert!(!asked("evil.example", Some("http://evil.example"), None));
    }
}
