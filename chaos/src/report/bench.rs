//! Outages beside the goals of DESIGN.md section 11, with the phases of the takeovers.

use std::fmt::Write as _;

use crate::report::FaultReport;
use crate::report::summary::{percentile, rows};
use crate::report::timeline;

/// Where the runs were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ground {
    /// Three members on one machine (`pgbaton-chaos demo`).
    Machine,
    /// A real Kubernetes (`pgbaton-chaos cluster run`).
    Cluster,
}

/// Goals for the median in milliseconds: fault or scenario, one machine, a real Kubernetes. An outage of at most 50 ms counts as none.
const GOALS: [(&str, u64, u64); 11] = [
    ("postmaster-kill", 500, 800),
    ("pod-kill", 500, 800),
    ("pod-freeze", 2_500, 2_800),
    ("node-cut", 2_500, 2_800),
    ("server-hang", 4_000, 4_300),
    ("pod-delete", 600, 900),
    ("drain", 600, 900),
    ("switchover", 400, 700),
    ("api-down", 50, 50),
    ("api-stop", 50, 50),
    ("sidecar-kill", 50, 50),
];

/// The goal for the median, where there is one.
#[must_use]
pub fn goal(fault: &str, ground: Ground) -> Option<u64> {
    let (_, machine, cluster) = GOALS.iter().find(|(name, ..)| *name == fault)?;
    Some(match ground {
        Ground::Machine => *machine,
        Ground::Cluster => *cluster,
    })
}

const HEAD: [&str; 12] = [
    "fault",
    "durability",
    "runs",
    "well",
    "goal",
    "median",
    "p90",
    "max",
    "phases, medians in ms",
    "whole again, median",
    "lost",
    "two writable",
];

/// The head that belongs to `markdown_rows`.
#[must_use]
pub fn markdown_head() -> String {
    format!("| {} |\n|{}\n", HEAD.join(" | "), " --- |".repeat(HEAD.len()))
}

/// Rows of a Markdown table, without its head. Bold is a median above its goal.
#[must_use]
pub fn markdown_rows(reports: &[FaultReport], ground: Ground) -> String {
    let mut text = String::new();
    for row in rows(reports) {
        let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        let goal = goal(&row.fault, ground);
        let median = percentile(&row.outages, 50);
        let missed = goal.zip(median).is_some_and(|(goal, median)| median > goal);
        let median = if missed {
            format!("**{}**", ms(median))
        } else {
            ms(median)
        };
        let cells = [
            row.fault.clone(),
            row.durability.clone(),
            row.runs.to_string(),
            row.well.to_string(),
            ms(goal),
            median,
            ms(percentile(&row.outages, 90)),
            ms(row.outages.last().copied()),
            phases(reports, &row.fault, &row.durability),
            ms(percentile(&row.rejoined, 50)),
            row.lost.to_string(),
            row.two_writable.to_string(),
        ];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// The median of each phase over the runs that had it, in the order of the first run that had it.
fn phases(reports: &[FaultReport], fault: &str, durability: &str) -> String {
    let mut all: Vec<(&str, Vec<u64>)> = Vec::new();
    let mine = |r: &&FaultReport| r.was_run() && r.fault == fault && r.durability == durability;
    for (name, took) in reports.iter().filter(mine).flat_map(|r| &r.phases_ms) {
        match all.iter_mut().find(|(known, _)| known == name) {
            Some((_, times)) => times.push(*took),
            None => all.push((name, vec![*took])),
        }
    }
    // These come before what every takeover has, whichever run had one first.
    all.sort_by_key(|(name, _)| {
        [timeline::SIGN, "claim"]
            .iter()
            .position(|first| first == name)
            .unwrap_or(2)
    });
    let shown = all.into_iter().map(|(name, mut times)| {
        times.sort_unstable();
        format!("{name} {}", percentile(&times, 50).unwrap_or_default())
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() {
        "-".to_owned()
    } else {
        shown.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outage_ms: u64, phases: &[(&str, u64)]) -> FaultReport {
        let mut report = FaultReport::not_run("pod-kill", "sync");
        report.detail.trouble = None;
        report.outage_ms = outage_ms;
        report.rejoined_ms = Some(1);
        report.phases_ms = phases
            .iter()
            .map(|(name, ms)| ((*name).to_owned(), *ms))
            .collect();
        report
    }

    #[test]
    fn medians_stand_beside_goals_and_phases() {
        let reports = [
            report(300, &[("pledges", 20), ("promote", 40)]),
            report(700, &[("claim", 105), ("pledges", 30), ("promote", 50)]),
            report(600, &[("claim", 205), ("pledges", 40), ("promote", 60)]),
        ];
        let rows = markdown_rows(&reports, Ground::Machine);
        assert_eq!(
            rows,
            "| pod-kill | sync | 3 | 3 | 500 ms | **600 ms** | 700 ms | 700 ms | claim 105, pledges 30, promote 50 | 1 ms | 0 | 0 |\n"
        );
        let bars = |text: &str| text.lines().map(|l| l.matches('|').count()).collect::<Vec<_>>();
        assert_eq!(bars(&(markdown_head() + &rows)), [13; 3]);
        assert!(markdown_rows(&reports, Ground::Cluster).contains("| 800 ms | 600 ms |"));
    }
}
