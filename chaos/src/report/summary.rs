//! Many reports of the same faults as one table: medians instead of single luck.

use std::fmt::Write as _;

use crate::report::FaultReport;

/// One fault on one kind of cluster, over all its runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The fault's name.
    pub fault: String,
    /// The same with what is not usual about the cluster.
    pub title: String,
    /// `sync` or `async`.
    pub durability: String,
    /// How often it was inflicted.
    pub runs: usize,
    /// How often all was well.
    pub well: usize,
    /// Outages in ms, sorted.
    pub outages: Vec<u64>,
    /// Times until whole again in ms, sorted; of those that became whole.
    pub rejoined: Vec<u64>,
    /// Lost writes, all runs together.
    pub lost: u64,
    /// In how many runs two servers took writes.
    pub two_writable: usize,
}

impl Row {
    /// Whether the report belongs to it.
    #[must_use]
    pub fn is_of(&self, report: &FaultReport) -> bool {
        self.title == report.setting.title(&report.fault) && self.durability == report.durability
    }
}

/// A row for each fault, setting and durability, in the order of their first report. What was not run has no part in it.
#[must_use]
pub fn rows(reports: &[FaultReport]) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for report in reports.iter().filter(|report| report.was_run()) {
        let same = |row: &Row| row.is_of(report);
        let at = rows.iter().position(same).unwrap_or_else(|| {
            rows.push(Row {
                fault: report.fault.clone(),
                title: report.setting.title(&report.fault),
                durability: report.durability.clone(),
                runs: 0,
                well: 0,
                outages: Vec::new(),
                rejoined: Vec::new(),
                lost: 0,
                two_writable: 0,
            });
            rows.len() - 1
        });
        let row = &mut rows[at];
        row.runs += 1;
        row.well += usize::from(report.is_good());
        row.outages.push(report.outage_ms);
        row.rejoined.extend(report.rejoined_ms);
        row.lost += report.lost;
        row.two_writable += usize::from(report.two_writable);
    }
    for row in &mut rows {
        row.outages.sort_unstable();
        row.rejoined.sort_unstable();
    }
    rows
}

/// The value that `percent` of the sorted values do not exceed (nearest rank).
#[must_use]
pub fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

const HEAD: [&str; 11] = [
    "fault",
    "durability",
    "runs",
    "well",
    "outage min",
    "median",
    "p90",
    "max",
    "whole again, median",
    "lost",
    "two writable",
];

fn cells(row: &Row) -> [String; 11] {
    let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
    [
        row.title.clone(),
        row.durability.clone(),
        row.runs.to_string(),
        row.well.to_string(),
        ms(row.outages.first().copied()),
        ms(percentile(&row.outages, 50)),
        ms(percentile(&row.outages, 90)),
        ms(row.outages.last().copied()),
        ms(percentile(&row.rejoined, 50)),
        row.lost.to_string(),
        row.two_writable.to_string(),
    ]
}

/// A table in columns; none when no fault was run twice: each report says all then.
#[must_use]
pub fn for_people(reports: &[FaultReport]) -> Option<String> {
    let rows = rows(reports);
    if rows.iter().all(|row| row.runs < 2) {
        return None;
    }
    let lines: Vec<[String; 11]> = std::iter::once(HEAD.map(str::to_owned))
        .chain(rows.iter().map(cells))
        .collect();
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].len())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        text.push('\n');
        for (cell, width) in line.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "  {cell:<width$}");
        }
        text.truncate(text.trim_end().len());
    }
    Some(text)
}

/// Rows of a Markdown table, without its head.
#[must_use]
pub fn markdown_rows(reports: &[FaultReport]) -> String {
    let line = |row: &Row| format!("| {} |\n", cells(row).join(" | "));
    rows(reports).iter().map(line).collect()
}

/// The head that belongs to `markdown_rows`.
#[must_use]
pub fn markdown_head() -> String {
    format!("| {} |\n|{}\n", HEAD.join(" | "), " --- |".repeat(HEAD.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fault: &str, outage_ms: u64) -> FaultReport {
        let mut report = FaultReport::not_run(fault, "sync");
        report.detail.trouble = None;
        report.outage_ms = outage_ms;
        report.rejoined_ms = Some(outage_ms * 2);
        report
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let ten: Vec<u64> = (1..=10).collect();
        assert_eq!(percentile(&ten, 50), Some(5));
        assert_eq!(percentile(&ten, 90), Some(9));
        assert_eq!(percentile(&[7], 90), Some(7));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn runs_of_one_fault_are_one_row() {
        let mut bad = report("pod-kill", 900);
        bad.lost = 2;
        bad.two_writable = true;
        bad.rejoined_ms = None;
        let reports = [
            report("pod-kill", 300),
            report("switchover", 50),
            report("pod-kill", 100),
            bad,
            FaultReport::not_run("pod-kill", "sync"),
        ];
        let rows = rows(&reports);
        assert_eq!(rows.len(), 2);
        assert_eq!(
            cells(&rows[0]).join(" "),
            "pod-kill sync 3 2 100 ms 300 ms 900 ms 900 ms 200 ms 2 1"
        );
        assert!(for_people(&reports).is_some_and(|text| text.lines().count() == 4));
        assert_eq!(for_people(&reports[..2]), None);
        let columns = |text: &str| {
            text.lines()
                .map(|line| line.matches('|').count())
                .collect::<Vec<_>>()
        };
        let table = markdown_head() + &markdown_rows(&reports);
        assert_eq!(columns(&table), [12; 4]);
    }
}
