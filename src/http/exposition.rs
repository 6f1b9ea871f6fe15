//! The registry as text: OpenMetrics, or the older Prometheus text format for those who ask for that one only.

use std::fmt::Write as _;

use http::HeaderValue;
use http::header::{ACCEPT, HeaderMap};
use prometheus_client::registry::Registry;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Content type and text, in the format that the request's `Accept` asks for.
///
/// # Errors
/// When the registry cannot be written.
pub fn text(registry: &Registry, headers: &HeaderMap) -> Result<(HeaderValue, String), std::fmt::Error> {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)?;
    if wants_plain(headers) {
        return Ok((HeaderValue::from_static(PLAIN_TEXT), plain(&text)));
    }
    Ok((HeaderValue::from_static(OPEN_METRICS), text))
}

/// Prometheus names both, OpenMetrics first; who names neither gets OpenMetrics.
fn wants_plain(headers: &HeaderMap) -> bool {
    let named = |what: &str| {
        let mut all = headers.get_all(ACCEPT).iter();
        all.any(|value| value.to_str().is_ok_and(|value| value.contains(what)))
    };
    named("text/plain") && !named("openmetrics")
}

/// OpenMetrics names a counter without its `_total` and knows units and kinds that the older format does not.
fn plain(open_metrics: &str) -> String {
    let mut plain = String::with_capacity(open_metrics.len());
    let mut help = "";
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map_or("", |(_, text)| text);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                other => ("", other),
            };
            // Writing to a string cannot fail.
            let _ = write!(
                plain,
                "# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {kind}\n"
            );
        } else if !line.starts_with('#') {
            let _ = writeln!(plain, "{line}");
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::metrics::Metrics;

    fn asked(accept: &'static str) -> (HeaderValue, String) {
        let (_, registry) = Metrics::of("postgres", "postgres-1");
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        text(&registry, &headers).unwrap()
    }

    #[test]
    fn who_asks_for_plain_text_only_gets_it() {
        let prometheus = "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        for accept in [prometheus, "*/*", "text/html"] {
            let (kind, text) = asked(accept);
            assert_eq!(kind, OPEN_METRICS, "{accept}");
            assert!(text.ends_with("# EOF\n"));
        }
        let (kind, text) = asked("text/plain;version=0.0.4");
        assert_eq!(kind, PLAIN_TEXT);
        for line in [
            "# TYPE pgbaton_takeovers_total counter",
            "# HELP pgbaton_takeovers_total Takeovers by this member: clients could write again.",
            "# TYPE pgbaton_build_info gauge",
            "# TYPE pgbaton_takeover_duration_seconds histogram",
            "pgbaton_takeovers_total{cluster=\"postgres\",member=\"postgres-1\",way=\"claim\"} 0",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
    }

    #[test]
    fn each_sample_is_in_both() {
        // Families have no order of their own.
        let samples = |text: &str| -> std::collections::BTreeSet<String> {
            let lines = text.lines().filter(|l| !l.starts_with('#'));
            lines.map(str::to_owned).collect()
        };
        assert!(samples(&asked("text/plain").1) == samples(&asked("*/*").1));
    }
}
