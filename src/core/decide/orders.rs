//! What people order through the Lease (DESIGN.md section 9).

use super::Mind;
use crate::core::action::{Action, OrderState, SwapKind};
use crate::core::observe::{PersonOrder, PersonWish, SeenLease};
use crate::core::record::Record;
use crate::core::types::MemberName;
use crate::core::why::StepDown;

impl Mind<'_> {
    /// Answers an order, or begins to carry it out. Orders for a damaged Lease are heard in `damage`, a failover without
    /// proof in `claim`.
    pub(super) fn hear_people(&mut self, lease: &SeenLease, record: &Record) {
        let Some(order) = &lease.order else { return };
        if !self.i_hold(lease) || record.term != lease.term {
            return;
        }
        match &order.what {
            PersonWish::Pause => self.set_paused(lease, record, order, true),
            PersonWish::Resume => self.set_paused(lease, record, order, false),
            PersonWish::Switchover { to } => self.switch_over(lease, record, order, to.as_ref()),
            PersonWish::Failover { to } => self.failed_over(record, order, to),
            PersonWish::Adopt { member } => {
                let primary = record.primary.as_ref().map(|p| &p.member);
                if primary == Some(member) {
                    self.answer(
                        order,
                        OrderState::Done,
                        format!("{member} is the cluster's primary"),
                    );
                } else {
                    self.answer(
                        order,
                        OrderState::Refused,
                        "the Lease is not damaged: nothing to adopt".to_owned(),
                    );
                }
            }
        }
    }

    fn set_paused(&mut self, lease: &SeenLease, record: &Record, order: &PersonOrder, paused: bool) {
        if record.paused == paused {
            let text = if paused {
                "paused: no takeover until `pgbaton resume`"
            } else {
                "takeovers are possible again"
            };
            self.answer(order, OrderState::Done, text.to_owned());
        } else {
            let mut record = record.clone();
            record.paused = paused;
            self.swap(lease, SwapKind::Renew, record);
        }
    }

    fn switch_over(
        &mut self,
        lease: &SeenLease,
        record: &Record,
        order: &PersonOrder,
        to: Option<&MemberName>,
    ) {
        let done = record.history.last().is_some_and(|h| h.why.contains(&order.id));
        if done && record.step.is_none() {
            return self.answer(
                order,
                OrderState::Done,
                format!("{} is primary of term {}", self.settings.me, record.term),
            );
        }
        if done || self.state.stepping_down.is_some() {
            return;
        }
        if to == Some(&self.settings.me) {
            return self.answer(
                order,
                OrderState::Done,
                format!("{} is the primary already", self.settings.me),
            );
        }
        if self.state.answered.contains(&order.id) {
            let text = format!("the successor did not take over; {} leads on", self.settings.me);
            return self.answer(order, OrderState::Refused, text);
        }
        match self.successor(record, to) {
            Err(why) => self.answer(order, OrderState::Refused, format!("no successor: {why}")),
            Ok(successor) => {
                self.state.answered.insert(order.id.clone());
                self.answer(order, OrderState::Running, format!("handing over to {successor}"));
                self.begin_step_down(
                    lease,
                    record,
                    StepDown::Ordered,
                    Some(&successor),
                    Some(order.id.clone()),
                );
            }
        }
    }

    fn failed_over(&mut self, record: &Record, order: &PersonOrder, to: &MemberName) {
        let me = &self.settings.me;
        let primary = record.primary.as_ref().map(|p| &p.member);
        if primary == Some(me) && to == me && record.step.is_none() {
            self.answer(
                order,
                OrderState::Done,
                format!("{to} is primary of term {}", record.term),
            );
        } else if primary == Some(me) && to != me {
            let text = format!("{me} leads: `pgbaton switchover --to {to}` moves the primary without loss");
            self.answer(order, OrderState::Refused, text);
        }
    }

    pub(super) fn answer(&mut self, order: &PersonOrder, state: OrderState, text: String) {
        if !self.seen.answered_orders.contains(&order.id) || state != OrderState::Running {
            self.actions.push(Action::AnswerOrder {
                id: order.id.clone(),
                state,
                text,
            });
        }
    }
}
