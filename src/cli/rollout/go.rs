//! Doing the plan: look, judge, one step, and look again.

use std::io::Write;
use std::ops::ControlFlow;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::look::{Eyes, LookError, pod_name};
use super::waiting::{Awaited, Halt, signal, stopped};
use super::{RolloutArgs, words};
use crate::cli::access::Cluster;
use crate::cli::order::{give, new_order, say};
use crate::cli::words::duration;
use crate::cli::{End, OrderArgs};
use crate::core::orders::OrderKind;
use crate::core::preflight::{Right, rules};
use crate::core::rollout::{Goal, Renewal, Seen, Step, obstacles, plan, renewal};
use crate::core::types::MemberName;
use crate::kubernetes::preflight::is_granted;

/// How often everything is looked at.
const POLL: Duration = Duration::from_secs(1);
/// How long a cluster that is not fit may take to become so before it begins.
const SETTLE: Duration = Duration::from_secs(60);
/// What is awaited between two steps is said when it takes this long.
const LONG: Duration = Duration::from_secs(5);
/// How long a switchover may take at most, as for `pgbaton switchover`.
const SWITCHOVER: Duration = Duration::from_secs(60);
/// How often another primary than the one expected is taken as a reason to plan anew.
const MOST_PLANS: u32 = 3;
/// How often one member's pod is renewed: a template may change once while it is rolled out.
const MOST_RENEWALS: usize = 2;

/// A rollout under way.
pub(super) struct Rollout<'a, W> {
    cluster: &'a Cluster,
    args: &'a RolloutArgs,
    eyes: Eyes<'a>,
    goal: Goal,
    out: &'a mut W,
    stop: watch::Receiver<bool>,
    /// The primary as it was first, and as it is expected now.
    first_primary: Option<MemberName>,
    primary: Option<MemberName>,
    plans: u32,
    /// Whose pods were renewed, in order.
    renewed: Vec<MemberName>,
    /// Whose pod was told to go and is not back.
    under_way: Option<MemberName>,
}

impl<'a, W: Write> Rollout<'a, W> {
    pub(super) fn new(cluster: &'a Cluster, args: &'a RolloutArgs, out: &'a mut W) -> Self {
        Self {
            cluster,
            args,
            eyes: Eyes::new(cluster),
            goal: Goal {
                only: args.members.iter().cloned().collect(),
                ..Goal::default()
            },
            out,
            stop: watch::channel(false).1,
            first_primary: None,
            primary: None,
            plans: 0,
            renewed: Vec::new(),
            under_way: None,
        }
    }

    fn title(&self) -> String {
        format!("rollout of {}", self.cluster.name())
    }

    /// Shows the plan, and says why it cannot be done where it cannot, or that there is nothing to do.
    pub(super) async fn begin(&mut self) -> ControlFlow<End> {
        let title = self.title();
        let refuse = |out: &mut W, text: &str| {
            say(out, &format!("{title}: not begun: {text}"));
            ControlFlow::Break(End::Failed)
        };
        let mut seen = match self.eyes.look().await {
            Ok(seen) => seen,
            Err(error) => return refuse(self.out, &error.to_string()),
        };
        if let Some(stranger) = self
            .goal
            .only
            .iter()
            .find(|name| seen.record.member(name).is_none())
        {
            let members = words::names(seen.record.members.iter().map(|m| &m.member));
            return refuse(
                self.out,
                &format!("{stranger} is no member; members are {members}"),
            );
        }
        if self.args.restart {
            self.goal.even = pods(&self.goal, &seen);
        }
        let first = plan(&self.goal, &seen);
        if !first.is_empty() {
            match self.settled(SETTLE.min(self.args.timeout)).await {
                Ok(settled) => seen = settled,
                Err(Halt::Refused(text) | Halt::Late(text)) => {
                    self.show(&seen, &first);
                    return refuse(self.out, &text);
                }
                Err(Halt::Interrupted) => return refuse(self.out, "interrupted"),
            }
        }
        let steps = plan(&self.goal, &seen);
        if steps.is_empty() {
            let text = format!("{title}: nothing to do: every pod is as its StatefulSet's template says");
            say(self.out, &text);
            return ControlFlow::Break(End::Done);
        }
        self.show(&seen, &steps);
        if let Some(missing) = self.missing_rights(&steps).await {
            return refuse(self.out, &missing);
        }
        self.first_primary = seen.primary().cloned();
        self.primary.clone_from(&self.first_primary);
        ControlFlow::Continue(())
    }

    fn show(&mut self, seen: &Seen, steps: &[Step]) {
        let text = words::plan(&self.cluster.name(), &self.goal, seen, steps);
        say(self.out, text.trim_end());
    }

    /// Rights that would be missed half-way. A question without an answer stops nobody.
    async fn missing_rights(&self, steps: &[Step]) -> Option<String> {
        let right = |step: &Step| match step {
            Step::Renew { member, .. } => Right {
                group: "",
                resource: "pods",
                name: Some(pod_name(member)),
                verb: "delete",
            },
            Step::Switchover { .. } => Right {
                group: "coordination.k8s.io",
                resource: "leases",
                name: Some(self.cluster.lease.clone()),
                verb: "patch",
            },
        };
        let mut missing = Vec::new();
        for right in steps.iter().map(right) {
            if is_granted(&self.cluster.client, &self.cluster.namespace, &right).await == Ok(false) {
                missing.push(right);
            }
        }
        let first = missing.first()?;
        let rules: Vec<String> = rules(&missing).iter().map(ToString::to_string).collect();
        Some(format!(
            "the right to {first} in namespace {} is missing. Whoever runs this needs, in a Role:\n{}",
            self.cluster.namespace,
            rules.join("\n")
        ))
    }

    /// Does the plan; `stop` ends it between two looks.
    pub(super) async fn go(&mut self, stop: impl Future<Output = ()> + Send + 'static) -> End {
        self.stop = signal(stop);
        let ended = self.all().await;
        let title = self.title();
        match ended {
            Ok(()) => {
                let text = format!("{title}: done: new pods of {}", words::names(&self.renewed));
                say(self.out, &text);
                if let (Some(first), Some(now)) = (&self.first_primary, &self.primary)
                    && first != now
                {
                    let text = format!(
                        "The primary is {now}; 'pgbaton switchover --to {first}' takes the role back to {first}."
                    );
                    say(self.out, &text);
                }
                End::Done
            }
            Err(halt) => self.halted(&halt),
        }
    }

    async fn all(&mut self) -> Result<(), Halt> {
        loop {
            let seen = self.settled(self.args.timeout).await?;
            self.expect_primary(&seen)?;
            match plan(&self.goal, &seen).into_iter().next() {
                None => return Ok(()),
                Some(step @ Step::Renew { .. }) => self.renew(&step).await?,
                Some(Step::Switchover { to, .. }) => self.switch(to).await?,
            }
        }
    }

    /// Somebody else may have moved the role, or a failover: what was planned for the old roles counts no more.
    fn expect_primary(&mut self, seen: &Seen) -> Result<(), Halt> {
        let now = seen.primary().cloned();
        if now == self.primary {
            return Ok(());
        }
        self.primary = now;
        self.plans += 1;
        let primary = self.primary.as_ref().map_or("nobody", MemberName::as_str);
        let text = format!(
            "The primary is {primary} since term {}, not by this rollout: what is left is planned anew.",
            seen.record.term
        );
        say(self.out, &text);
        if self.plans > MOST_PLANS {
            let text = format!(
                "the primary changed {} times meanwhile: see 'pgbaton history'",
                self.plans
            );
            return Err(Halt::Refused(text));
        }
        Ok(())
    }

    /// One look; none: it may go better the next time, which is said.
    async fn look(&mut self, awaited: &mut Awaited) -> Result<Option<Seen>, Halt> {
        let stop = self.stop.clone();
        let looked = tokio::select! {
            looked = self.eyes.look() => looked,
            () = stopped(stop) => return Err(Halt::Interrupted),
        };
        match looked {
            Ok(seen) => Ok(Some(seen)),
            Err(error) => self.tolerate(&error, awaited).map(|()| None),
        }
    }

    fn tolerate(&mut self, error: &LookError, awaited: &mut Awaited) -> Result<(), Halt> {
        if !error.passes() {
            return Err(Halt::Refused(error.to_string()));
        }
        awaited.note(self.out, format!("{error}; still waiting"));
        Ok(())
    }

    /// Until the next look; the time may be over.
    async fn pause(&self, awaited: &Awaited) -> Result<(), Halt> {
        if Instant::now() >= awaited.deadline {
            return Err(Halt::Late(awaited.text.clone()));
        }
        tokio::select! {
            () = tokio::time::sleep_until(awaited.deadline.min(Instant::now() + POLL)) => Ok(()),
            () = stopped(self.stop.clone()) => Err(Halt::Interrupted),
        }
    }

    /// The cluster when the next step may be done, or when there is none.
    async fn settled(&mut self, bound: Duration) -> Result<Seen, Halt> {
        let mut awaited = Awaited::new(bound, LONG);
        loop {
            if let Some(seen) = self.look(&mut awaited).await? {
                let found = obstacles(&self.goal, &seen);
                if found.is_empty() || plan(&self.goal, &seen).is_empty() {
                    return Ok(seen);
                }
                let lasting: Vec<&str> = found
                    .iter()
                    .filter(|o| !o.passes)
                    .map(|o| o.text.as_str())
                    .collect();
                if !lasting.is_empty() {
                    return Err(Halt::Refused(lasting.join("\n  ")));
                }
                let texts: Vec<&str> = found.iter().map(|o| o.text.as_str()).collect();
                awaited.note(self.out, texts.join("; "));
            }
            self.pause(&awaited).await?;
        }
    }

    fn is_next(&self, seen: &Seen, step: &Step) -> bool {
        plan(&self.goal, seen).first() == Some(step) && obstacles(&self.goal, seen).is_empty()
    }

    /// Deletes the pod and waits until its member is whole again. Returns early when the plan is another one meanwhile.
    async fn renew(&mut self, step: &Step) -> Result<(), Halt> {
        let Step::Renew { member, uid, .. } = step else {
            return Ok(());
        };
        if self.renewed.iter().filter(|known| *known == member).count() >= MOST_RENEWALS {
            return Err(Halt::Refused(format!(
                "{member} has a new pod for the second time, and it is not as its template says: the template changes, or the \
                 controller makes pods of another one"
            )));
        }
        let mut awaited = Awaited::new(self.args.timeout, Duration::ZERO);
        loop {
            if let Some(seen) = self.look(&mut awaited).await? {
                match renewal(&seen, member, uid) {
                    // Roles and health may have changed since it was planned.
                    Renewal::NotBegun if self.under_way.is_none() && !self.is_next(&seen, step) => {
                        return self.pause(&awaited).await;
                    }
                    Renewal::NotBegun => self.delete(member, uid, &mut awaited).await?,
                    Renewal::Waiting(text) => {
                        // Somebody else may have deleted it just before.
                        self.under_way = Some(member.clone());
                        awaited.note(self.out, text);
                    }
                    Renewal::Whole => {
                        self.under_way = None;
                        self.renewed.push(member.clone());
                        let text = format!(
                            "{member}: whole again after {}",
                            duration(awaited.since.elapsed())
                        );
                        say(self.out, &text);
                        return Ok(());
                    }
                }
            }
            if let Err(halt) = self.pause(&awaited).await {
                return Err(match halt {
                    Halt::Late(text) => Halt::Late(format!("{member}: {text}")),
                    other => other,
                });
            }
        }
    }

    /// The UID goes with the request: another pod of that name is never deleted.
    async fn delete(&mut self, member: &MemberName, uid: &str, awaited: &mut Awaited) -> Result<(), Halt> {
        if self.under_way.is_none() {
            let bound = duration(self.args.timeout);
            say(
                self.out,
                &format!("{member}: its pod is deleted; waiting for at most {bound}"),
            );
        }
        // Without an answer it may have been done.
        self.under_way = Some(member.clone());
        match self.eyes.delete(member, uid).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if !error.passes() {
                    self.under_way = None;
                }
                self.tolerate(&error, awaited)
            }
        }
    }

    async fn switch(&mut self, to: MemberName) -> Result<(), Halt> {
        let refused = |text: String| Halt::Refused(text);
        let order = new_order(OrderKind::Switchover, Some(to.clone())).map_err(|e| refused(e.to_string()))?;
        let args = OrderArgs {
            cluster: self.args.cluster.clone(),
            timeout: SWITCHOVER.min(self.args.timeout),
            replace: false,
        };
        let stop = stopped(self.stop.clone());
        match give(self.cluster, &order, &args, self.out, stop).await {
            End::Done => {
                self.primary = Some(to);
                Ok(())
            }
            End::Failed | End::Usage => {
                Err(refused(format!("the switchover to {to} was refused, see above")))
            }
            End::Unknown if *self.stop.borrow() => Err(Halt::Interrupted),
            End::Unknown => Err(Halt::Late(format!("the switchover to {to}"))),
        }
    }

    /// How things stand, and how to go on.
    fn halted(&mut self, halt: &Halt) -> End {
        let (why, end) = match halt {
            Halt::Interrupted => ("interrupted".to_owned(), End::Unknown),
            Halt::Late(text) => (format!("not in time: {text}"), End::Unknown),
            Halt::Refused(text) => (text.clone(), End::Failed),
        };
        let title = self.title();
        say(self.out, &format!("{title}: stopped: {why}"));
        if !self.renewed.is_empty() {
            let text = format!("  New pods and whole: {}.", words::names(&self.renewed));
            say(self.out, &text);
        }
        if let Some(member) = &self.under_way {
            let pod = pod_name(member);
            let namespace = &self.cluster.namespace;
            let mut text = format!(
                "  {member}: its pod was deleted and is not back; see 'kubectl -n {namespace} describe pod {pod}'."
            );
            if matches!(halt, Halt::Late(_)) {
                text.push_str(
                    " A template that cannot run is mended by applying a better one, or the old one.",
                );
            }
            say(self.out, &text);
        }
        say(self.out, &format!("  No other pod was touched. {}", self.again()));
        end
    }

    /// How what is left is done. After `--restart` what was done is not seen at the pods, so the rest is named.
    fn again(&self) -> String {
        let mut command = format!(
            "It goes on where it stopped by: pgbaton rollout -n {} --lease {}",
            self.cluster.namespace, self.cluster.lease
        );
        let named: Vec<&MemberName> = if self.args.restart && self.args.members.is_empty() {
            self.eyes.members().collect()
        } else {
            self.args.members.iter().collect()
        };
        let is_left = |name: &&MemberName| {
            !self.args.restart || !(self.renewed.contains(*name) || self.under_way.as_ref() == Some(*name))
        };
        let left: Vec<&MemberName> = named.into_iter().filter(is_left).collect();
        if self.args.restart {
            if left.is_empty() {
                return "Nothing else is left to do.".to_owned();
            }
            command.push_str(" --restart");
        }
        for member in left {
            command.push_str(" --member ");
            command.push_str(member.as_str());
        }
        command
    }
}

/// UIDs of the pods of the members that the goal is about.
fn pods(goal: &Goal, seen: &Seen) -> std::collections::BTreeSet<String> {
    let members = seen.members.iter().filter(|seen| goal.covers(&seen.member));
    members
        .filter_map(|seen| Some(seen.pod.as_ref()?.uid.clone()))
        .collect()
}
