//! The leader's short report beside the record: what `pgbaton status` shows and only the leader knows. Nothing is decided by it.

use serde::{Deserialize, Serialize};

use super::orders::clipped;
use super::types::{MemberName, Timeline};

/// Annotation of the Lease that holds the report.
pub const REPORT_ANNOTATION: &str = "pgbaton.dev/report";
/// Longest report that is read, in bytes.
pub const MAX_REPORT_BYTES: usize = 64 * 1024;
/// Most warnings that are published.
pub const MAX_WARNINGS: usize = 8;
/// Longest text in a report, in bytes; longer ones are cut when rendered.
pub const MAX_TEXT: usize = 300;

/// Answer to "could I fail over now, to whom, in how long, and if not, why".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CouldFailOver {
    /// A takeover would succeed as things stand.
    pub yes: bool,
    /// To whom.
    #[serde(default)]
    pub to: Option<MemberName>,
    /// In about how many milliseconds, counted from the decision.
    #[serde(default)]
    pub about_ms: Option<u64>,
    /// What is missing, for people; empty when `yes`.
    #[serde(default)]
    pub missing: String,
}

/// One member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Its name.
    pub member: MemberName,
    /// `primary`, `standby`, `starting`, `cloning`, `rewinding`, `down` ...
    pub role: String,
    /// WAL it lacks, in bytes; none: not known.
    #[serde(default)]
    pub lag_bytes: Option<u64>,
    /// `quorum`, `async`, `former`, or empty: as it counts for commits.
    #[serde(default)]
    pub sync: String,
    /// Timeline it is on, where known.
    #[serde(default)]
    pub timeline: Option<Timeline>,
    /// More, for people: `streaming`, `clone 42 %`, an error.
    #[serde(default)]
    pub state: String,
}

/// The report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// When it was made (RFC 3339, the leader's clock). For people.
    pub at: String,
    /// Why the cluster is as it is.
    pub why: String,
    /// Whether a takeover would succeed now.
    pub could_fail_over: CouldFailOver,
    /// All members known.
    #[serde(default)]
    pub members: Vec<MemberReport>,
    /// What a person should look at.
    #[serde(default)]
    pub warnings: Vec<String>,
}

impl Report {
    /// Reads the annotation's text. Unknown fields are tolerated: a newer leader may say more.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_REPORT_BYTES {
            return Err(format!(
                "the report has {} bytes, at most {MAX_REPORT_BYTES} are read",
                text.len()
            ));
        }
        serde_json::from_str(text).map_err(|e| format!("the report is not readable: {e}"))
    }

    /// The annotation's text, every text in it cut to `MAX_TEXT` bytes and the warnings to `MAX_WARNINGS`: the
    /// annotations of an object share 256 KiB.
    #[must_use]
    pub fn render(&self) -> String {
        let mut short = self.clone();
        short.why = clipped(&short.why, MAX_TEXT);
        short.could_fail_over.missing = clipped(&short.could_fail_over.missing, MAX_TEXT);
        for member in &mut short.members {
            member.state = clipped(&member.state, MAX_TEXT);
        }
        if short.warnings.len() > MAX_WARNINGS {
            let more = short.warnings.len() - (MAX_WARNINGS - 1);
            short.warnings.truncate(MAX_WARNINGS - 1);
            short.warnings.push(format!("and {more} more warnings"));
        }
        for warning in &mut short.warnings {
            *warning = clipped(warning, MAX_TEXT);
        }
        // A tree of plain values with string keys always serialises.
        serde_json::to_string(&short).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_back_as_written() {
        let report = Report {
            at: "2026-01-02T03:04:05Z".into(),
            why: "postgres-1 leads".into(),
            could_fail_over: CouldFailOver {
                yes: true,
                to: Some("postgres-2".parse().unwrap()),
                about_ms: Some(400),
                missing: String::new(),
            },
            members: vec![MemberReport {
                member: "postgres-2".parse().unwrap(),
                role: "standby".into(),
                lag_bytes: Some(0),
                sync: "quorum".into(),
                timeline: Some(Timeline(3)),
                state: "streaming".into(),
            }],
            warnings: vec!["disk nearly full".into()],
        };
        assert_eq!(Report::parse(&report.render()), Ok(report));
    }

    #[test]
    fn a_report_stays_small_and_says_what_it_left_out() {
        let report = Report {
            why: "x".repeat(10_000),
            warnings: (0..50).map(|n| format!("warning {n}")).collect(),
            ..Report::default()
        };
        let text = report.render();
        assert!(text.len() < 2000, "{}", text.len());
        let read = Report::parse(&text).unwrap();
        assert_eq!(read.warnings.len(), MAX_WARNINGS);
        assert_eq!(
            read.warnings.last().map(String::as_str),
            Some("and 43 more warnings")
        );
        assert!(Report::parse("nonsense").is_err());
    }
}
