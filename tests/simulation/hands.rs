//! What sidecars do: actions leave, arrive, and are answered, or not.

use pgbaton::core::action::{Action, GuardOrder, OrderState, SqlJob, SwapKind};
use pgbaton::core::observe::{Outcome, SwapResult};
use pgbaton::core::types::{DataId, Millis, Term};

use crate::api::{Applied, Lease, Reply, Request};
use crate::sidecar::{Input, Lane};
use crate::touches;
use crate::world::{Event, World, name};

/// How long a swap's answer is waited for.
const PATIENCE: u64 = 1_000;
/// A swap that could not be delivered is not tried for longer than this.
const ON_ITS_WAY: u64 = 6_000;

/// An order on its way to a guard: who sent it, in which life, for which boot and data.
#[derive(Debug, Clone)]
pub struct Letter {
    pub life: u64,
    pub boot: u64,
    pub data: Option<DataId>,
    pub term: Term,
    pub order: GuardOrder,
}

impl World {
    /// What was under way happens.
    pub fn event(&mut self, event: Event) {
        match event {
            Event::ToSidecar(member, life, input) => self.deliver(member, life, *input),
            Event::ToGuard(member, letter) => {
                self.touch(member);
                self.arrive(member, *letter);
            }
            Event::Permit(member, boot, term, deadline) => self.permit(member, boot, term, deadline),
            Event::GuardTells(member) => self.guard_tells(member),
            Event::Sql(member, life, job, names) => {
                self.touch(member);
                self.statement(member, life, job, &names);
            }
            Event::Looked(member, life, length, at) => self.looked(member, life, length, at),
            Event::Asked(question) => self.asked(&question),
            Event::Watch(member, number, lease) => self.watched(member, number, lease),
            Event::Swap(request) => self.swap_comes(*request),
            Event::Reply(reply) => self.reply_comes(*reply),
            Event::GivesUp(request) => self.gives_up(&request),
            Event::Wal(sent) => self.wal_comes(sent),
            Event::Flushed(message) => self.position_comes(message),
            Event::Closed(closed) => self.connection_ends(closed),
            Event::Reset(member, stream) => self.connection_is_reset(member, stream),
            Event::PodBack(member, new_pod, wiped) => self.pod_back(member, new_pod, wiped),
            Event::SidecarBack(member) => {
                if !self.sidecars[member].up {
                    self.sidecar_starts(member);
                }
            }
        }
    }

    fn deliver(&mut self, member: usize, life: u64, input: Input) {
        if !self.sidecars[member].up || self.sidecars[member].life != life {
            return;
        }
        let later = self.stands_still(member);
        if self.now < later {
            return self.wait(later, Event::ToSidecar(member, life, Box::new(input)));
        }
        let of_guard = matches!(input, Input::Outcome(Lane::Guard, _));
        self.sidecars[member].take_in(input);
        if of_guard && self.machines[member].up {
            self.see_guard(member);
        }
        self.wake(member);
    }

    fn permit(&mut self, member: usize, boot: u64, term: Term, deadline: Millis) {
        let machine = &self.machines[member];
        if !machine.up || machine.boot != boot {
            return;
        }
        if self.now < machine.frozen_until {
            return self.wait(machine.frozen_until, Event::Permit(member, boot, term, deadline));
        }
        if deadline.0 > machine.boot_now() {
            self.machines[member].permit_order(term, deadline);
            self.touch(member);
            self.tell_of_guard(member);
        }
    }

    pub fn think(&mut self, member: usize) {
        let from = self.sidecars[member].state.phase;
        let boot_now = self.machines[member].boot_now();
        self.sidecars[member].think_at = u64::MAX;
        let actions = self.sidecars[member].decide(boot_now);
        self.touch(member);
        if let Some(decision) = self.sidecars[member].last.as_ref().filter(|d| !d.listed) {
            let to = decision.phase;
            let why = decision.why.to_string();
            self.checks.fail(format!(
                "{}: {from:?} to {to:?} is not in the table ({why})",
                name(member)
            ));
        }
        for action in actions {
            self.act(member, action);
        }
    }

    fn act(&mut self, member: usize, action: Action) {
        let life = self.sidecars[member].life;
        match action {
            Action::Swap(swap) => self.send_swap(member, swap),
            Action::Permit { term, deadline_boot } => {
                let boot = self.machines[member].boot;
                let when = self.now + self.rng.between(0, 20);
                self.at(when, Event::Permit(member, boot, term, deadline_boot));
            }
            Action::Guard { term, order } => {
                self.sidecars[member].seen.lanes.guard = true;
                let letter = Letter {
                    life,
                    boot: self.machines[member].boot,
                    data: self.machines[member].data_id(),
                    term,
                    order,
                };
                let when = self.now + self.rng.between(0, 20);
                self.at(when, Event::ToGuard(member, Box::new(letter)));
            }
            Action::Sql(job) => {
                self.sidecars[member].seen.lanes.sql = true;
                let takes = match job {
                    SqlJob::Checkpoint if self.plan.slow_checkpoints || self.rng.percent(30) => {
                        self.rng.between(2_000, 5_000)
                    }
                    SqlJob::Checkpoint => self.rng.between(40, 600),
                    SqlJob::EndWalsenders { .. } => self.rng.between(2, 40),
                };
                let names = self.machines[member].names.clone();
                if job == SqlJob::Checkpoint {
                    self.machines[member].checkpoint_until = self.now + takes;
                }
                self.at(self.now + takes, Event::Sql(member, life, job, names));
            }
            Action::Effects {
                term, primary, open, ..
            } => {
                if self.reaches_api(member) {
                    let when = self.now + self.rng.between(5, 60);
                    let input = Input::Service(term, open.then_some(primary));
                    self.tell_sidecar(when, member, life, input);
                }
            }
            Action::KeepReplication { .. } => {}
            Action::AnswerOrder { id, state, text } => self.answer(member, id, state, text),
        }
    }

    fn send_swap(&mut self, member: usize, swap: pgbaton::core::action::Swap) {
        let lossy = self.now < self.api.lose_until;
        let slow = lossy && self.rng.percent(self.api.lose_percent);
        let takes = if slow {
            self.rng.between(100, 4_000)
        } else {
            self.latency()
        };
        let number = self.id();
        let sidecar = &mut self.sidecars[member];
        sidecar.seen.lanes.swap = true;
        sidecar.pending = Some(number);
        let request = Request {
            member,
            life: sidecar.life,
            number,
            holder: sidecar.settings.holder.clone(),
            swap,
            sent_boot: self.machines[member].boot_now(),
            sent_live: sidecar.live(),
            gives_up: self.now + ON_ITS_WAY,
            reply_lost: lossy && self.rng.percent(self.api.lose_percent),
        };
        self.at(self.now + PATIENCE, Event::GivesUp(Box::new(request.clone())));
        self.at(self.now + takes, Event::Swap(Box::new(request)));
    }

    fn answer(&mut self, member: usize, id: String, state: OrderState, text: String) {
        if !self.reaches_api(member) {
            return;
        }
        self.touches(touches::LEASE);
        self.sidecars[member].seen.answered_orders.insert(id.clone());
        let open = self
            .api
            .lease()
            .is_some_and(|l| l.order.as_ref().is_some_and(|o| o.id == id));
        if state != OrderState::Running && open {
            say!(self, "{} answers {id}: {state:?}, {text}", name(member));
            self.api.put(false, |lease| lease.order = None);
            self.answers.push((id, state == OrderState::Done, text));
        }
    }

    fn swap_comes(&mut self, mut request: Request) {
        let member = request.member;
        if !self.reaches_api(member) {
            // Sent again and again below, until the connection ends.
            if self.now < request.gives_up {
                let when = self.now + self.rng.between(50, 300);
                self.at(when, Event::Swap(Box::new(request)));
            }
            return;
        }
        let old = self.api.lease();
        let applied = self.api.apply(&request);
        if let Applied::Done(_, new) = &applied {
            self.checks.swapped(old.as_deref(), new, &request, &self.machines);
            self.note_swap(&request, old.as_deref(), new);
        }
        // A proxy between may end the connection at any time.
        request.reply_lost |= !self.awake(member) && self.rng.percent(50);
        if !request.reply_lost {
            let when = self.now + self.latency();
            self.at(when, Event::Reply(Box::new(Reply { request, applied })));
        }
    }

    fn note_swap(&mut self, request: &Request, old: Option<&Lease>, new: &Lease) {
        if !self.telling {
            return;
        }
        let sets = |lease: &Lease| lease.record().map_or(0, |r| r.sync_sets.len());
        let kind = request.swap.kind;
        if kind != SwapKind::Renew || request.reply_lost || old.map_or(0, sets) != sets(new) {
            let primary = new
                .record()
                .and_then(|r| r.primary.as_ref())
                .map(|p| p.member.to_string());
            let lost = if request.reply_lost {
                " (its sender does not hear of it)"
            } else {
                ""
            };
            let text = format!(
                "Lease: {kind:?} by {}, term {}, primary {primary:?}, {} sets{lost}",
                request.holder,
                new.term,
                sets(new)
            );
            self.note(&text);
        }
    }

    fn reply_comes(&mut self, reply: Reply) {
        let Reply { request, applied } = &reply;
        let member = request.member;
        let sidecar = &self.sidecars[member];
        if !sidecar.up || sidecar.life != request.life || sidecar.pending != Some(request.number) {
            return;
        }
        let later = self.stands_still(member);
        if self.now < later {
            return self.wait(later, Event::Reply(Box::new(reply)));
        }
        if !self.reaches_api(member) {
            return;
        }
        let sidecar = &mut self.sidecars[member];
        let result = match applied {
            Applied::Done(number, lease) => {
                sidecar.see_lease(*number, Some(lease.clone()));
                SwapResult::Done(Box::new(sidecar.shown(lease)))
            }
            Applied::Lost => SwapResult::Lost,
            Applied::Refused(why) => SwapResult::Refused((*why).to_owned()),
        };
        self.swap_ended(request, result);
    }

    fn gives_up(&mut self, request: &Request) {
        let member = request.member;
        let sidecar = &self.sidecars[member];
        if !sidecar.up || sidecar.life != request.life || sidecar.pending != Some(request.number) {
            return;
        }
        let later = self.stands_still(member);
        if self.now < later {
            return self.wait(later, Event::GivesUp(Box::new(request.clone())));
        }
        self.swap_ended(request, SwapResult::Unknown("no answer".to_owned()));
    }

    fn swap_ended(&mut self, request: &Request, result: SwapResult) {
        let outcome = Outcome::Swap {
            kind: request.swap.kind,
            sent_boot: Millis(request.sent_boot),
            sent_at: Millis(request.sent_live),
            result,
        };
        self.sidecars[request.member].pending = None;
        self.deliver(request.member, request.life, Input::Outcome(Lane::Swap, outcome));
    }
}
