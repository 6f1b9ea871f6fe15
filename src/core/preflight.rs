//! The rights that pgbaton needs from Kubernetes, in one table; which of them are known to be missing; and missing ones as rules
//! that can be pasted into a Role. Nothing is decided by any of it: it is for people, before a takeover needs what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::types::MemberName;

/// What the rights depend on.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// Name of the Lease.
    pub lease: &'a str,
    /// Name of the read-write Service.
    pub service: &'a str,
    /// This member.
    pub me: &'a MemberName,
    /// The members in the record; whoever leads changes objects of all of them.
    pub recorded: &'a BTreeSet<MemberName>,
    /// Whether env and update strategy of the StatefulSets are pgbaton's to change.
    pub patch_env: bool,
}

/// Which objects a right is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Objects {
    /// The one Lease.
    Lease,
    /// The read-write Service.
    Service,
    /// The StatefulSet of each member; none when they are not pgbaton's to change.
    StatefulSets,
    /// The pod of each member.
    Pods,
    /// New ones, which have no name that a Role could give.
    Unnamed,
}

/// A row of the table.
struct Need {
    verbs: &'static [&'static str],
    group: &'static str,
    resource: &'static str,
    objects: Objects,
    /// What does not happen without it.
    without: &'static str,
}

/// Every right that a sidecar needs, and no other. To ask which it has needs none: every account that is logged in may
/// (`system:basic-user`). People's commands need `get` and `patch` on the Lease, by their own rights.
const TABLE: [Need; 7] = [
    Need {
        verbs: &["list", "watch"],
        group: "coordination.k8s.io",
        resource: "leases",
        objects: Objects::Lease,
        without: "the Lease is not seen: this member can neither follow a new primary nor take over",
    },
    Need {
        verbs: &["patch"],
        group: "coordination.k8s.io",
        resource: "leases",
        objects: Objects::Lease,
        without: "this member cannot hold the Lease: it never leads",
    },
    Need {
        verbs: &["get", "patch"],
        group: "",
        resource: "services",
        objects: Objects::Service,
        without: "clients are not led to a new primary",
    },
    Need {
        verbs: &["watch"],
        group: "",
        resource: "services",
        objects: Objects::Service,
        without: "a selector that somebody changed is put right after up to 30 s instead of at once",
    },
    Need {
        verbs: &["get", "patch"],
        group: "apps",
        resource: "statefulsets",
        objects: Objects::StatefulSets,
        without: "STANDBY_MODE and PRIMARY_SERVER_ADDRESS stay as they are (--patch-env=off needs no such right)",
    },
    Need {
        verbs: &["get", "patch"],
        group: "",
        resource: "pods",
        objects: Objects::Pods,
        without: "the label pgbaton.dev/role is not kept: postgres-ro leads to the wrong pods",
    },
    Need {
        verbs: &["create"],
        group: "events.k8s.io",
        resource: "events",
        objects: Objects::Unnamed,
        without: "no Event tells what happened",
    },
];

/// One verb on one object (or on new ones).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Right {
    /// API group; empty: core.
    pub group: &'static str,
    /// Plural name.
    pub resource: &'static str,
    /// The object; none: new ones, which have no name yet.
    pub name: Option<String>,
    /// Verb. A list and a watch name their object by `fieldSelector=metadata.name=`, which counts as its name.
    pub verb: &'static str,
}

impl fmt::Display for Right {
    /// `patch statefulsets.apps postgres-2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(f, ".{}", self.group)?;
        }
        match &self.name {
            Some(name) => write!(f, " {name}"),
            None => Ok(()),
        }
    }
}

impl Right {
    /// What does not happen without it.
    #[must_use]
    pub fn without(&self) -> &'static str {
        let mut rows = TABLE.iter();
        let row = rows.find(|need| {
            need.group == self.group && need.resource == self.resource && need.verbs.contains(&self.verb)
        });
        row.map_or("", |need| need.without)
    }
}

/// The rights that this member needs.
#[must_use]
pub fn needed(scope: &Scope<'_>) -> BTreeSet<Right> {
    let mut members = scope.recorded.clone();
    members.insert(scope.me.clone());
    let mut all = BTreeSet::new();
    for need in &TABLE {
        let names: Vec<Option<String>> = match need.objects {
            Objects::Lease => vec![Some(scope.lease.to_owned())],
            Objects::Service => vec![Some(scope.service.to_owned())],
            Objects::StatefulSets if !scope.patch_env => Vec::new(),
            Objects::StatefulSets => members.iter().map(|m| Some(m.to_string())).collect(),
            Objects::Pods => members.iter().map(|m| Some(format!("{m}-0"))).collect(),
            Objects::Unnamed => vec![None],
        };
        for name in names {
            all.extend(need.verbs.iter().map(|&verb| Right {
                group: need.group,
                resource: need.resource,
                name: name.clone(),
                verb,
            }));
        }
    }
    all
}

/// A rule of a Role.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoleRule {
    /// API group; empty: core.
    pub group: &'static str,
    /// Plural name.
    pub resource: &'static str,
    /// Objects; empty: all, as for new ones.
    pub names: Vec<String>,
    /// Verbs.
    pub verbs: Vec<&'static str>,
}

impl fmt::Display for RoleRule {
    /// As an item of a Role's `rules`, on one line: YAML takes that.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "- {{apiGroups: [\"{}\"], resources: [{}]",
            self.group, self.resource
        )?;
        if !self.names.is_empty() {
            write!(f, ", resourceNames: [{}]", self.names.join(", "))?;
        }
        write!(f, ", verbs: [{}]}}", self.verbs.join(", "))
    }
}

/// These rights as few rules, which grant them and nothing else.
#[must_use]
pub fn rules<'a>(rights: impl IntoIterator<Item = &'a Right>) -> Vec<RoleRule> {
    let mut verbs_of: BTreeMap<(&str, &str, &Option<String>), Vec<&'static str>> = BTreeMap::new();
    for right in rights {
        verbs_of
            .entry((right.group, right.resource, &right.name))
            .or_default()
            .push(right.verb);
    }
    let mut merged: Vec<RoleRule> = Vec::new();
    for ((group, resource, name), mut verbs) in verbs_of {
        verbs.sort_unstable();
        let same = |rule: &&mut RoleRule| {
            (rule.group, rule.resource, &rule.verbs) == (group, resource, &verbs) && !rule.names.is_empty()
        };
        match (merged.iter_mut().find(same), name) {
            (Some(rule), Some(name)) => rule.names.push(name.clone()),
            _ => merged.push(RoleRule {
                group,
                resource,
                names: name.iter().cloned().collect(),
                verbs,
            }),
        }
    }
    merged
}

/// What is said of missing rights, one text for each rule that would grant them.
#[must_use]
pub fn warnings(missing: &BTreeSet<Right>) -> Vec<String> {
    let text = |rule: RoleRule| {
        let of_rule = |right: &&Right| {
            let named = match &right.name {
                Some(name) => rule.names.contains(name),
                None => rule.names.is_empty(),
            };
            right.group == rule.group
                && right.resource == rule.resource
                && named
                && rule.verbs.contains(&right.verb)
        };
        let mut without: Vec<&str> = Vec::new();
        for right in missing.iter().filter(of_rule) {
            if !without.contains(&right.without()) {
                without.push(right.without());
            }
        }
        format!(
            "a right is missing: {}; add to the rules of the Role: {rule}",
            without.join("; ")
        )
    };
    rules(missing).into_iter().map(text).collect()
}

/// What is known of each right that is needed.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    held: BTreeMap<Right, Held>,
    asked: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Held {
    /// None: not known.
    granted: Option<bool>,
    /// The number of the last question about it; 0: never asked.
    asked: u64,
}

impl Ledger {
    /// These rights are needed from now on; what is known of them stays.
    pub fn want(&mut self, needed: &BTreeSet<Right>) {
        self.held.retain(|right, _| needed.contains(right));
        for right in needed {
            self.held.entry(right.clone()).or_default();
        }
    }

    /// Takes in the answer about a right; true when it is another one than before (of which nothing is known is expected to be granted).
    pub fn answer(&mut self, right: &Right, granted: bool) -> bool {
        self.asked += 1;
        let Some(held) = self.held.get_mut(right) else {
            return false;
        };
        held.asked = self.asked;
        held.granted.replace(granted).unwrap_or(true) != granted
    }

    /// All that are needed.
    #[must_use]
    pub fn all(&self) -> BTreeSet<Right> {
        self.held.keys().cloned().collect()
    }

    /// Those of which nothing is known.
    #[must_use]
    pub fn unknown(&self) -> BTreeSet<Right> {
        self.having(None)
    }

    /// Those that are known to be missing. One that could not be asked about is not.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<Right> {
        self.having(Some(false))
    }

    fn having(&self, granted: Option<bool>) -> BTreeSet<Right> {
        let those = self.held.iter().filter(|(_, held)| held.granted == granted);
        those.map(|(right, _)| right.clone()).collect()
    }

    /// Whose turn it is to be asked about again: the one that was asked about longest ago, and the same among the missing ones,
    /// of which people wait to see them gone.
    #[must_use]
    pub fn next(&self) -> BTreeSet<Right> {
        let oldest = |only_missing: bool| {
            let those = self.held.iter();
            let those = those.filter(|(_, held)| !only_missing || held.granted == Some(false));
            those.min_by_key(|(_, held)| held.asked)
        };
        let both = [oldest(false), oldest(true)];
        both.into_iter()
            .flatten()
            .map(|(right, _)| right.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(names: &[&str]) -> BTreeSet<MemberName> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn of(recorded: &[&str], patch_env: bool) -> BTreeSet<Right> {
        needed(&Scope {
            lease: "postgres",
            service: "postgres",
            me: &"postgres-1".parse().unwrap(),
            recorded: &members(recorded),
            patch_env,
        })
    }

    fn words(rights: &BTreeSet<Right>) -> Vec<String> {
        rights.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_member_needs_these_rights_and_no_others() {
        let expected = [
            "get pods postgres-1-0",
            "patch pods postgres-1-0",
            "get services postgres",
            "patch services postgres",
            "watch services postgres",
            "get statefulsets.apps postgres-1",
            "patch statefulsets.apps postgres-1",
            "list leases.coordination.k8s.io postgres",
            "patch leases.coordination.k8s.io postgres",
            "watch leases.coordination.k8s.io postgres",
            "create events.events.k8s.io",
        ];
        assert_eq!(words(&of(&[], true)), expected, "before a record is seen");
        assert_eq!(words(&of(&["postgres-1"], true)), expected);
        let three = of(&["postgres-1", "postgres-2", "postgres-3"], true);
        assert_eq!(three.len(), 19);
        assert!(words(&three).contains(&"patch pods postgres-3-0".to_owned()));
        let off = of(&["postgres-2"], false);
        assert!(off.iter().all(|right| right.resource != "statefulsets"));
        assert_eq!(off.len(), 11);
    }

    #[test]
    fn missing_rights_are_spelled_out_as_rules_for_a_role() {
        let three = of(&["postgres-1", "postgres-2"], true);
        let texts: Vec<String> = rules(&three).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                r#"- {apiGroups: [""], resources: [pods], resourceNames: [postgres-1-0, postgres-2-0], verbs: [get, patch]}"#,
                r#"- {apiGroups: [""], resources: [services], resourceNames: [postgres], verbs: [get, patch, watch]}"#,
                r#"- {apiGroups: ["apps"], resources: [statefulsets], resourceNames: [postgres-1, postgres-2], verbs: [get, patch]}"#,
                r#"- {apiGroups: ["coordination.k8s.io"], resources: [leases], resourceNames: [postgres], verbs: [list, patch, watch]}"#,
                r#"- {apiGroups: ["events.k8s.io"], resources: [events], verbs: [create]}"#,
            ]
        );
        // What one name lacks is not granted on another one.
        let mut some: BTreeSet<Right> = three.into_iter().filter(|r| r.resource == "pods").collect();
        some.pop_first();
        let texts: Vec<String> = rules(&some).iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2);
        assert!(texts[0].contains("[postgres-1-0], verbs: [patch]"), "{texts:?}");
    }

    #[test]
    fn a_warning_says_what_does_not_happen_and_what_to_add() {
        let missing: BTreeSet<Right> = of(&[], true)
            .into_iter()
            .filter(|right| right.resource == "services")
            .collect();
        let texts = warnings(&missing);
        assert_eq!(texts.len(), 1);
        for part in [
            "clients are not led to a new primary; a selector",
            "resourceNames: [postgres], verbs: [get, patch, watch]}",
        ] {
            assert!(texts[0].contains(part), "{texts:?}");
        }
        assert!(of(&[], true).iter().all(|right| !right.without().is_empty()));
        // `pgbaton status` shows this much of a text.
        let all = warnings(&of(&["postgres-1", "postgres-2", "postgres-3"], true));
        let longest = all.iter().map(String::len).max();
        assert!(longest <= Some(crate::core::report::MAX_TEXT), "{all:#?}");
    }

    #[test]
    fn what_could_not_be_asked_is_not_missing() {
        let mut ledger = Ledger::default();
        let rights = of(&[], true);
        ledger.want(&rights);
        assert_eq!((ledger.unknown().len(), ledger.missing().len()), (11, 0));
        let first = rights.first().unwrap();
        assert!(ledger.answer(first, false));
        assert!(!ledger.answer(first, false), "no news");
        assert_eq!((ledger.unknown().len(), ledger.missing().len()), (10, 1));
        ledger.want(&of(&["postgres-2"], true));
        assert_eq!(ledger.missing().len(), 1, "known as before");
        assert!(ledger.answer(first, true));
        assert!(ledger.missing().is_empty());
    }

    #[test]
    fn everyone_has_its_turn_and_missing_ones_more_often() {
        let mut ledger = Ledger::default();
        let rights = of(&[], true);
        ledger.want(&rights);
        for right in &rights {
            ledger.answer(right, right.verb != "create");
        }
        let mut seen = BTreeSet::new();
        for _ in 0..rights.len() {
            let turn = ledger.next();
            assert!(turn.len() <= 2 && turn.iter().any(|r| r.verb == "create"));
            for right in turn {
                let granted = right.verb != "create";
                ledger.answer(&right, granted);
                seen.insert(right);
            }
        }
        assert_eq!(seen, rights);
    }

    /// docs/rights.md has one line for each rule of a cluster of three.
    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../../docs/rights.md");
        let (page, _) = page.split_once("\n## ").unwrap();
        let shown: Vec<&str> = page
            .lines()
            .map(str::trim)
            .filter(|line| line.starts_with("- {"))
            .collect();
        let three = of(&["postgres-1", "postgres-2", "postgres-3"], true);
        let expected: Vec<String> = rules(&three).iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected);
        for need in &TABLE {
            assert!(
                page.contains(need.without),
                "docs/rights.md does not say: {}",
                need.without
            );
        }
    }
}
