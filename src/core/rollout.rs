//! What `pgbaton rollout` does next, judged by what was read of a cluster. Pure: the command around it reads, acts and asks again.

use std::collections::BTreeSet;

use super::record::{Availability, Durability, Member, Record};
use super::report::{MemberReport, Report};
use super::types::MemberName;

/// Reports of the leader that must have come since a pod was first seen Ready: the first may have been on its way.
pub const FRESH_REPORTS: u64 = 2;
/// Standbys whose lags differ by less are equal as successors: which of them lags less changes from look to look.
const EQUAL_LAG: u64 = 16 * 1024 * 1024;

/// A cluster, as it was read.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The record.
    pub record: Record,
    /// What the leader says beside it.
    pub report: Option<Report>,
    /// The report was written anew a short while ago: somebody leads.
    pub is_led: bool,
    /// An order that has no answer yet, in words.
    pub open_order: Option<String>,
    /// The step in progress, in words.
    pub step: Option<String>,
    /// The members, as in the record.
    pub members: Vec<MemberSeen>,
}

/// One member's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberSeen {
    /// Its name, which is its StatefulSet's.
    pub member: MemberName,
    /// Its StatefulSet; none: there is none.
    pub set: Option<SetSeen>,
    /// Its pod; none: there is none.
    pub pod: Option<PodSeen>,
}

/// A StatefulSet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetSeen {
    /// How many pods it is to have.
    pub replicas: i32,
    /// Its update strategy.
    pub strategy: String,
    /// Its controller has not looked at its newest template yet.
    pub is_behind: bool,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    /// Its UID.
    pub uid: String,
    /// Its address, once it has one.
    pub ip: Option<String>,
    /// It was told to go.
    pub is_ending: bool,
    /// It is Ready.
    pub is_ready: bool,
    /// Why it cannot run as it is, as its kubelet or the scheduler says.
    pub stuck: Option<String>,
    /// Why it is not as its StatefulSet's template says; none: it is.
    pub outdated: Option<Outdated>,
    /// New reports of the leader since it was first seen Ready.
    pub reports: u64,
}

/// Why a pod is not as its StatefulSet's present template says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outdated {
    /// What the present template has otherwise.
    Changed(Vec<String>),
    /// What it was made from is not known.
    Unknown(String),
}

/// What a person asked for.
#[derive(Debug, Clone, Default)]
pub struct Goal {
    /// Only these members; empty: all.
    pub only: BTreeSet<MemberName>,
    /// UIDs of pods to renew though they are as their templates say.
    pub even: BTreeSet<String>,
}

/// Why a pod is to be renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// Its template has changed.
    Outdated(Outdated),
    /// Asked for.
    Asked,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Delete the pod with this UID, and wait until its successor is a whole member.
    Renew {
        /// Whose.
        member: MemberName,
        /// UID of the pod.
        uid: String,
        /// Why.
        why: Why,
    },
    /// Hand the primary role over, by an order as a person gives it.
    Switchover {
        /// Who has it.
        from: MemberName,
        /// Who gets it.
        to: MemberName,
    },
}

/// Why nothing may be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// In words.
    pub text: String,
    /// It may pass without a person.
    pub passes: bool,
}

impl Obstacle {
    fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            passes: true,
        }
    }

    fn lasting(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            passes: false,
        }
    }
}

/// How far the renewal of a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Renewal {
    /// The old pod is there and was not told to go.
    NotBegun,
    /// What is awaited.
    Waiting(String),
    /// The new pod is there and its member is whole.
    Whole,
}

impl Goal {
    /// The member is among those that the person named.
    #[must_use]
    pub fn covers(&self, member: &MemberName) -> bool {
        self.only.is_empty() || self.only.contains(member)
    }

    /// Why this member's pod is to be renewed; none: it is not. A pod on its way out is being renewed already.
    #[must_use]
    pub fn due(&self, member: &MemberSeen) -> Option<Why> {
        let pod = member.pod.as_ref().filter(|pod| !pod.is_ending)?;
        if !self.covers(&member.member) {
            return None;
        }
        match &pod.outdated {
            Some(outdated) => Some(Why::Outdated(outdated.clone())),
            None => self.even.contains(&pod.uid).then_some(Why::Asked),
        }
    }
}

impl Seen {
    /// The recorded primary.
    #[must_use]
    pub fn primary(&self) -> Option<&MemberName> {
        self.record.primary.as_ref().map(|primary| &primary.member)
    }

    fn is_primary(&self, member: &MemberName) -> bool {
        self.primary() == Some(member)
    }

    fn member(&self, name: &MemberName) -> Option<&MemberSeen> {
        self.members.iter().find(|seen| seen.member == *name)
    }

    fn told(&self, name: &MemberName) -> Option<&MemberReport> {
        let report = self.report.as_ref()?;
        report.members.iter().find(|told| told.member == *name)
    }

    /// What this member lacks to be a whole one; none: it lacks nothing.
    #[must_use]
    pub fn lacks(&self, name: &MemberName) -> Option<String> {
        let Some(pod) = self.member(name).and_then(|seen| seen.pod.as_ref()) else {
            return Some("its pod is not there".to_owned());
        };
        if pod.is_ending {
            return Some("its pod ends".to_owned());
        }
        if let Some(stuck) = &pod.stuck {
            return Some(format!("its pod cannot run: {stuck}"));
        }
        if !pod.is_ready {
            return Some("its pod is not Ready".to_owned());
        }
        if pod.reports < FRESH_REPORTS {
            return Some("the leader has not reported since its pod is Ready".to_owned());
        }
        let Some(recorded) = self.record.member(name) else {
            return Some("the record does not have it".to_owned());
        };
        if pod.ip.as_ref().is_some_and(|ip| *ip != recorded.address.ip) {
            return Some(format!(
                "the record still has its address as {}",
                recorded.address.ip
            ));
        }
        if self.is_primary(name) {
            return None;
        }
        self.standby_lacks(recorded)
    }

    fn standby_lacks(&self, recorded: &Member) -> Option<String> {
        match self.told(&recorded.member) {
            None => return Some("the leader's report does not have it".to_owned()),
            Some(told) if told.state != "streaming" => {
                let state = if told.state.is_empty() {
                    &told.role
                } else {
                    &told.state
                };
                return Some(format!("its server does not stream: {state}"));
            }
            Some(_) => {}
        }
        let is_async = self.record.durability == Durability::Async;
        let counts = self.record.current_set().standbys.contains(&recorded.data());
        (!is_async && !counts).then(|| "it is not in the sync set".to_owned())
    }

    /// Scaled to nothing or without a StatefulSet, and none of those that the person named: what lacks there is so on purpose.
    fn is_put_away(&self, goal: &Goal, seen: &MemberSeen) -> bool {
        let gone = seen.set.as_ref().is_none_or(|set| set.replicas == 0);
        gone && !goal.covers(&seen.member) && !self.is_primary(&seen.member)
    }

    /// All members that count.
    fn counted<'a>(&'a self, goal: &'a Goal) -> impl Iterator<Item = &'a MemberSeen> {
        self.members.iter().filter(|seen| !self.is_put_away(goal, seen))
    }

    fn standbys<'a>(&'a self, goal: &'a Goal) -> impl Iterator<Item = &'a MemberSeen> {
        self.counted(goal).filter(|seen| !self.is_primary(&seen.member))
    }
}

/// To be renewed, and of no use as it is: a template that cannot run is mended by the next one.
fn is_broken_and_due(goal: &Goal, seen: &MemberSeen) -> bool {
    goal.due(seen).is_some() && seen.pod.as_ref().is_some_and(|pod| pod.stuck.is_some())
}

/// Everything that is to be done, in order: standbys (broken ones first), the role, the old primary. Empty: nothing.
#[must_use]
pub fn plan(goal: &Goal, seen: &Seen) -> Vec<Step> {
    let renew = |member: &MemberSeen| {
        Some(Step::Renew {
            member: member.member.clone(),
            uid: member.pod.as_ref()?.uid.clone(),
            why: goal.due(member)?,
        })
    };
    let mut standbys: Vec<&MemberSeen> = seen.standbys(goal).collect();
    standbys.sort_by_key(|standby| !is_broken_and_due(goal, standby));
    let mut steps: Vec<Step> = standbys.into_iter().filter_map(renew).collect();
    let primary = seen.primary().and_then(|name| seen.member(name));
    if let Some((primary, last)) = primary.and_then(|primary| Some((primary, renew(primary)?))) {
        steps.extend(successor(goal, seen).map(|to| Step::Switchover {
            from: primary.member.clone(),
            to,
        }));
        steps.push(last);
    }
    steps
}

/// The standby to hand over to: one that is or will be as its template says, before one that is not.
fn successor(goal: &Goal, seen: &Seen) -> Option<MemberName> {
    let rank = |standby: &&MemberSeen| {
        let pod = standby.pod.as_ref();
        let stays_outdated = !goal.covers(&standby.member) && pod.is_none_or(|pod| pod.outdated.is_some());
        let lag = seen.told(&standby.member).and_then(|told| told.lag_bytes);
        (stays_outdated, lag.map_or(u64::MAX, |lag| lag / EQUAL_LAG))
    };
    seen.standbys(goal)
        .min_by_key(rank)
        .map(|standby| standby.member.clone())
}

/// Why the first step of the plan may not be done now; empty: it may.
#[must_use]
pub fn obstacles(goal: &Goal, seen: &Seen) -> Vec<Obstacle> {
    let Some(primary) = seen.primary() else {
        return vec![Obstacle::lasting(
            "the cluster has no primary: it was never initialised, or is being adopted",
        )];
    };
    let mut found = Vec::new();
    if seen.record.paused {
        found.push(Obstacle::lasting(
            "takeovers are paused, and while a pod is away nobody could take over: run 'pgbaton resume' first",
        ));
    }
    found.extend(seen.counted(goal).filter_map(|member| set_obstacle(goal, member)));
    if !seen.is_led {
        found.push(Obstacle::passing("no leader reports: see 'pgbaton status'"));
    }
    let step = seen.step.iter();
    found.extend(step.map(|step| Obstacle::passing(format!("a step is in progress: {step}"))));
    let order = seen.open_order.iter();
    found.extend(order.map(|order| Obstacle::passing(format!("another order is open: {order}"))));
    for member in seen.counted(goal) {
        let first = is_broken_and_due(goal, member) && member.member != *primary;
        let lacks = seen.lacks(&member.member).filter(|_| !first);
        found.extend(lacks.map(|lacks| Obstacle::passing(format!("{}: {lacks}", member.member))));
    }
    // A takeover must prove itself by each of them: with a standby away it might not.
    if seen.record.sync_sets.len() > 1 {
        found.push(Obstacle::passing("a former sync set is not released yet"));
    }
    let hands_over = matches!(plan(goal, seen).first(), Some(Step::Switchover { .. }));
    let told = seen.report.as_ref().map(|report| &report.could_fail_over);
    if let Some(no) = told.filter(|told| hands_over && !told.yes) {
        found.push(Obstacle::passing(format!(
            "nobody could take over now: {}",
            no.missing
        )));
    }
    found
}

fn set_obstacle(goal: &Goal, seen: &MemberSeen) -> Option<Obstacle> {
    let member = &seen.member;
    let leave_out = if goal.only.is_empty() {
        "; or leave it out: name the others with --member"
    } else {
        ""
    };
    let Some(set) = &seen.set else {
        return Some(Obstacle::lasting(format!(
            "{member}: there is no StatefulSet of that name: apply its manifest again{leave_out}"
        )));
    };
    if set.replicas == 0 {
        return Some(Obstacle::lasting(format!(
            "{member}: its StatefulSet is scaled to 0: scale it to 1{leave_out}"
        )));
    }
    if set.replicas != 1 {
        return Some(Obstacle::lasting(format!(
            "{member}: its StatefulSet has {} replicas, and a member is one pod: scale it to 1",
            set.replicas
        )));
    }
    if !goal.covers(member) {
        return None;
    }
    if set.strategy != "OnDelete" {
        return Some(Obstacle::lasting(format!(
            "{member}: its StatefulSet has the update strategy {}, so its controller replaces the pod by itself, whatever its role \
             is and however the others are. The leader makes it OnDelete within a minute, unless --patch-env is off; then do it \
             by: kubectl patch sts {member} --type merge -p \
             '{{\"spec\":{{\"updateStrategy\":{{\"type\":\"OnDelete\",\"rollingUpdate\":null}}}}}}'",
            set.strategy
        )));
    }
    set.is_behind.then(|| {
        Obstacle::passing(format!(
            "{member}: its controller has not seen its newest template yet"
        ))
    })
}

/// How far the renewal of this member's pod is, whose UID was `old`.
#[must_use]
pub fn renewal(seen: &Seen, member: &MemberName, old: &str) -> Renewal {
    let pod = seen.member(member).and_then(|seen| seen.pod.as_ref());
    match pod.filter(|pod| pod.uid == old) {
        Some(pod) if !pod.is_ending => Renewal::NotBegun,
        Some(_) => Renewal::Waiting("its old pod ends".to_owned()),
        None => match seen.lacks(member) {
            Some(lacks) => Renewal::Waiting(lacks),
            None if !seen.is_led => Renewal::Waiting("no leader reports".to_owned()),
            None => Renewal::Whole,
        },
    }
}

/// What a person should know of these steps before.
#[must_use]
pub fn notes(goal: &Goal, seen: &Seen, steps: &[Step]) -> Vec<String> {
    let mut notes = Vec::new();
    let is_primary = |member: &MemberName| seen.is_primary(member);
    let renewed = |wanted: bool| {
        steps
            .iter()
            .any(|step| matches!(step, Step::Renew { member, .. } if is_primary(member) == wanted))
    };
    let handover = steps.iter().find_map(|step| match step {
        Step::Switchover { from, to } => Some((from, to)),
        Step::Renew { .. } => None,
    });
    if let Some((from, to)) = handover {
        notes.push(format!(
            "Clients cannot write for the moment of the switchover. The role stays with {to} afterwards; \
             'pgbaton switchover --to {from}' takes it back."
        ));
    } else if renewed(true) {
        notes.push(
            "There is no standby: clients cannot write from the end of the primary's pod until it is back."
                .to_owned(),
        );
    }
    if seen.standbys(goal).count() == 1 && renewed(false) {
        let strict = seen.record.availability == Availability::Strict;
        notes.push(match seen.record.durability {
            Durability::Sync if strict => {
                "There is one standby only: while its pod is away writes wait for it (strict), and nobody could take over."
                    .to_owned()
            }
            Durability::Sync => "There is one standby only: while its pod is away nobody could take over, and commits wait \
                                 until it has left the sync set (some seconds)."
                .to_owned(),
            Durability::Async => {
                "There is one standby only: while its pod is away nobody could take over.".to_owned()
            }
        });
    }
    let away = seen
        .members
        .iter()
        .filter(|member| seen.is_put_away(goal, member));
    notes.extend(away.map(|member| format!("{} is scaled away and left alone.", member.member)));
    notes
}

#[cfg(test)]
#[path = "rollout_tests.rs"]
mod tests;
