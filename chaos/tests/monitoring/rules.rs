//! The rules by themselves: one source, complete texts, a runbook section for each alert, and promtool's judgement.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

use super::promtool::promtool;
use super::{read, repository};

pub const RULES: &str = "deploy/monitoring/rules.yaml";
const OPERATOR: &str = "deploy/monitoring/prometheusrule.yaml";
const TESTS: &str = "deploy/monitoring/tests";
/// Before the rules, in the form for the Prometheus operator.
const OPERATOR_HEAD: &str = "# For the Prometheus operator. Written from rules.yaml (UPDATE=1 cargo test --release -p pgbaton-chaos --test monitoring rules): not to be edited.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: pgbaton
  labels:
    app.kubernetes.io/name: postgres
    app.kubernetes.io/instance: postgres
    app.kubernetes.io/part-of: pgbaton
spec:
";

pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// All alerts by name.
pub fn alerts() -> BTreeMap<String, Value> {
    let rules = yaml(&read(RULES));
    let groups = rules["groups"].as_array().unwrap().iter();
    let all = groups.flat_map(|group| group["rules"].as_array().unwrap().clone());
    all.map(|rule| (rule["alert"].as_str().unwrap().to_owned(), rule))
        .collect()
}

fn operator_form() -> String {
    let rules = read(RULES);
    let at = rules.find("groups:").unwrap();
    let mut text = OPERATOR_HEAD.to_owned();
    for line in rules[at..].lines() {
        if line.is_empty() {
            text.push('\n');
        } else {
            text.push_str(&format!("  {line}\n"));
        }
    }
    text
}

#[test]
fn the_operators_rule_is_the_rule_file() {
    let path = repository().join(OPERATOR);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, operator_form()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == operator_form(),
        "{OPERATOR} is stale: UPDATE=1 cargo test --release -p pgbaton-chaos --test monitoring rules"
    );
    assert_eq!(yaml(&written)["spec"]["groups"], yaml(&read(RULES))["groups"]);
}

/// As GitHub and most others make them of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| -> String {
        let text = line.trim_start_matches('#').trim().to_lowercase();
        let kept = text
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn each_alert_says_how_bad_what_and_what_to_do() {
    let runbook = read("docs/runbook.md");
    let sections = anchors(&runbook);
    let all = alerts();
    assert_eq!(all.len(), 13);
    for (name, rule) in &all {
        let severity = rule["labels"]["severity"].as_str().unwrap();
        assert!(matches!(severity, "critical" | "warning"), "{name}: {severity}");
        for text in ["summary", "description"] {
            let words = rule["annotations"][text].as_str().unwrap_or_default();
            assert!(words.len() > 20 && words.contains("{{"), "{name} {text}: {words}");
        }
        let expression = rule["expr"].as_str().unwrap();
        let words = rule["annotations"].to_string();
        for named in words.split("$labels.").skip(1) {
            let label = named.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap();
            // What an aggregation drops is empty in the text.
            for kept in expression.split("by (").skip(1) {
                let kept = kept.split(')').next().unwrap();
                let of_cluster = expression.contains("group_left") && kept == "namespace, cluster";
                assert!(
                    kept.split(", ").any(|k| k == label) || of_cluster,
                    "{name}: {label} in {kept}"
                );
            }
        }
        let link = rule["annotations"]["runbook_url"].as_str().unwrap();
        let (page, section) = link.split_once('#').unwrap();
        assert_eq!(page, "docs/runbook.md", "{name}");
        assert!(
            sections.contains(section),
            "{name}: the runbook has no section #{section}"
        );
        let (_, rest) = runbook.split_once(&format!("\n### `{name}`\n")).unwrap();
        let body = rest.split("\n### ").next().unwrap();
        for part in ["**pgbaton:** ", "**You:** ", "**Not:** "] {
            assert!(body.contains(part), "{name}: no {part} in its section");
        }
    }
    let written = runbook.lines().filter(|line| line.starts_with("### `Pgbaton"));
    assert_eq!(
        written.count(),
        all.len(),
        "the runbook has alerts that there are not"
    );
}

/// Names of metrics in a text.
pub fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let named = words.filter(|word| word.starts_with("pgbaton_") && !word.starts_with("pgbaton_dev"));
    named.map(str::to_owned).collect()
}

/// A rule on a metric that there is not fires never, or always.
#[test]
fn rules_dashboard_and_runbook_use_metrics_that_there_are() {
    let known = metrics(&read("docs/metrics.md"));
    for file in [RULES, "deploy/monitoring/dashboard.json", "docs/runbook.md"] {
        let used = metrics(&read(file));
        assert!(used.len() > 5, "{file}: {used:?}");
        for name in used {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|suffix| name.strip_suffix(suffix))
                .filter(|family| known.contains(*family));
            assert!(known.contains(&name) || family.is_some(), "{file}: {name}");
        }
    }
}

#[test]
fn promtool_accepts_the_rules() {
    let said = promtool(&repository(), &["check", "rules", RULES], "");
    assert!(
        said.as_ref().is_ok_and(|text| text.contains("13 rules found")),
        "{said:?}"
    );
    let bad = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(bad.path(), read(RULES).replacen("max by", "maximum by", 1)).unwrap();
    let bad = bad.path().to_str().unwrap().to_owned();
    promtool(&repository(), &["check", "rules", &bad], "").unwrap_err();
}

/// The files of unit tests, which hold the recorded series.
fn files() -> Vec<String> {
    let folder = std::fs::read_dir(repository().join(TESTS)).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut all: Vec<String> = names
        .filter(|name| Path::new(name).extension().is_some_and(|e| e == "yaml"))
        .map(|name| format!("{TESTS}/{name}"))
        .collect();
    all.sort();
    all
}

#[test]
fn alerts_fire_on_recorded_faults_and_only_then() {
    let files = files();
    let mut arguments = vec!["test", "rules"];
    arguments.extend(files.iter().map(String::as_str));
    if let Err(said) = promtool(&repository(), &arguments, "") {
        panic!("promtool test rules says no:\n{said}");
    }
}

/// Whether an alert's test expects it to fire, by name.
fn expectations() -> BTreeMap<String, BTreeSet<bool>> {
    let mut all: BTreeMap<String, BTreeSet<bool>> = BTreeMap::new();
    for file in files() {
        let tests = yaml(&read(&file));
        assert_eq!(tests["rule_files"][0], "../rules.yaml", "{file}");
        for test in tests["tests"].as_array().unwrap() {
            for case in test["promql_expr_test"].as_array().unwrap() {
                let expression = case["expr"].as_str().unwrap();
                let (_, rest) = expression.split_once("alertname=\"").unwrap();
                let name = rest.split('"').next().unwrap().to_owned();
                assert!(
                    expression.contains("alertstate=\"firing\""),
                    "{file}: {expression}"
                );
                let fires = case["exp_samples"].as_array().is_some_and(|s| !s.is_empty());
                all.entry(name).or_default().insert(fires);
            }
        }
    }
    all
}

#[test]
fn each_alert_has_a_case_that_fires_and_one_that_does_not() {
    let expected = expectations();
    let alerts = alerts();
    for name in alerts.keys() {
        let cases = expected.get(name).cloned().unwrap_or_default();
        assert_eq!(cases.len(), 2, "{name}: {cases:?}");
    }
    for name in expected.keys() {
        assert!(alerts.contains_key(name), "there is no alert {name}");
    }
}
