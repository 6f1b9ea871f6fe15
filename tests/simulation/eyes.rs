//! What sidecars look at: the guard, the server, the other members, the Lease, the door of its holder.

use pgbaton::core::observe::{GuardView, HolderSight, PeerReport, Promised, ServerView};
use pgbaton::core::record::Evidence;
use pgbaton::core::types::{Millis, Term, Timeline};

use crate::clock::Clock;
use crate::machine::Proc;
use crate::sidecar::Input;
use crate::touches;
use crate::wal;
use crate::world::{Event, World, name, rate};

/// Between two knocks at the door of the Lease's holder.
const KNOCK: u64 = 50;
/// The guard's watch ends after this time without a change.
const WATCH: u64 = 1_000;
/// How long a look at a hanging server takes.
const HANGS: u64 = 1_500;

/// From one sidecar to another.
#[derive(Debug, Clone)]
pub struct Question {
    pub from: usize,
    pub life: u64,
    pub to: usize,
    pub asked_at: Millis,
    pub asked_boot: Millis,
    /// The term that the asker leads or takes.
    pub leads: Option<Term>,
    pub heartbeat: Option<Term>,
}

impl World {
    /// When a sidecar does something by itself.
    pub fn sidecar_due(&self, member: usize) -> u64 {
        let sidecar = &self.sidecars[member];
        if !sidecar.up {
            return u64::MAX;
        }
        let wake_at = sidecar.last.as_ref().map_or(0, |d| d.wake_at.0);
        let live = sidecar
            .next_probe
            .min(sidecar.next_ask)
            .min(sidecar.next_knock)
            .min(sidecar.next_survey)
            .min(sidecar.next_guard)
            .min(wake_at);
        let by_clock = self.now + sidecar.clock.until(live);
        by_clock.min(sidecar.think_at).max(self.stands_still(member))
    }

    /// A sidecar's process begins.
    pub fn sidecar_starts(&mut self, member: usize) {
        let rate = if self.plan.own_clocks {
            rate(&mut self.rng)
        } else {
            0
        };
        let clock = Clock::new(self.rng.between(100, 100_000), rate);
        self.sidecars[member].restart(clock);
        self.touch(member);
        let when = self.now + self.rng.between(5, 100);
        self.at(when, Event::Watch(member, 0, None));
        self.tell_of_guard(member);
    }

    /// Whoever watches the Lease is told of what is new in it.
    pub fn announce(&mut self) {
        while self.api.announced < self.api.number {
            self.api.announced += 1;
            let lease = self.api.lease();
            for member in 0..self.plan.members {
                let when = self.now + self.latency() + self.latency();
                self.at(when, Event::Watch(member, self.api.number, lease.clone()));
            }
        }
    }

    /// The watch brings something; without a connection it is listed anew when there is one again.
    pub fn watched(&mut self, member: usize, number: u64, lease: Option<std::rc::Rc<crate::api::Lease>>) {
        if !self.sidecars[member].up {
            return;
        }
        if !self.awake(member) {
            return self.wait(self.stands_still(member), Event::Watch(member, number, lease));
        }
        let lags = self.now < self.api.lags_until[member];
        if !self.reaches_api(member) || lags {
            let when = self.now + self.rng.between(100, 400);
            return self.at(when, Event::Watch(member, 0, None));
        }
        // Number 0: a list.
        if number == 0 {
            self.touches(touches::LEASE);
        }
        let (number, lease) = if number == 0 {
            (self.api.number, self.api.lease())
        } else {
            (number, lease)
        };
        self.sidecars[member].see_lease(number, lease);
        self.wake(member);
    }

    /// A sidecar decides soon: something came in.
    pub fn wake(&mut self, member: usize) {
        let when = self.now + self.rng.between(0, 2);
        self.sidecars[member].wake(when);
        self.touch(member);
    }

    /// What the guard tells, or that it is not there.
    pub fn guard_tells(&mut self, member: usize) {
        if !self.sidecars[member].up {
            self.sidecars[member].is_told = false;
            return;
        }
        if !self.awake(member) {
            return self.wait(self.stands_still(member), Event::GuardTells(member));
        }
        self.sidecars[member].is_told = false;
        self.see_guard(member);
        self.wake(member);
    }

    pub fn see_guard(&mut self, member: usize) {
        let live = Millis(self.sidecars[member].live());
        self.sidecars[member].next_guard = live.0 + WATCH;
        let seen = &mut self.sidecars[member].seen;
        if self.machines[member].up {
            let status = self.machines[member].status(self.now);
            seen.guard = GuardView::Heard(Box::new(Evidence {
                value: status,
                asked_at: live,
            }));
            return;
        }
        let before = std::mem::replace(&mut seen.guard, GuardView::Unknown);
        seen.guard = match before {
            GuardView::Heard(last) => GuardView::Lost { since: live, last },
            other => other,
        };
    }

    /// A member's sidecar sees what it can see now.
    pub fn look(&mut self, member: usize) {
        let (live, life) = (self.sidecars[member].live(), self.sidecars[member].life);
        if live >= self.sidecars[member].next_guard {
            self.see_guard(member);
            self.wake(member);
        }
        self.survey(member);
        if live >= self.sidecars[member].next_knock {
            self.sidecars[member].next_knock = live + KNOCK;
            self.knock(member);
        }
        if live >= self.sidecars[member].next_probe {
            let takes = if self.now < self.machines[member].hung_until && !self.machines[member].is_down() {
                HANGS
            } else {
                self.rng.between(1, 25)
            };
            let every = self.sidecars[member]
                .last
                .as_ref()
                .map_or(1_000, |d| d.probe_every.0);
            self.sidecars[member].next_probe = live + takes + every.max(1);
            let length = self.machines[member].length();
            let looked = Event::Looked(member, life, length, Millis(live));
            self.at(self.now + takes, looked);
        }
        if live >= self.sidecars[member].next_ask {
            let every = self.sidecars[member]
                .last
                .as_ref()
                .map_or(500, |d| d.ask_peers_every.0);
            self.sidecars[member].next_ask = live + every.max(10);
            self.ask(member);
        }
    }

    /// Knocks at the ports of the Lease's holder, as the real sidecar does when there is a sign that it is gone.
    fn knock(&mut self, member: usize) {
        let Some(Some(lease)) = self.sidecars[member].lease.clone() else {
            return;
        };
        let Some(holder) = lease.holder.as_ref() else {
            return;
        };
        let of = |s: &crate::sidecar::Sidecar| {
            let rest = holder.strip_prefix(s.settings.me.as_str());
            rest.is_some_and(|rest| rest.starts_with('_'))
        };
        let Some(there) = self.sidecars.iter().position(of).filter(|there| *there != member) else {
            return;
        };
        self.touches(touches::member(there));
        let live = Millis(self.sidecars[member].live());
        let machine = &self.machines[there];
        // A dead pod's address answers nothing once the pod is gone; its containers' ports refuse while it is there.
        let answers = self.linked(member, there) && self.now >= machine.frozen_until && !machine.gone;
        let refuses = answers && machine.is_down() && !self.sidecars[there].up;
        let heard = answers && !machine.is_down() && self.now >= machine.hung_until;
        let server_refused = answers && machine.is_down();
        let seen = &mut self.sidecars[member].seen;
        let old = seen.holder.take().filter(|s| s.holder == *holder);
        let known = old.as_ref().and_then(|s| s.refused);
        let changed = old.as_ref().is_none_or(|s| s.server_refused != server_refused);
        let first = known.map_or(live, |(first, _)| first);
        seen.holder = Some(HolderSight {
            holder: old.as_ref().map_or_else(|| holder.clone(), |s| s.holder.clone()),
            refused: refuses.then_some((first, live)),
            server_refused,
            server_heard_at: if heard {
                Some(live)
            } else {
                old.and_then(|s| s.server_heard_at)
            },
        });
        if refuses && known.is_none() {
            self.sidecars[member].next_probe = live.0;
        }
        if refuses || changed {
            self.wake(member);
        }
    }

    fn ask(&mut self, member: usize) {
        let sidecar = &self.sidecars[member];
        let heartbeat = sidecar.last.as_ref().and_then(|d| d.heartbeat);
        let leads = sidecar.state.taking.map(|(term, _)| term).max(heartbeat);
        let (asked_at, life) = (Millis(sidecar.live()), sidecar.life);
        let asked_boot = Millis(self.machines[member].boot_now());
        for to in (0..self.plan.members).filter(|o| *o != member) {
            let question = Question {
                from: member,
                life,
                to,
                asked_at,
                asked_boot,
                leads,
                heartbeat,
            };
            let when = self.now + self.latency();
            self.at(when, Event::Asked(Box::new(question)));
        }
    }

    /// A question arrives and is answered at once, unless nobody is there or the answer does not arrive.
    pub fn asked(&mut self, question: &Question) {
        let Question { from, to, .. } = *question;
        if !self.arrives(from, to) || !self.awake(to) {
            return;
        }
        if question.leads > self.sidecars[to].seen.told_term {
            self.sidecars[to].seen.told_term = question.leads;
            self.wake(to);
        }
        let promised = self.promise(question);
        let there = &self.sidecars[to];
        let report = PeerReport {
            member: name(to),
            pod_uid: there.pod.to_string(),
            address: there.settings.address.clone(),
            guard: match &there.seen.guard {
                GuardView::Heard(status) => Some(status.value.clone()),
                GuardView::Unknown | GuardView::Lost { .. } => None,
            },
            server: there.seen.server.as_ref().map(|s| s.value.clone()),
            terminating: there.terminating,
            stepped_down_in_ms: None,
            wall_ms: None,
            missing_rights: 0,
        };
        if !self.arrives(to, from) {
            return;
        }
        let answer = Box::new(Evidence {
            value: report,
            asked_at: question.asked_at,
        });
        let when = self.now + self.latency();
        self.tell_sidecar(when, from, question.life, Input::Peer(answer, promised));
    }

    /// What the member promises to a heartbeat.
    fn promise(&mut self, question: &Question) -> Option<Promised> {
        let led = question.heartbeat?;
        let there = &mut self.sidecars[question.to];
        let may = there.last.as_ref()?.may_promise.as_ref();
        let (term, data_id) = may.filter(|(term, _)| *term == led)?.clone();
        let for_ms = there.settings.permit;
        let until = Millis(there.live()).plus(for_ms);
        there.seen.promised_until = there.seen.promised_until.max(Some(until));
        Some(Promised {
            term,
            data_id,
            for_ms,
            asked_boot: question.asked_boot,
            asked_at: question.asked_at,
        })
    }

    /// A look at the local server ends. Rows are read after the position, as the real look does.
    pub fn looked(&mut self, member: usize, life: u64, length: usize, asked_at: Millis) {
        if !self.sidecars[member].up || self.sidecars[member].life != life {
            return;
        }
        let machine = &self.machines[member];
        let later = self.stands_still(member);
        if self.now < later {
            return self.wait(later, Event::Looked(member, life, length, asked_at));
        }
        let hangs = self.now < machine.hung_until;
        let held = machine.held();
        let timeline = machine.data.as_ref().map(|d| Timeline(wal::timeline(&d.wal)));
        let value = match &machine.proc {
            Proc::Down(_) => ServerView::Down,
            _ if hangs => ServerView::Hung,
            Proc::Starting { .. } | Proc::Stopping { .. } => ServerView::NotAccepting,
            Proc::Standby => {
                let held = Some(wal::end(held.saturating_sub(machine.unreplayed)));
                ServerView::Standby {
                    receive: held,
                    replay: held,
                    streaming: machine.stream.is_some(),
                    timeline,
                }
            }
            Proc::Primary => ServerView::Primary {
                insert: wal::end(length.min(machine.length())),
                timeline: timeline.unwrap_or(Timeline(0)),
                names: machine.names.clone(),
                rows: self.rows(member),
                wrote: true,
            },
        };
        self.sidecars[member].take_in(Input::Probe(Evidence { value, asked_at }));
        self.wake(member);
    }
}
