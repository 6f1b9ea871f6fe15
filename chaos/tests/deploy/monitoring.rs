//! The components of deploy/monitoring over an overlay.

use serde_json::{Value, json};

use super::render::{Rendered, container, name_of, pod, root, unknown};

const MONITORED: &str = "chaos/tests/deploy/monitored";
/// Kinds of the Prometheus operator, which Kubernetes itself does not know.
const OPERATORS: [&str; 2] = ["PodMonitor", "PrometheusRule"];

#[test]
fn the_component_finds_the_members_and_brings_rules_and_dashboard() {
    let rendered = Rendered::of(MONITORED);
    let monitor = &rendered.one("PodMonitor", "postgres")["spec"];
    let wanted = monitor["selector"]["matchLabels"].as_object().unwrap();
    let port = &monitor["podMetricsEndpoints"][0]["port"];
    assert_eq!(rendered.members().len(), 3);
    for set in rendered.all("StatefulSet") {
        let labels = &set["spec"]["template"]["metadata"]["labels"];
        assert!(wanted.iter().all(|(k, v)| labels[k] == *v), "{labels}");
        let ports = container(pod(set), "sidecar")["ports"]
            .as_array()
            .unwrap()
            .clone();
        let named = ports.iter().find(|p| p["name"] == *port).unwrap();
        let annotations = &set["spec"]["template"]["metadata"]["annotations"];
        assert_eq!(annotations["prometheus.io/scrape"], "true", "{}", name_of(set));
        assert_eq!(annotations["prometheus.io/path"], "/metrics");
        let number = named["containerPort"].as_u64().unwrap().to_string();
        assert_eq!(annotations["prometheus.io/port"], number.as_str());
    }
    let rules = std::fs::read_to_string(root().join("deploy/monitoring/rules.yaml")).unwrap();
    let rules: Value = serde_saphyr::from_str(&rules).unwrap();
    let shipped = &rendered.one("PrometheusRule", "pgbaton")["spec"];
    assert_eq!(shipped["groups"], rules["groups"]);
    let board = rendered.one("ConfigMap", "pgbaton-dashboard");
    assert_eq!(board["metadata"]["labels"]["grafana_dashboard"], "1");
    let text = board["data"]["pgbaton.json"].as_str().unwrap();
    let board: Value = serde_json::from_str(text).unwrap();
    assert_eq!(board["title"], "pgbaton");
}

/// People's own StatefulSets have no label of pgbaton's; their pods have.
#[test]
fn adopted_members_are_found_too() {
    let rendered = Rendered::of("chaos/tests/deploy/monitored/adopted");
    let wanted = &rendered.one("PodMonitor", "postgres")["spec"]["selector"]["matchLabels"];
    assert_eq!(rendered.members().len(), 3);
    for set in rendered.all("StatefulSet") {
        let metadata = &set["spec"]["template"]["metadata"];
        let wanted = wanted.as_object().unwrap();
        assert!(
            wanted.iter().all(|(k, v)| metadata["labels"][k] == *v),
            "{metadata}"
        );
        assert_eq!(metadata["annotations"]["prometheus.io/scrape"], "true");
    }
}

/// Beside its own objects and the annotations it changes nothing.
#[test]
fn the_cluster_itself_stays_as_it_is() {
    let plain = Rendered::of("deploy/overlays/tutorial");
    let mut monitored = Rendered::of(MONITORED);
    monitored.objects.retain(|object| {
        let own = OPERATORS.iter().any(|kind| object["kind"] == *kind);
        !own && name_of(object) != "pgbaton-dashboard"
    });
    for object in &mut monitored.objects {
        assert_eq!(unknown(object), Vec::<String>::new(), "{}", name_of(object));
        if object["kind"] == "StatefulSet" {
            let metadata = object["spec"]["template"]["metadata"].as_object_mut().unwrap();
            let annotations = metadata["annotations"].as_object_mut().unwrap();
            annotations.retain(|name, _| !name.starts_with("prometheus.io/"));
            if metadata["annotations"] == json!({}) {
                metadata.remove("annotations");
            }
        }
    }
    let key = |object: &Value| (object["kind"].to_string(), name_of(object).to_owned());
    let mut before = plain.objects;
    before.sort_by_key(key);
    monitored.objects.sort_by_key(key);
    assert_eq!(before, monitored.objects);
}
