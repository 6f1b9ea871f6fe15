//! The dashboard: what it asks for, and that it is tied to nobody's Grafana.

use serde_json::Value;

use super::prometheus::Prometheus;
use super::read;
use pgbaton_chaos::local::settings::NAMESPACE;

const FILE: &str = "deploy/monitoring/dashboard.json";

fn dashboard() -> Value {
    serde_json::from_str(&read(FILE)).unwrap()
}

/// Title and query of each panel's targets and of each annotation.
fn queries() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((text(&panel["title"]), text(&target["expr"])));
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        all.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    all
}

/// Every data source that is named anywhere.
fn sources<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("datasource"));
            fields.values().for_each(|field| sources(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| sources(item, found)),
        _ => {}
    }
}

#[test]
fn it_is_tied_to_no_grafana_and_asks_for_the_chosen_cluster_only() {
    let dashboard = dashboard();
    let mut found = Vec::new();
    sources(&dashboard, &mut found);
    assert!(found.len() > 30);
    for source in found {
        assert_eq!(source["uid"], "${datasource}", "{source}");
    }
    assert!(dashboard["id"].is_null() && dashboard["__inputs"].is_null());
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|v| v["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "namespace", "cluster"]);
    let all = queries();
    assert!(all.len() > 35, "{}", all.len());
    for (title, query) in all {
        let of_chosen = "namespace=~\"$namespace\",cluster=~\"$cluster\"";
        let selectors = query.matches("pgbaton_").count() + query.matches("ALERTS{").count();
        assert_eq!(query.matches(of_chosen).count(), selectors, "{title}: {query}");
    }
    let ids: std::collections::BTreeSet<u64> = dashboard["panels"]
        .as_array()
        .unwrap()
        .iter()
        .map(|panel| panel["id"].as_u64().unwrap())
        .collect();
    assert_eq!(
        ids.len(),
        dashboard["panels"].as_array().unwrap().len(),
        "an id is used twice"
    );
}

/// Each query has an answer with a number in it over this time; how many there are.
pub async fn each_query_has_data(prometheus: &Prometheus, from: f64, to: f64) -> usize {
    let all = queries();
    let mut empty = Vec::new();
    for (title, query) in &all {
        // As Grafana fills them in, for this time and a scrape a second.
        let range = format!("{}s", (to - from).ceil());
        let query = query
            .replace("$namespace", NAMESPACE)
            .replace("$cluster", "postgres")
            .replace("$__rate_interval", "15s")
            .replace("$__range", &range);
        assert!(!query.contains('$'), "{title}: {query}");
        let series = prometheus.over(&query, from, to).await;
        let samples = series.iter().flat_map(|s| s["values"].as_array().unwrap());
        let mut numbers = samples.filter(|sample| sample[1] != "NaN");
        if numbers.next().is_none() {
            empty.push(format!("{title}: {query}"));
        }
    }
    assert!(empty.is_empty(), "no data for\n{}", empty.join("\n"));
    all.len()
}
