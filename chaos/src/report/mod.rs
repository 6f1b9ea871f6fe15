//! The result of one fault, as JSON and for people.

pub mod bench;
pub mod costs;
pub mod evidence;
pub mod summary;
pub mod timeline;

use costs::Costs;
use serde::{Deserialize, Serialize};

/// What one fault did. Times in milliseconds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FaultReport {
    /// The fault's name.
    pub fault: String,
    /// `sync` or `async`.
    pub durability: String,
    /// What the cluster was made of and had to bear.
    #[serde(default)]
    pub setting: Setting,
    /// Longest gap between two acknowledgements, over all clients, in the fault's window.
    pub outage_ms: u64,
    /// Writes acknowledged in the window.
    pub acknowledged: u64,
    /// Acknowledged writes, of this window or an earlier one, that were lost by this fault.
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
    /// How the hit member came back: `follow`, `rewind`, `clone`; none: its server never ended, or it is not back.
    pub rejoined_by: Option<String>,
    /// Phases of the takeover, in order, as the new primary recorded them, and what lies before and behind them (`timeline`).
    #[serde(with = "phases")]
    pub phases_ms: Vec<(String, u64)>,
    /// What the members asked for from the fault until the cluster was whole; none: nobody counted.
    #[serde(default)]
    pub costs: Option<Costs>,
    /// Anything else worth reading.
    pub detail: Detail,
}

/// What a cluster is made of and has to bear, beside the clients that measure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Members; 0: not known.
    pub members: usize,
    /// `small`, or `dirty`: pgbench's tables at scale 100, 1 GB of shared buffers, and pgbench writing.
    pub data: String,
    /// Each standby had at least so many MiB to replay when the fault came; none: as it came.
    pub backlog_mib: Option<u64>,
}

impl Default for Setting {
    fn default() -> Self {
        Self::of(0)
    }
}

impl Setting {
    /// So many members, and nothing special.
    #[must_use]
    pub fn of(members: usize) -> Self {
        Self {
            members,
            data: "small".to_owned(),
            backlog_mib: None,
        }
    }

    /// The fault's name in tables, with what is not usual.
    #[must_use]
    pub fn title(&self, fault: &str) -> String {
        let mut unusual = Vec::new();
        if !matches!(self.members, 0 | 3) {
            unusual.push(format!("{} members", self.members));
        }
        if self.data != "small" {
            unusual.push(format!("{} database", self.data));
        }
        if self.backlog_mib.is_some() {
            unusual.push("replay backlog".to_owned());
        }
        if unusual.is_empty() {
            fault.to_owned()
        } else {
            format!("{fault} ({})", unusual.join(", "))
        }
    }
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
    /// What the hit member said on its way back: why by this way and no other.
    #[serde(default)]
    pub way_back: Vec<String>,
    /// What members said meanwhile, with the milliseconds since the fault, where it matters who says what.
    #[serde(default)]
    pub words: Vec<String>,
    /// What the standby that had least was still to replay when the fault came, in MiB, where a backlog was made.
    #[serde(default)]
    pub backlog_mib: Option<u64>,
    /// First lost writes.
    pub lost_ids: Vec<i64>,
    /// What the oracle of two writers found.
    pub two_writable: Option<String>,
    /// What is missing to be whole; empty: whole.
    pub not_whole: Vec<String>,
    /// What went wrong with the check itself.
    pub trouble: Option<String>,
}

/// An object in JSON, in the order of the phases.
mod phases {
    use serde::de::{Deserializer, MapAccess, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(phases: &[(String, u64)], to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(phases.iter().map(|(name, ms)| (name, ms)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, u64)>, D::Error> {
        struct Ordered;
        impl<'de> Visitor<'de> for Ordered {
            type Value = Vec<(String, u64)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of milliseconds")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut phases = Vec::new();
                while let Some(phase) = map.next_entry()? {
                    phases.push(phase);
                }
                Ok(phases)
            }
        }
        from.deserialize_map(Ordered)
    }
}

/// What is said about a fault that needs the hosts of a cluster that is somebody else's.
pub const NOT_POSSIBLE: &str = "not possible there";

/// What is said about a fault that was not inflicted, because the cluster had not healed from an earlier one.
pub const NOT_RUN: &str = "not run";

impl FaultReport {
    /// Of a fault that cannot be inflicted in this cluster.
    #[must_use]
    pub fn not_possible(fault: &str) -> Self {
        let mut report = Self::not_run(fault, "sync");
        report.detail.trouble = Some(NOT_POSSIBLE.to_owned());
        report
    }

    /// Of a fault that was not inflicted.
    #[must_use]
    pub fn not_run(fault: &str, durability: &str) -> Self {
        Self {
            fault: fault.to_owned(),
            durability: durability.to_owned(),
            setting: Setting::default(),
            outage_ms: 0,
            acknowledged: 0,
            lost: 0,
            two_writable: false,
            read_only_errors: 0,
            old_primary: None,
            new_primary: None,
            rejoined_ms: None,
            rejoined_by: None,
            phases_ms: Vec::new(),
            costs: None,
            detail: Detail {
                trouble: Some(NOT_RUN.to_owned()),
                ..Detail::default()
            },
        }
    }

    /// Whether the fault was inflicted, or tried to be.
    #[must_use]
    pub fn was_run(&self) -> bool {
        !matches!(self.detail.trouble.as_deref(), Some(NOT_RUN | NOT_POSSIBLE))
    }

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
        lines.extend(self.detail.words.iter().map(|word| format!("    {word}")));
        match (self.rejoined_ms, &self.rejoined_by) {
            (Some(ms), Some(by)) => lines.push(format!("  whole again after {ms} ms, by {by}")),
            (Some(ms), None) => lines.push(format!("  whole again after {ms} ms")),
            (None, _) => lines.push(format!("  not whole: {}", self.detail.not_whole.join("; "))),
        }
        lines.extend(self.setting_and_costs());
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

    /// What was not usual, and what it cost.
    fn setting_and_costs(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.setting != Setting::of(self.setting.members) {
            let least = self.detail.backlog_mib;
            let backlog = least.map_or_else(String::new, |mib| format!("; at least {mib} MiB to replay"));
            lines.push(format!("  database: {}{backlog}", self.setting.data));
        }
        if let Some(costs) = &self.costs {
            let rest = costs.at_rest_in_that_time().map_or_else(String::new, |rest| {
                format!("; at rest in that time: {}", costs::words(rest))
            });
            let now = costs::words(costs.traffic);
            let time = costs::seconds(costs.window_ms);
            lines.push(format!("  until whole ({time}): {now}{rest}"));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> FaultReport {
        FaultReport {
            outage_ms: 1,
            acknowledged: 1,
            rejoined_ms: Some(1),
            detail: Detail::default(),
            ..FaultReport::not_run("pod-kill", "sync")
        }
    }

    #[test]
    fn phases_are_an_object_in_their_order() {
        let mut one = report();
        one.phases_ms = vec![("pledges".to_owned(), 20), ("names".to_owned(), 3)];
        assert!(
            one.json().contains(r#""phases_ms":{"pledges":20,"names":3}"#),
            "{}",
            one.json()
        );
        let read: FaultReport = serde_json::from_str(&one.json()).unwrap();
        assert_eq!(read.phases_ms, one.phases_ms);
    }

    #[test]
    fn what_was_not_run_is_not_good() {
        let one = FaultReport::not_run("pod-kill", "sync");
        assert!(!one.is_good() && !one.was_run());
        assert!(report().is_good() && report().was_run());
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
            "setting",
            "costs",
            "detail",
        ];
        wanted.sort_unstable();
        assert_eq!(fields, wanted);
    }
}
