//! Outages beside the goals of DESIGN.md section 11, with the phases of the takeovers.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::oracles::observer;
use crate::report::FaultReport;
use crate::report::costs::{self, Costs, Traffic};
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

/// Goal for the median time until the old primary streams again, by follow or rewind, in milliseconds.
const REDUNDANCY_GOAL: u64 = 10_000;
/// Different things that members said, of all runs of a row.
const MOST_WORDS: usize = 12;

const HEAD: [&str; 16] = [
    "fault",
    "durability",
    "runs",
    "well",
    "another one leads",
    "goal",
    "median",
    "p90 (goal: 1.5 times that)",
    "max",
    "phases, medians in ms",
    "redundancy back by follow or rewind, median (goal 10000 ms)",
    "whole again, median",
    "asked for until whole, medians",
    "seen beside it",
    "lost",
    "two writable",
];

/// The head that belongs to `markdown_rows`.
#[must_use]
pub fn markdown_head() -> String {
    format!("| {} |\n|{}\n", HEAD.join(" | "), " --- |".repeat(HEAD.len()))
}

/// Rows of a Markdown table, without its head. Bold is what is above its goal.
#[must_use]
pub fn markdown_rows(reports: &[FaultReport], ground: Ground) -> String {
    let mut text = String::new();
    for row in rows(reports) {
        let mine = reports.iter().filter(|r| r.was_run() && row.is_of(r));
        let mine: Vec<&FaultReport> = mine.collect();
        let goal = goal(&row.fault, ground);
        let moved = mine.iter().filter(|r| r.old_primary != r.new_primary).count();
        let cells = [
            row.title.clone(),
            row.durability.clone(),
            row.runs.to_string(),
            row.well.to_string(),
            moved.to_string(),
            ms(goal),
            beside(percentile(&row.outages, 50), goal),
            beside(percentile(&row.outages, 90), goal.map(|goal| goal * 3 / 2)),
            ms(row.outages.last().copied()),
            phases(&mine),
            beside(redundancy(&mine), Some(REDUNDANCY_GOAL)),
            ms(percentile(&row.rejoined, 50)),
            asked_for(&mine),
            seen_beside(&mine),
            row.lost.to_string(),
            row.two_writable.to_string(),
        ];
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn ms(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"))
}

/// Bold when it is above its goal.
fn beside(value: Option<u64>, goal: Option<u64>) -> String {
    if goal.zip(value).is_some_and(|(goal, value)| value > goal) {
        format!("**{}**", ms(value))
    } else {
        ms(value)
    }
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    percentile(&sorted, 50)
}

/// Of the runs in which a server ended and came back with the data that it had: a clone takes as long as its data is large.
fn redundancy(runs: &[&FaultReport]) -> Option<u64> {
    let kept = |r: &&&FaultReport| matches!(r.rejoined_by.as_deref(), Some("follow" | "rewind"));
    median(runs.iter().filter(kept).filter_map(|r| r.rejoined_ms))
}

/// Beside what is asked for at rest in the same time.
fn asked_for(runs: &[&FaultReport]) -> String {
    let counted: Vec<&Costs> = runs.iter().filter_map(|r| r.costs.as_ref()).collect();
    let of =
        |part: &dyn Fn(&Traffic) -> u64, all: &[Traffic]| median(all.iter().map(part)).unwrap_or_default();
    let middle = |all: &[Traffic]| Traffic {
        requests: of(&|t| t.requests, all),
        writes: of(&|t| t.writes, all),
        questions: of(&|t| t.questions, all),
        peer_bytes: of(&|t| t.peer_bytes, all),
    };
    let now: Vec<Traffic> = counted.iter().map(|c| c.traffic).collect();
    let rest: Vec<Traffic> = counted.iter().filter_map(|c| c.at_rest_in_that_time()).collect();
    let Some(window) = median(counted.iter().map(|c| c.window_ms)) else {
        return "-".to_owned();
    };
    let rest = if rest.is_empty() {
        String::new()
    } else {
        format!("; at rest in that time: {}", costs::words(middle(&rest)))
    };
    format!(
        "in {}: {}{rest}",
        costs::seconds(window),
        costs::words(middle(&now))
    )
}

/// The backlog that there was, and the different things that members said, in how many runs.
fn seen_beside(runs: &[&FaultReport]) -> String {
    let backlog = median(runs.iter().filter_map(|r| r.detail.backlog_mib));
    let mut shown: Vec<String> = Vec::new();
    shown.extend(backlog.map(|mib| format!("{mib} MiB to replay, median")));
    let mut said: Vec<(String, usize)> = Vec::new();
    for run in runs {
        let mut of_run: Vec<String> = run.detail.words.iter().map(|line| without_times(line)).collect();
        let mut known = BTreeSet::new();
        of_run.retain(|text| known.insert(text.clone()));
        for text in of_run {
            match said.iter_mut().find(|(other, _)| *other == text) {
                Some((_, times)) => *times += 1,
                None => said.push((text, 1)),
            }
        }
    }
    // What was said in most runs; among equals in its order.
    said.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let texts = said.into_iter().take(MOST_WORDS);
    shown.extend(texts.map(|(text, times)| format!("\"{text}\" ({times} of {})", runs.len())));
    if shown.is_empty() {
        "-".to_owned()
    } else {
        shown.join("; ").replace('|', "/")
    }
}

/// Without the time at which it was said, and without those in it, which differ from run to run.
fn without_times(line: &str) -> String {
    let said = line.split_once(" ms, ").map_or(line, |(_, said)| said);
    observer::without_times(said)
}

/// The median of each phase over the runs that had it, in the order of the first run that had it.
fn phases(runs: &[&FaultReport]) -> String {
    let mut all: Vec<(&str, Vec<u64>)> = Vec::new();
    for (name, took) in runs.iter().flat_map(|r| &r.phases_ms) {
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
    let shown = all
        .into_iter()
        .map(|(name, times)| format!("{name} {}", median(times.into_iter()).unwrap_or_default()));
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
        report.new_primary = Some("postgres-2".to_owned());
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
            "| pod-kill | sync | 3 | 3 | 3 | 500 ms | **600 ms** | 700 ms | 700 ms | claim 105, pledges 30, promote 50 | - | 1 ms | - | - | 0 | 0 |\n"
        );
        let bars = |text: &str| text.lines().map(|l| l.matches('|').count()).collect::<Vec<_>>();
        assert_eq!(bars(&(markdown_head() + &rows)), [17; 3]);
        assert!(markdown_rows(&reports, Ground::Cluster).contains("| 800 ms | 600 ms |"));
    }

    #[test]
    fn what_was_not_usual_has_rows_of_its_own() {
        let mut dirty = report(500, &[]);
        dirty.setting.data = "dirty".to_owned();
        dirty.rejoined_by = Some("rewind".to_owned());
        dirty.rejoined_ms = Some(12_000);
        let traffic = Traffic {
            requests: 30,
            writes: 20,
            questions: 100,
            peer_bytes: 4_096,
        };
        dirty.costs = Some(Costs {
            window_ms: 2_460,
            traffic,
            at_rest: Some(traffic),
            at_rest_ms: 4_920,
        });
        let mut cloned = report(400, &[]);
        cloned.rejoined_by = Some("clone".to_owned());
        cloned.setting.backlog_mib = Some(256);
        cloned.detail.backlog_mib = Some(260);
        cloned.new_primary = None;
        cloned.detail.words = vec![
            "12 ms, the one left: standby: not streaming for 30 ms".to_owned(),
            "99 ms, the one left: standby: not streaming for 31 ms".to_owned(),
        ];
        let text = markdown_rows(&[report(300, &[]), dirty, cloned], Ground::Machine);
        let rows: Vec<&str> = text.lines().collect();
        assert_eq!(rows.len(), 3, "{text}");
        for (row, parts) in [
            (
                rows[1],
                [
                    "| pod-kill (dirty database) | sync | 1 | 1 | 1 | 500 ms | 500 ms |",
                    "| **12000 ms** |",
                    "| in 2.5 s: 30 API requests, 20 of them writes, 100 questions to others, 4 KiB; at rest in that time: 15 API requests, 10 of",
                ],
            ),
            (
                rows[2],
                [
                    "| pod-kill (replay backlog) | sync | 1 | 1 | 0 |",
                    "| - | 1 ms |",
                    "| 260 MiB to replay, median; \"the one left: standby: not streaming for ms\" (1 of 1) |",
                ],
            ),
        ] {
            for part in parts {
                assert!(row.contains(part), "no {part:?} in\n{row}");
            }
        }
    }
}
