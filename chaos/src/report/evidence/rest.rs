//! What the members cost at rest, beside the goals of DESIGN.md section 11, and what clients pay for it.

use serde_json::Value;

use super::{begin, last_date, row, word};

/// Resident memory in KiB; DESIGN.md counts megabytes of 10^6 bytes.
const SIDECAR_KIB: f64 = 20_000_000.0 / 1_024.0;
const GUARD_KIB: f64 = 5_000_000.0 / 1_024.0;
/// Percent of a core, of a sidecar.
const SIDECAR_CPU: f64 = 1.0;
/// Requests a second of the leader's sidecar. A standby's has a watch, and asks for nothing.
const LEADER_REQUESTS: f64 = 1.2;
/// Percent of transactions a second.
const TPS_COST: f64 = 1.0;

/// The figure, bold when it is not below its goal.
fn below(line: &Value, key: &str, goal: f64, unit: &str) -> String {
    let text = format!("{}{unit}", word(line, key));
    if line[key].as_f64().is_some_and(|value| value > goal) {
        format!("**{text}**")
    } else {
        text
    }
}

/// A row for each member of each run.
pub fn at_rest(text: &mut String, lines: &[Value]) {
    if lines.is_empty() {
        return;
    }
    let head = [
        "date",
        "commit",
        "member",
        "sidecar (goal: below 20 MB, 19531 KiB)",
        "its processor time (goal: below 1 %)",
        "guard (goal: below 5 MB, 4882 KiB)",
        "its processor time",
        "API requests a second (goal: 1.2 as leader, a watch as standby)",
        "of them writes",
        "watches",
        "questions to others a second",
        "bytes of them a second",
    ];
    begin(text, "At rest (`make bench`)", &head);
    for line in lines {
        for cost in line["costs"].as_array().into_iter().flatten() {
            let leads = cost["leads"] == true;
            let role = if leads { "leader" } else { "standby" };
            // Rounded to hundredths: one request in two minutes is none.
            let requests = if leads { LEADER_REQUESTS } else { 0.01 };
            row(
                text,
                &[
                    last_date(&[line]),
                    word(line, "commit"),
                    format!("{} ({role})", word(cost, "member")),
                    below(cost, "sidecar_kib", SIDECAR_KIB, " KiB"),
                    below(cost, "sidecar_cpu", SIDECAR_CPU, " % of a core"),
                    below(cost, "guard_kib", GUARD_KIB, " KiB"),
                    format!("{} % of a core", word(cost, "guard_cpu")),
                    below(cost, "requests", requests, ""),
                    word(cost, "writes"),
                    word(cost, "watches"),
                    word(cost, "questions"),
                    word(cost, "peer_bytes"),
                ],
            );
        }
    }
}

/// A row for each run.
pub fn tps(text: &mut String, lines: &[Value]) {
    if lines.is_empty() {
        return;
    }
    let title = "Cost to clients (`make bench`): pgbench with sidecars and guards at work, and with all of them standing still";
    let head = [
        "date",
        "commit",
        "clients",
        "pairs",
        "with, median TPS",
        "without, median TPS",
        "cost, median of the pairs (goal: below 1 %)",
    ];
    begin(text, title, &head);
    let median = |line: &Value, key: &str| {
        let list = line[key].as_array().into_iter().flatten();
        let mut all: Vec<f64> = list.filter_map(Value::as_f64).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2)
            .map_or_else(|| "-".to_owned(), |tps| format!("{tps:.0}"))
    };
    for line in lines {
        row(
            text,
            &[
                last_date(&[line]),
                word(line, "commit"),
                word(line, "clients"),
                line["with"].as_array().map_or(0, Vec::len).to_string(),
                median(line, "with"),
                median(line, "without"),
                below(line, "cost_percent", TPS_COST, " %"),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_misses_its_goal_is_bold() {
        let cost = |leads: bool, requests: f64, kib: u64| {
            json!({"member": "postgres-1", "leads": leads, "sidecar_kib": kib, "sidecar_cpu": 0.4, "guard_kib": 3000, "guard_cpu": 0.1,
                   "requests": requests, "writes": 1.0, "watches": 4, "questions": 2.0, "peer_bytes": 900.0})
        };
        let line = json!({"date": "2026-01-02T03:04:05Z", "commit": "abc", "costs":
            [cost(true, 1.2, 19_000), cost(false, 0.0, 20_000), cost(true, 1.3, 1), cost(false, 0.5, 1)]});
        let mut text = String::new();
        at_rest(&mut text, &[line]);
        let bold: Vec<Vec<&str>> = text
            .lines()
            .skip(5)
            .map(|line| line.split(" | ").filter(|cell| cell.contains("**")).collect())
            .collect();
        assert_eq!(
            bold,
            [vec![], vec!["**20000 KiB**"], vec!["**1.3**"], vec!["**0.5**"]],
            "{text}"
        );
        let mut text = String::new();
        let line = |cost: f64| json!({"with": [99.0], "without": [100.0], "cost_percent": cost});
        tps(&mut text, &[line(1.0), line(1.5), line(-3.0)]);
        assert!(
            text.contains("| 1.0 % |") && text.contains("| **1.5 %** |") && text.contains("| -3.0 % |"),
            "{text}"
        );
    }
}
