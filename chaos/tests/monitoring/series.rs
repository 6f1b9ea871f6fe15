//! Samples of members' metrics, second by second, written as promtool's unit tests take them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::read;
use super::rules::{RULES, metrics};

/// Significant digits that are kept: rules compare with round numbers, and noise makes files long.
const DIGITS: usize = 3;

/// What was scraped, by series; a second without an answer has no sample.
#[derive(Default)]
pub struct Recording {
    seconds: usize,
    series: BTreeMap<String, Vec<Option<f64>>>,
}

impl Recording {
    /// Adds one second: address and text of each member that answered.
    pub fn add(&mut self, texts: &[Option<(String, String)>], namespace: &str) {
        let used = metrics(&read(RULES));
        for (instance, text) in texts.iter().flatten() {
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let Some((series, value)) = line.rsplit_once(' ') else {
                    continue;
                };
                let Some((name, labels)) = series.split_once('{') else {
                    continue;
                };
                if !used.contains(name) || is_other_role(name, labels) {
                    continue;
                }
                let key = format!("{name}{{instance=\"{instance}\",namespace=\"{namespace}\",{labels}");
                let samples = self.series.entry(key).or_default();
                samples.resize(self.seconds, None);
                samples.push(value.parse().ok());
            }
        }
        self.seconds += 1;
    }

    /// So many.
    pub fn seconds(&self) -> usize {
        self.seconds
    }

    /// Adds the series of another recording that ended at the same moment.
    pub fn merge(&mut self, later: &Self) {
        for (series, samples) in &later.series {
            let mut all = vec![None; self.seconds.saturating_sub(later.seconds)];
            all.extend(samples.iter().copied());
            self.series.insert(series.clone(), all);
        }
    }

    /// The block `input_series` of a unit test, indented for it. What a member said last is held for so many seconds more.
    pub fn block(&self, hold: usize) -> String {
        let mut text = String::new();
        for (series, samples) in &self.series {
            let mut samples = samples.clone();
            samples.resize(self.seconds, None);
            let last = samples.last().copied().flatten();
            samples.extend(std::iter::repeat_n(last, hold));
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  - series: '{series}'\n    values: '{}'", values(&samples));
        }
        text
    }
}

/// The rules ask for two of the roles.
fn is_other_role(name: &str, labels: &str) -> bool {
    name == "pgbaton_role" && !labels.contains("role=\"primary\"") && !labels.contains("role=\"standby\"")
}

/// Runs of one value, in promtool's notation. A member that stops answering is stale, as in Prometheus.
fn values(samples: &[Option<f64>]) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut before: Option<String> = None;
    let mut at = 0;
    while at < samples.len() {
        let value = samples[at].map(rounded);
        let same = samples[at..].iter().take_while(|s| s.map(rounded) == value);
        let mut run = same.count();
        at += run;
        match &value {
            None => {
                if before.is_some() {
                    words.push("stale".to_owned());
                    run -= 1;
                }
                if run > 0 {
                    words.push(format!("_x{run}"));
                }
            }
            Some(value) if run == 1 => words.push(value.clone()),
            Some(value) => words.push(format!("{value}+0x{}", run - 1)),
        }
        before = value;
    }
    words.join(" ")
}

fn rounded(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    // Counters and numbers of versions are whole and small.
    if value.fract() == 0.0 && value.abs() < 100_000.0 {
        return format!("{value}");
    }
    let text = format!("{value:.*e}", DIGITS - 1);
    let number: f64 = text.parse().unwrap();
    format!("{number}")
}

#[test]
fn samples_are_written_in_runs() {
    let some = |values: &[f64]| values.iter().map(|v| Some(*v)).collect::<Vec<_>>();
    assert_eq!(values(&some(&[1.0, 1.0, 1.0, 0.0])), "1+0x2 0");
    assert_eq!(
        values(&[None, None, Some(1.0), None, None, None]),
        "_x2 1 stale _x2"
    );
    assert_eq!(
        values(&some(&[f64::NAN, f64::NAN, 123_456.0, 0.012_34])),
        "NaN+0x1 123000 0.0123"
    );
    let mut recording = Recording::default();
    let text = |up: u8| {
        format!("# HELP x y\npgbaton_paused{{a=\"b\"}} 0\npgbaton_failover_possible{{member=\"m\"}} {up}\n")
    };
    let said = |up| Some(("1:8".to_owned(), text(up)));
    recording.add(&[said(1), None], "ns");
    recording.add(&[said(0)], "ns");
    recording.add(&[None], "ns");
    let series = "pgbaton_failover_possible{instance=\"1:8\",namespace=\"ns\",member=\"m\"}";
    let block = format!("  - series: '{series}'\n    values: '1 0 stale _x2'\n");
    assert_eq!(recording.block(2), block);
}
