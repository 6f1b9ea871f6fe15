//! docs/metrics.md is what the registry holds (`UPDATE=1` writes it anew), and promtool finds nothing wrong with what is served.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "support/promtool.rs"]
mod promtool;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use http::HeaderMap;
use http::header::ACCEPT;
use pgbaton::core::why::Why;
use pgbaton::http::exposition;
use pgbaton::http::metrics::{ApiLabels, ApiOutcome, ApiResource, ApiVerb, Metrics, WhyLabel};

/// Labels of every series.
const EVERYWHERE: [&str; 2] = ["cluster", "member"];
const HEAD: &str = "# Metrics

Rendered from the registry (`tests/metrics.rs`): not to be edited. Each sidecar serves them at `/metrics`, port 8008, as OpenMetrics; with
`Accept: text/plain` as the older text format. Every series has the labels `cluster` (the Lease's name) and `member`. What is not known is `NaN`, where the
meaning says nothing else. [Alerts](runbook.md#alerts) and a dashboard are in [deploy/monitoring](../deploy/monitoring/README.md).

`pgbaton_decisions_total` and `pgbaton_api_requests_total` have a series from its first event on, all other counters from the start.

| metric | kind | labels | means |
| --- | --- | --- | --- |
";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// As served, with each series that there can be.
fn served(accept: &'static str) -> String {
    let (metrics, registry) = Metrics::of("postgres", "postgres-1");
    for &verb in ApiVerb::ALL {
        for &resource in ApiResource::ALL {
            for &outcome in ApiOutcome::ALL {
                let labels = ApiLabels {
                    verb,
                    resource,
                    outcome,
                };
                let _ = metrics.api_requests.get_or_create(&labels);
            }
        }
    }
    let why = Why::Leading.code();
    let _ = metrics.decisions.get_or_create(&WhyLabel { why });
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, http::HeaderValue::from_static(accept));
    exposition::text(&registry, &headers).unwrap().1
}

/// One family of the registry.
#[derive(Default)]
struct Family {
    kind: String,
    help: String,
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// Families by name, as samples of the older text format have it.
fn families(text: &str) -> Vec<(String, Family)> {
    let mut all: Vec<(String, Family)> = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words.as_slice() {
            ["#", "HELP", name, help] => {
                let help = help.trim_end_matches('.').to_owned();
                let family = Family {
                    help,
                    ..Family::default()
                };
                all.push(((*name).to_owned(), family));
            }
            ["#", "TYPE", name, kind] => {
                let last = all.last_mut().filter(|(known, _)| known == name);
                last.unwrap().1.kind = (*kind).to_owned();
            }
            _ => {
                let (series, _) = line.rsplit_once(' ').unwrap();
                let labels = series.split_once('{').unwrap().1.trim_end_matches('}');
                for pair in labels.split(',') {
                    let (label, value) = pair.split_once('=').unwrap();
                    let values = all.last_mut().unwrap().1.labels.entry(label.to_owned());
                    values.or_default().insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    all
}

fn labels(family: &Family) -> String {
    let own = |label: &&String| !EVERYWHERE.contains(&label.as_str()) && *label != "le";
    let named = family.labels.keys().filter(own).map(|label| {
        let values: Vec<String> = family.labels[label].iter().map(|v| format!("`{v}`")).collect();
        match label.as_str() {
            "why" => "`why`: a `why.code` of [runbook.md](runbook.md)".to_owned(),
            "version" => "`version`".to_owned(),
            _ => format!("`{label}`: {}", values.join(" ")),
        }
    });
    named.collect::<Vec<_>>().join("; ")
}

fn rendered() -> String {
    let mut text = HEAD.to_owned();
    for (name, family) in families(&served("text/plain")) {
        let _ = writeln!(
            text,
            "| `{name}` | {} | {} | {} |",
            family.kind,
            labels(&family),
            family.help
        );
    }
    text
}

#[test]
fn the_page_is_fresh() {
    let path = repository().join("docs/metrics.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, rendered()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == rendered(),
        "docs/metrics.md is stale: UPDATE=1 cargo test --release --test metrics"
    );
}

#[test]
fn series_have_a_bound_and_name_their_member() {
    let all = families(&served("text/plain"));
    assert!(all.len() > 40, "{}", all.len());
    for (name, family) in &all {
        for label in EVERYWHERE {
            assert_eq!(family.labels[label].len(), 1, "{name} {label}");
        }
        let own: Vec<&String> = family.labels.keys().collect();
        assert!(own.len() <= 5, "{name}: {own:?}");
        assert!(!family.help.is_empty() && !family.kind.is_empty(), "{name}");
    }
    let series = served("*/*").lines().filter(|l| !l.starts_with('#')).count();
    assert!(series < 500, "{series} series of one member");
}

#[test]
fn promtool_finds_nothing_wrong() {
    let text = served("text/plain");
    let said = promtool::promtool(repository(), &["check", "metrics"], &text);
    assert_eq!(said, Ok(String::new()), "promtool check metrics");
    // It does look.
    let bad = "# TYPE pgbaton_wrong counter\npgbaton_wrong 1\n";
    let said = promtool::promtool(repository(), &["check", "metrics"], bad).unwrap_err();
    assert!(said.contains("_total"), "{said}");
}
