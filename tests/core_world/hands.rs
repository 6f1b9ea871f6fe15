//! What sidecars decide is sent on its way; requests, orders and statements arrive and are answered.

use std::rc::Rc;

use pgbaton::core::action::{Action, GuardOrder, OrderState, SqlJob};
use pgbaton::core::observe::{GuardView, HolderSight, Outcome, PeerReport, Promised, ServerView, SwapResult};
use pgbaton::core::record::Evidence;
use pgbaton::core::types::{DataId, Millis, Term, Timeline};

use crate::api::{Applied, Request};
use crate::machine::Proc;
use crate::sidecar::{Input, Lane};
use crate::wal;
use crate::world::{Event, STEP, World, name};

/// An order on its way.
#[derive(Debug, Clone)]
pub struct Letter {
    pub life: u64,
    pub boot: u64,
    pub data: Option<DataId>,
    pub term: Term,
    pub order: GuardOrder,
}

impl World {
    /// Sees Lease and guard, and asks server and peers when it is time.
    pub fn look(&mut self, member: usize) {
        if !self.awake(member) {
            return;
        }
        if self.reaches_api(member) {
            let lag = 20 + (member as u64) * 20;
            if let Some(lease) = self.api.shown(self.now, lag) {
                self.sidecars[member].see_lease(lease);
            }
        }
        let (now, live, life) = (self.now, self.sidecars[member].live, self.sidecars[member].life);
        if self.machines[member].up {
            let status = self.machines[member].status(now);
            self.sidecars[member].guard = GuardView::Heard(Box::new(Evidence {
                value: status,
                asked_at: Millis(live),
            }));
        } else {
            let before = std::mem::replace(&mut self.sidecars[member].guard, GuardView::Unknown);
            self.sidecars[member].guard = match before {
                GuardView::Heard(last) => GuardView::Lost {
                    since: Millis(live),
                    last,
                },
                other => other,
            };
        }
        self.survey(member);
        self.knock(member);
        if live >= self.sidecars[member].next_probe {
            let (view, takes) = self.probe(member);
            let every = self.sidecars[member]
                .last
                .as_ref()
                .map_or(1_000, |d| d.probe_every.0);
            self.sidecars[member].next_probe = live + takes + every;
            let evidence = Evidence {
                value: view,
                asked_at: Millis(live),
            };
            self.at(
                now + takes,
                Event::ToSidecar(member, life, Input::Probe(evidence)),
            );
        }
        if live >= self.sidecars[member].next_ask {
            let every = self.sidecars[member]
                .last
                .as_ref()
                .map_or(500, |d| d.ask_peers_every.0);
            self.sidecars[member].next_ask = live + every.max(STEP);
            self.ask(member);
        }
    }

    /// Knocks at the ports of the Lease's holder, as the real sidecar does when there is a sign that it is gone.
    fn knock(&mut self, member: usize) {
        let lease = self.sidecars[member].lease.clone().flatten();
        let Some(holder) = lease.and_then(|lease| lease.holder.clone()) else {
            return;
        };
        let of = |s: &crate::sidecar::Sidecar| holder.starts_with(&format!("{}_", s.settings.me));
        let Some(there) = self.sidecars.iter().position(of).filter(|there| *there != member) else {
            return;
        };
        let live = Millis(self.sidecars[member].live);
        let machine = &self.machines[there];
        // A dead pod's address answers nothing once the pod is gone; its containers' ports refuse while it is there.
        let answers = self.linked(member, there) && self.now >= machine.frozen_until && !machine.gone;
        let refuses = answers && machine.is_down() && !self.sidecars[there].up;
        let heard = answers && !machine.is_down() && self.now >= machine.hung_until;
        let known = self.sidecars[member]
            .holder
            .as_ref()
            .is_some_and(|s| s.refused.is_some());
        if refuses && !known {
            self.sidecars[member].next_probe = live.0;
        }
        let old = self.sidecars[member].holder.take().filter(|s| s.holder == holder);
        let first = old
            .as_ref()
            .and_then(|s| s.refused)
            .map_or(live, |(first, _)| first);
        self.sidecars[member].holder = Some(HolderSight {
            holder,
            refused: refuses.then_some((first, live)),
            server_refused: answers && machine.is_down(),
            server_heard_at: if heard {
                Some(live)
            } else {
                old.and_then(|s| s.server_heard_at)
            },
        });
    }

    fn ask(&mut self, member: usize) {
        let (live, life) = (self.sidecars[member].live, self.sidecars[member].life);
        let leads = self.sidecars[member].state.taking.map(|(term, _)| term);
        let leads = leads.max(self.sidecars[member].last.as_ref().and_then(|d| d.heartbeat));
        for other in (0..self.plan.members).filter(|o| *o != member) {
            if !self.linked(member, other) || !self.awake(other) {
                continue;
            }
            let told = &mut self.sidecars[other].told_term;
            *told = (*told).max(leads);
            let there = &self.sidecars[other];
            let report = PeerReport {
                member: name(other),
                pod_uid: there.pod.to_string(),
                address: there.settings.address.clone(),
                guard: match &there.guard {
                    GuardView::Heard(status) => Some(status.value.clone()),
                    GuardView::Unknown | GuardView::Lost { .. } => None,
                },
                server: there.server.as_ref().map(|s| s.value.clone()),
                terminating: there.terminating,
                stepped_down_in_ms: None,
                wall_ms: None,
                missing_rights: 0,
            };
            let answer = Box::new(Evidence {
                value: report,
                asked_at: Millis(live),
            });
            let when = self.now + self.rng.between(20, 60);
            if let Some(promised) = self.promise(member, other) {
                let input = Input::Promised(name(other), promised);
                self.at(when, Event::ToSidecar(member, life, input));
            }
            self.at(when, Event::ToSidecar(member, life, Input::Peer(answer)));
        }
    }

    /// What `other` promises to the heartbeat of `member`; sent now, answered at once, and the answer is under way.
    fn promise(&mut self, member: usize, other: usize) -> Option<Promised> {
        let led = self.sidecars[member].last.as_ref()?.heartbeat?;
        let there = &mut self.sidecars[other];
        let may = there.last.as_ref()?.may_promise.clone();
        let (term, data_id) = may.filter(|(term, _)| *term == led)?;
        let for_ms = there.settings.permit;
        there.promised_until = there.promised_until.max(Some(Millis(there.live).plus(for_ms)));
        Some(Promised {
            term,
            data_id,
            for_ms,
            asked_boot: Millis(self.now),
            asked_at: Millis(self.sidecars[member].live),
        })
    }

    /// A look at the local server, and how long it takes. Rows are read after the position, as the real look does.
    fn probe(&self, member: usize) -> (ServerView, u64) {
        let machine = &self.machines[member];
        if self.now < machine.hung_until && !machine.is_down() {
            return (ServerView::Hung, 1_500);
        }
        let view = match &machine.proc {
            Proc::Down(_) => ServerView::Down,
            Proc::Starting { .. } | Proc::Stopping { .. } => ServerView::NotAccepting,
            Proc::Standby => {
                let held = machine
                    .data
                    .as_ref()
                    .map(|d| wal::end(d.wal.len() - machine.unreplayed));
                ServerView::Standby {
                    receive: held,
                    replay: held,
                    streaming: machine.stream.is_some(),
                    timeline: machine.data.as_ref().map(|d| Timeline(wal::timeline(&d.wal))),
                }
            }
            Proc::Primary => ServerView::Primary {
                insert: wal::end(machine.before),
                timeline: Timeline(machine.data.as_ref().map_or(0, |d| wal::timeline(&d.wal))),
                names: machine.names.clone(),
                rows: self.rows(member),
                wrote: true,
            },
        };
        (view, STEP)
    }

    pub fn think(&mut self, member: usize) {
        if !self.awake(member) {
            return;
        }
        let from = self.sidecars[member].state.phase;
        let decision = self.sidecars[member].decide(self.now);
        if !decision.listed {
            let to = decision.phase;
            self.checks.fail(format!(
                "{}: {from:?} to {to:?} is not in the table ({})",
                name(member),
                decision.why
            ));
        }
        for action in decision.actions {
            self.act(member, action);
        }
    }

    fn act(&mut self, member: usize, action: Action) {
        let (life, live) = (self.sidecars[member].life, self.sidecars[member].live);
        match action {
            Action::Swap(swap) => {
                self.sidecars[member].lanes.swap = true;
                let lossy = self.now < self.api.lose_until;
                let slow = lossy && self.rng.percent(self.api.lose_percent);
                let (least, most) = if slow { (100, 4_000) } else { (10, 50) };
                let arrives = self.now + self.rng.between(least, most);
                let request = Request {
                    member,
                    life,
                    holder: self.sidecars[member].settings.holder.clone(),
                    swap,
                    sent_boot: self.now,
                    sent_live: live,
                    arrives,
                    gives_up: self.now + 1_000,
                    reply_lost: lossy && self.rng.percent(self.api.lose_percent),
                    told: false,
                };
                self.api.requests.push(request);
            }
            Action::Permit { term, deadline_boot } => {
                let boot = self.machines[member].boot;
                self.at(self.now + STEP, Event::Permit(member, boot, term, deadline_boot));
            }
            Action::Guard { term, order } => {
                self.sidecars[member].lanes.guard = true;
                let letter = Letter {
                    life,
                    boot: self.machines[member].boot,
                    data: self.machines[member].data_id(),
                    term,
                    order,
                };
                let when = self.now + self.rng.between(10, 40);
                self.at(when, Event::ToGuard(member, Box::new(letter)));
            }
            Action::Sql(job) => {
                self.sidecars[member].lanes.sql = true;
                let takes = match job {
                    SqlJob::Checkpoint if self.plan.slow_checkpoints || self.rng.percent(30) => {
                        self.rng.between(2_000, 5_000)
                    }
                    SqlJob::Checkpoint => self.rng.between(40, 600),
                    SqlJob::EndWalsenders { .. } => 40,
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
                    self.at(
                        self.now + 60,
                        Event::ToSidecar(member, life, Input::Service(term, open.then_some(primary))),
                    );
                }
            }
            Action::KeepReplication { .. } => {}
            Action::AnswerOrder { id, state, text } => self.answer(member, id, state, text),
        }
    }

    fn answer(&mut self, member: usize, id: String, state: OrderState, text: String) {
        if !self.reaches_api(member) {
            return;
        }
        self.sidecars[member].answered.insert(id.clone());
        let open = self
            .api
            .lease()
            .is_some_and(|l| l.order.as_ref().is_some_and(|o| o.id == id));
        if state != OrderState::Running && open {
            self.say(&format!("{} answers {id}: {state:?}, {text}", name(member)));
            self.api.put(self.now, false, |lease| lease.order = None);
            self.answers.push((id, state == OrderState::Done, text));
        }
    }

    /// The API server takes requests that arrive now.
    pub fn serve(&mut self) {
        for mut request in std::mem::take(&mut self.api.requests) {
            if self.now >= request.gives_up && !request.told {
                request.told = true;
                self.swap_ended(&request, SwapResult::Unknown("no answer".to_owned()));
            }
            if self.now < request.arrives || (!self.reaches_api(request.member) && !request.told) {
                self.api.requests.push(request);
            } else if self.reaches_api(request.member) {
                self.serve_one(request);
            }
        }
    }

    fn serve_one(&mut self, mut request: Request) {
        let member = request.member;
        let old = self.api.lease();
        let applied = self.api.apply(self.now, &request);
        if let Applied::Done(new) = &applied {
            self.checks.swapped(old.as_deref(), new, &request, &self.machines);
            let unheard = request.reply_lost || request.told;
            self.note_swap(
                &request,
                new,
                if unheard {
                    " (its sender does not hear of it)"
                } else {
                    ""
                },
            );
        }
        if request.told {
            return;
        }
        if request.reply_lost {
            request.arrives = u64::MAX;
            self.api.requests.push(request);
            return;
        }
        let result = match applied {
            Applied::Done(lease) => {
                self.sidecars[member].see_lease_if(request.life, &lease);
                SwapResult::Done(Box::new(self.sidecars[member].seen(&lease)))
            }
            Applied::Lost => SwapResult::Lost,
            Applied::Refused(why) => SwapResult::Refused(why.to_owned()),
        };
        self.swap_ended(&request, result);
    }

    fn note_swap(&mut self, request: &Request, new: &Rc<crate::api::Lease>, lost: &str) {
        use pgbaton::core::action::SwapKind;
        let sets = new.record().map_or(0, |r| r.sync_sets.len());
        let old = self.shown_sets();
        if request.swap.kind != SwapKind::Renew || !lost.is_empty() || old != sets {
            let kind = request.swap.kind;
            let primary = new
                .record()
                .and_then(|r| r.primary.as_ref())
                .map(|p| p.member.to_string());
            let text = format!(
                "Lease: {kind:?} by {}, term {}, primary {primary:?}, {sets} sets{lost}",
                request.holder, new.term
            );
            self.say(&text);
        }
    }

    fn shown_sets(&self) -> usize {
        let before = self.api.versions.iter().rev().nth(1).and_then(|(_, l)| l.clone());
        before
            .and_then(|l| l.record().map(|r| r.sync_sets.len()))
            .unwrap_or(0)
    }

    fn swap_ended(&mut self, request: &Request, result: SwapResult) {
        let outcome = Outcome::Swap {
            kind: request.swap.kind,
            sent_boot: Millis(request.sent_boot),
            sent_at: Millis(request.sent_live),
            result,
        };
        let input = Input::Outcome(Lane::Swap, outcome);
        self.at(self.now, Event::ToSidecar(request.member, request.life, input));
    }
}
