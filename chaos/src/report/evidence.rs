//! One page of all long checks, made from the files that they append to (docs/evidence), never by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::summary::percentile;

mod rest;

const HEAD: &str = "# Evidence

Rendered by `make evidence` from the files in docs/evidence, which long checks append to: not to be edited. A commit is the code that was
checked. Newest last.
";

/// What `make bench` noted, for its end: what the members cost, what clients pay, outages beside the goals.
///
/// # Errors
/// As `page`.
pub fn bench(folder: &Path) -> Result<String> {
    let mut text = String::new();
    rest::at_rest(&mut text, &lines(folder, "rest.jsonl")?);
    rest::tps(&mut text, &lines(folder, "tps.jsonl")?);
    last_part(
        &mut text,
        "Outages beside the goals, one machine (`make bench`)",
        &read(folder, "bench.md")?,
    );
    Ok(text)
}

/// The page.
///
/// # Errors
/// A file that is there and cannot be read, or a line of it that is no JSON: with its name and number.
pub fn page(folder: &Path) -> Result<String> {
    let mut text = HEAD.to_owned();
    simulation(&mut text, &lines(folder, "simulation.jsonl")?);
    soak(&mut text, "On one machine", &lines(folder, "soak.jsonl")?);
    soak(
        &mut text,
        "On a real Kubernetes",
        &lines(folder, "soak-cluster.jsonl")?,
    );
    calm(&mut text, &lines(folder, "calm.jsonl")?);
    planted(&mut text, &read(folder, "planted.md")?);
    text.push_str(&bench(folder)?);
    last_part(
        &mut text,
        "Outages of every fault, one machine (`make outages`)",
        &read(folder, "outages.md")?,
    );
    last_part(
        &mut text,
        "Alerts through faults (`make monitoring-evidence`)",
        &read(folder, "monitoring.md")?,
    );
    let rows = read(folder, "bench-cluster.md")?;
    last_commit(
        &mut text,
        "Outages beside the goals, real Kubernetes (`make bench-cluster`)",
        &rows,
    );
    text.push_str(
        "\nEvery scenario on a real Kubernetes (`make chaos-all`): the last table of docs/chaos.md.\n",
    );
    Ok(text)
}

/// Empty when the check was never run.
fn read(folder: &Path, name: &str) -> Result<String> {
    let path = folder.join(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

fn lines(folder: &Path, name: &str) -> Result<Vec<Value>> {
    let text = read(folder, name)?;
    let numbered = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    numbered
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("{name}, line {}", number + 1))
        })
        .collect()
}

fn word(line: &Value, key: &str) -> String {
    match &line[key] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

fn number(line: &Value, key: &str) -> u64 {
    line[key].as_u64().unwrap_or_default()
}

/// The lines of each commit, in the order of the first line of each.
fn by_commit(lines: &[Value]) -> Vec<(String, Vec<&Value>)> {
    let mut all: Vec<(String, Vec<&Value>)> = Vec::new();
    for line in lines {
        let commit = word(line, "commit");
        match all.iter_mut().find(|(known, _)| *known == commit) {
            Some((_, of_it)) => of_it.push(line),
            None => all.push((commit, vec![line])),
        }
    }
    all
}

fn last_date(lines: &[&Value]) -> String {
    let date = lines.last().map_or_else(String::new, |line| word(line, "date"));
    date.chars().take(10).collect()
}

fn begin(text: &mut String, title: &str, head: &[&str]) {
    let _ = writeln!(
        text,
        "\n## {title}\n\n| {} |\n|{}",
        head.join(" | "),
        " --- |".repeat(head.len())
    );
}

fn row(text: &mut String, cells: &[String]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn simulation(text: &mut String, lines: &[Value]) {
    if lines.is_empty() {
        return;
    }
    let head = [
        "date",
        "commit",
        "seeds",
        "things that happened",
        "servers opened",
        "commits acknowledged",
        "longest until whole",
        "things a second and core",
    ];
    begin(
        text,
        "Simulator (`make simulate`): no rule broke, every cluster became whole",
        &head,
    );
    for (commit, of_it) in by_commit(lines) {
        let sum = |key: &str| of_it.iter().map(|line| number(line, key)).sum::<u64>();
        let longest = of_it.iter().map(|line| number(line, "whole_after_ms")).max();
        let seconds: f64 = of_it.iter().filter_map(|line| line["seconds"].as_f64()).sum();
        let speed = if seconds > 0.0 {
            sum("happened") as f64 / seconds
        } else {
            0.0
        };
        row(
            text,
            &[
                last_date(&of_it),
                commit,
                sum("seeds").to_string(),
                sum("happened").to_string(),
                sum("opened").to_string(),
                sum("acknowledged").to_string(),
                format!("{} ms", longest.unwrap_or_default()),
                format!("{speed:.0}"),
            ],
        );
    }
}

fn soak(text: &mut String, place: &str, lines: &[Value]) {
    if lines.is_empty() {
        return;
    }
    let head = [
        "date",
        "commit",
        "runs",
        "well",
        "lost",
        "two writable",
        "outage, median",
        "p90",
        "max",
    ];
    begin(
        text,
        &format!("Random faults (`make soak`): {}", place.to_lowercase()),
        &head,
    );
    for (commit, of_it) in by_commit(lines) {
        let count = |is: &dyn Fn(&Value) -> bool| of_it.iter().filter(|line| is(line)).count().to_string();
        let is_two = |line: &Value| line["two_writable"] == true;
        let is_well = |line: &Value| {
            let whole = line["detail"]["not_whole"].as_array().is_some_and(Vec::is_empty);
            number(line, "lost") == 0 && !is_two(line) && whole && line["detail"]["trouble"].is_null()
        };
        let mut outages: Vec<u64> = of_it.iter().map(|line| number(line, "outage_ms")).collect();
        outages.sort_unstable();
        let ms = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms"));
        row(
            text,
            &[
                last_date(&of_it),
                commit,
                of_it.len().to_string(),
                count(&is_well),
                of_it
                    .iter()
                    .map(|line| number(line, "lost"))
                    .sum::<u64>()
                    .to_string(),
                count(&is_two),
                ms(percentile(&outages, 50)),
                ms(percentile(&outages, 90)),
                ms(outages.last().copied()),
            ],
        );
    }
}

fn calm(text: &mut String, lines: &[Value]) {
    if lines.is_empty() {
        return;
    }
    let head = [
        "date",
        "commit",
        "seconds",
        "API server later by",
        "clients",
        "takeovers",
        "acknowledged",
        "lost",
        "longest time without a write",
    ];
    begin(
        text,
        "Full processor load and a slow API server, nothing else (`make calm`)",
        &head,
    );
    for line in lines {
        row(
            text,
            &[
                last_date(&[line]),
                word(line, "commit"),
                word(line, "seconds"),
                format!("{} ms", word(line, "api_latency_ms")),
                word(line, "clients"),
                word(line, "takeovers"),
                word(line, "acknowledged"),
                word(line, "lost"),
                format!("{} ms", word(line, "outage_ms")),
            ],
        );
    }
}

/// Headings `## DATE, commit C (N cores)`, and a row of each bug below.
fn planted(text: &mut String, file: &str) {
    let mut found: Vec<(String, BTreeMap<bool, u64>)> = Vec::new();
    for line in file.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            found.push((heading.to_owned(), BTreeMap::new()));
        } else if let Some((_, counts)) = found
            .last_mut()
            .filter(|_| line.starts_with("| ") && !line.starts_with("| bug ") && !line.starts_with("| --- "))
        {
            *counts.entry(!line.contains("**nobody**")).or_default() += 1;
        }
    }
    if found.is_empty() {
        return;
    }
    begin(
        text,
        "Planted bugs (`make planted`, each by itself in docs/evidence/planted.md)",
        &["run", "planted", "found"],
    );
    for (heading, counts) in found {
        let (hit, missed) = (
            counts.get(&true).copied().unwrap_or_default(),
            counts.get(&false).copied().unwrap_or_default(),
        );
        row(text, &[heading, (hit + missed).to_string(), hit.to_string()]);
    }
}

/// What stands under the last heading of a file.
fn last_part(text: &mut String, title: &str, file: &str) {
    let Some(at) = file.rfind("\n## ") else { return };
    let part = file[at + 4..].trim();
    let (heading, rows) = part.split_once('\n').unwrap_or((part, ""));
    let _ = writeln!(text, "\n## {title}\n\n{heading}\n\n{}", rows.trim());
}

/// Rows `| date | commit | ...` of the commit of the last one.
fn last_commit(text: &mut String, title: &str, file: &str) {
    let mut rows = file.lines().filter(|line| line.starts_with('|'));
    let (Some(head), Some(rule)) = (rows.next(), rows.next()) else {
        return;
    };
    let commit = |line: &str| line.split('|').nth(2).map(|cell| cell.trim().to_owned());
    let all: Vec<&str> = rows.collect();
    let Some(last) = all.last().and_then(|line| commit(line)) else {
        return;
    };
    let _ = writeln!(text, "\n## {title}\n\n{head}\n{rule}");
    for line in all.iter().filter(|line| commit(line).as_ref() == Some(&last)) {
        let _ = writeln!(text, "{line}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn each_file_has_its_table_and_what_is_not_there_has_none() {
        let files = folder(&[
            (
                "simulation.jsonl",
                "{\"date\":\"2026-01-02T03:04:05Z\",\"commit\":\"abc\",\"from\":1,\"seeds\":10,\"happened\":1000,\"opened\":5,\"acknowledged\":70,\"whole_after_ms\":90,\"seconds\":0.5}\n\
                 {\"date\":\"2026-01-03T03:04:05Z\",\"commit\":\"abc\",\"from\":11,\"seeds\":10,\"happened\":500,\"opened\":5,\"acknowledged\":30,\"whole_after_ms\":40,\"seconds\":0.5}\n",
            ),
            (
                "planted.md",
                "# Planted bugs\n\n## 2026-01-02, commit abc (2 cores)\n\n| bug | invariant | found by | seconds |\n| --- | --- | --- | --- |\n| one | 1 | `t` | 1 |\n| two | 2 | **nobody** | 3 |\n",
            ),
            (
                "bench.md",
                "# Bench\n\n## old\n\n| a |\n\n## 2026-01-02, commit abc\n\n| b |\n| --- |\n",
            ),
            (
                "bench-cluster.md",
                "# x\n\n| date | commit | fault |\n| --- | --- | --- |\n| d | old | x |\n| d | new | y |\n| d | new | z |\n",
            ),
        ]);
        let page = page(files.path()).unwrap();
        for part in [
            "| 2026-01-03 | abc | 20 | 1500 | 10 | 100 | 90 ms | 1500 |",
            "| 2026-01-02, commit abc (2 cores) | 2 | 1 |",
            "2026-01-02, commit abc\n\n| b |",
            "| d | new | y |\n| d | new | z |",
        ] {
            assert!(page.contains(part), "no {part:?} in\n{page}");
        }
        for part in ["| a |", "| d | old", "Random faults", "At rest"] {
            assert!(!page.contains(part), "{part:?} in\n{page}");
        }
    }

    #[test]
    fn a_line_that_is_no_json_is_named() {
        let files = folder(&[("soak.jsonl", "{}\nnonsense\n")]);
        let error = format!("{:#}", page(files.path()).unwrap_err());
        assert!(error.contains("soak.jsonl, line 2"), "{error}");
    }
}
