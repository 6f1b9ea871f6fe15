//! The result of one fault, as JSON and for people.

use serde::{Deserialize, Serialize};

/// What one fault did. Times in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultReport {
    /// The fault's name.
    pub fault: String,
    /// `sync` or `async`.
    pub durability: String,
    /// Longest gap between two acknowledgements, over all clients, in the fault's window.
    pub outage_ms: u64,
    /// Writes acknowledged in the window.
    pub acknowledged: u64,
    /// Writes acknowledged since the run began that are not in the table.
    pub lost: u64,
    /// Two servers took writes side by side.
    pub two_writable: bool,
    /// Answers of a read-only server to clients of the Service.
    pub read_only_errors: u64,
    /// Primary before.
    pub old_primary: Option<String>,
    /// Primary after.
    pub new_primary: Option<String>,
    /// From the fault (for faults that are taken back: from then) until the cluster was whole again; none: it was not.
    pub rejoined_ms: Option<u64>,
    /// How the hit member came back: `follow`, `rewind`, `clone`; none: it was never away or is not back.
    pub rejoined_by: Option<String>,
    /// Phases of the takeover, in order, as the new primary recorded them.
    pub phases_ms: Vec<(String, u64)>,
    /// Anything else worth reading.
    pub detail: Detail,
}

/// What people ask next.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Detail {
    /// The fault's own words about what it did.
    pub did: String,
    /// Why the last term began, as recorded.
    pub why: Option<String>,
    /// Writes whose outcome the clients do not know.
    pub unknown: u64,
    /// Failed writes.
    pub failed: u64,
    /// What the clients were told, with the number of times.
    pub client_errors: std::collections::BTreeMap<String, usize>,
    /// First lost writes.
    pub lost_ids: Vec<i64>,
    /// What the oracle of two writers found.
    pub two_writable: Option<String>,
    /// What is missing to be whole; empty: whole.
    pub not_whole: Vec<String>,
    /// What went wrong with the check itself.
    pub trouble: Option<String>,
}

impl FaultReport {
    /// Nothing lost (sync), never two writable, whole again.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let lost = self.durability == "sync" && self.lost > 0;
        !lost && !self.two_writable && self.detail.not_whole.is_empty() && self.detail.trouble.is_none()
    }

    /// One line of JSON.
    #[must_use]
    pub fn json(&self) -> String {
        // A tree of plain values with string keys always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Some lines for people.
    #[must_use]
    pub fn text(&self) -> String {
        let name = |primary: &Option<String>| primary.clone().unwrap_or_else(|| "nobody".to_owned());
        let mut lines = vec![
            format!(
                "  {}: {}",
                self.fault,
                if self.is_good() { "well" } else { "NOT WELL" }
            ),
            format!(
                "  outage {} ms (longest time without an acknowledged write)",
                self.outage_ms
            ),
            format!(
                "  primary {} -> {}",
                name(&self.old_primary),
                name(&self.new_primary)
            ),
            format!(
                "  writes: {} acknowledged, {} lost, {} unknown, {} failed, {} refused by a read-only server",
                self.acknowledged, self.lost, self.detail.unknown, self.detail.failed, self.read_only_errors
            ),
        ];
        if !self.phases_ms.is_empty() {
            let phases: Vec<String> = self
                .phases_ms
                .iter()
                .map(|(name, ms)| format!("{name} {ms} ms"))
                .collect();
            lines.push(format!("  takeover: {}", phases.join(", ")));
        }
        if let Some(why) = &self.detail.why {
            lines.push(format!("  why: {why}"));
        }
        match (self.rejoined_ms, &self.rejoined_by) {
            (Some(ms), Some(by)) => lines.push(format!("  whole again after {ms} ms, by {by}")),
            (Some(ms), None) => lines.push(format!("  whole again after {ms} ms")),
            (None, _) => lines.push(format!("  not whole: {}", self.detail.not_whole.join("; "))),
        }
        for (what, found) in [
            ("two writable", &self.detail.two_writable),
            ("trouble", &self.detail.trouble),
        ] {
            if let Some(found) = found {
                lines.push(format!("  {what}: {found}"));
            }
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> FaultReport {
        FaultReport {
            fault: "pod-kill".to_owned(),
            durability: "sync".to_owned(),
            outage_ms: 1,
            acknowledged: 1,
            lost: 0,
            two_writable: false,
            read_only_errors: 0,
            old_primary: None,
            new_primary: None,
            rejoined_ms: Some(1),
            rejoined_by: None,
            phases_ms: Vec::new(),
            detail: Detail::default(),
        }
    }

    #[test]
    fn a_lost_write_is_bad_in_sync_only() {
        let mut one = report();
        one.lost = 1;
        assert!(!one.is_good());
        one.durability = "async".to_owned();
        assert!(one.is_good());
    }

    #[test]
    fn two_writers_or_a_broken_cluster_are_bad() {
        let mut two = report();
        two.two_writable = true;
        assert!(!two.is_good());
        let mut broken = report();
        broken.detail.not_whole = vec!["no primary".to_owned()];
        assert!(!broken.is_good());
    }

    #[test]
    fn the_json_has_the_fields_that_were_promised() {
        let value: serde_json::Value = serde_json::from_str(&report().json()).unwrap();
        let fields: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let mut wanted = vec![
            "fault",
            "durability",
            "outage_ms",
            "acknowledged",
            "lost",
            "two_writable",
            "read_only_errors",
            "old_primary",
            "new_primary",
            "rejoined_ms",
            "rejoined_by",
            "phases_ms",
            "detail",
        ];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
    }
}
