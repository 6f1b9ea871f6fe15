//! Giving an order: written on the Lease, followed until its end.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::access::{Cluster, LeaseSeen};
use super::{End, OrderArgs, words};
use crate::core::orders::{
    ORDER_ANNOTATION, ORDER_ID_DIGITS, ORDER_RESULT_ANNOTATION, OrderId, OrderKind, OrderNote, OrderState,
};
use crate::core::types::{MemberName, Term};

/// How often the Lease is looked at.
const POLL: Duration = Duration::from_millis(300);

/// Why an order is not even written.
enum NotGiven {
    /// What is asked for is so already.
    Already(String),
    /// It cannot be.
    Refused(String),
}

/// How the cluster was when the order was written.
#[derive(Debug, Clone, Default)]
struct Before {
    term: Term,
    primary: Option<MemberName>,
}

/// Gives an order and waits for its end; Ctrl-C ends the waiting as the timeout does.
pub(super) async fn run(args: &OrderArgs, kind: OrderKind, to: Option<MemberName>) -> anyhow::Result<End> {
    let cluster = Cluster::open(&args.cluster).await?;
    let order = new_order(kind, to)?;
    let mut out = std::io::stdout();
    Ok(give(&cluster, &order, args, &mut out, interrupted()).await)
}

/// An order with a fresh id, of now.
pub(super) fn new_order(kind: OrderKind, to: Option<MemberName>) -> anyhow::Result<OrderNote> {
    let mut bytes = [0; ORDER_ID_DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(|e| anyhow::anyhow!("no random numbers from the system: {e}"))?;
    Ok(OrderNote {
        id: OrderId::from_random(bytes),
        order: kind,
        to,
        accept_data_loss: kind == OrderKind::Failover,
        at: format!("{:.0}", Timestamp::now()),
    })
}

/// Ctrl-C; never when it cannot be caught (then it ends the program).
pub(super) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Writes `order`, then says on `out` what happens until it has ended, `args.timeout` is over, or `stop` resolves.
pub(super) async fn give(
    cluster: &Cluster,
    order: &OrderNote,
    args: &OrderArgs,
    out: &mut impl Write,
    stop: impl Future<Output = ()>,
) -> End {
    let words = words::order(order);
    let annotations = BTreeMap::from([
        (ORDER_ANNOTATION, Some(order.render())),
        (ORDER_RESULT_ANNOTATION, None),
    ]);
    let mut before = Before::default();
    let written = cluster
        .change(&annotations, |seen| {
            before = Before::of(seen);
            judge(seen, order, args.replace)
        })
        .await;
    match written {
        Ok(Ok(())) => say(
            out,
            &format!(
                "{words}: ordered; waiting for at most {}",
                words::duration(args.timeout)
            ),
        ),
        Ok(Err(NotGiven::Already(text))) => {
            say(out, &format!("{words}: nothing to do: {text}"));
            return End::Done;
        }
        Ok(Err(NotGiven::Refused(text))) => {
            say(out, &format!("{words}: not ordered: {text}"));
            return End::Failed;
        }
        Err(error) if error.is_unknown() => {
            say(
                out,
                &format!("{words}: {error}; looking whether the order was written"),
            );
        }
        Err(error) => {
            say(out, &format!("{words}: not ordered: {error}"));
            return End::Failed;
        }
    }
    let mut following = Following {
        cluster,
        order,
        before,
        out,
        said: Vec::new(),
        last: None,
    };
    tokio::select! {
        end = following.until(Instant::now() + args.timeout) => if let Some(end) = end { return end },
        () = stop => {}
    }
    following.give_up().await
}

/// One line, at once.
pub(super) fn say(out: &mut impl Write, text: &str) {
    // With a closed terminal there is nobody to tell; the order goes on.
    let _ = writeln!(out, "{text}");
    let _ = out.flush();
}

impl Before {
    fn of(seen: &LeaseSeen) -> Self {
        seen.record.as_ref().map_or_else(
            |_| Self::default(),
            |record| Self {
                term: record.term,
                primary: record.primary.as_ref().map(|p| p.member.clone()),
            },
        )
    }
}

/// Whether the order makes sense for what the Lease shows. What only members know they judge themselves.
fn judge(seen: &LeaseSeen, order: &OrderNote, replace: bool) -> Result<(), NotGiven> {
    // Done, and perhaps not answered yet.
    let paused = seen.record.as_ref().ok().map(|record| record.paused);
    let reached = match (order.order, paused) {
        (OrderKind::Pause, Some(true)) => Some("takeovers are paused"),
        (OrderKind::Resume, Some(false)) => Some("takeovers are not paused"),
        _ => None,
    };
    if let Some(open) = seen.open_order().filter(|open| open.id != order.id && !replace) {
        if let Some(text) = reached.filter(|_| open.order == order.order) {
            return Err(NotGiven::Already(text.to_owned()));
        }
        return Err(NotGiven::Refused(format!(
            "another order is open since {}: {}. Wait for its end, or replace it with --replace",
            open.at,
            words::order(open)
        )));
    }
    let record = match &seen.record {
        Ok(record) => record,
        // The command for a damaged Lease; the member named judges the rest.
        Err(_) if order.order == OrderKind::Adopt => return Ok(()),
        Err(damage) => return Err(NotGiven::Refused(damage.clone())),
    };
    let primary = record.primary.as_ref().map(|p| &p.member);
    let needs_cluster = matches!(order.order, OrderKind::Switchover | OrderKind::Failover);
    if needs_cluster && record.is_never_initialised() {
        return Err(NotGiven::Refused("the cluster was never initialised".to_owned()));
    }
    // Whoever adopts must be a member too, where the damaged record still tells who is.
    let must_be_known = needs_cluster || (order.order == OrderKind::Adopt && !record.members.is_empty());
    if let Some(to) = order.to.as_ref().filter(|_| must_be_known)
        && record.member(to).is_none()
    {
        let known: Vec<&str> = record.members.iter().map(|m| m.member.as_str()).collect();
        return Err(NotGiven::Refused(format!(
            "{to} is no member; members are {}",
            known.join(", ")
        )));
    }
    let is_primary = order.order == OrderKind::Switchover
        && order.to.is_some()
        && order.to.as_ref() == primary
        && record.step.is_none();
    match reached.or(is_primary.then_some("it is the primary")) {
        Some(text) => Err(NotGiven::Already(text.to_owned())),
        None => Ok(()),
    }
}

/// An order on its way.
struct Following<'a, W> {
    cluster: &'a Cluster,
    order: &'a OrderNote,
    before: Before,
    out: &'a mut W,
    /// Lines of the last round: a line is printed when it was not in it.
    said: Vec<String>,
    last: Option<LeaseSeen>,
}

impl<W: Write> Following<'_, W> {
    /// The end; none when the deadline came first.
    async fn until(&mut self, deadline: Instant) -> Option<End> {
        loop {
            match tokio::time::timeout_at(deadline, self.cluster.read()).await {
                Err(_) => return None,
                Ok(Err(error)) => self.progress(vec![format!("{error}; still waiting")]),
                Ok(Ok(seen)) => {
                    let end = self.look(&seen);
                    self.last = Some(seen);
                    if end.is_some() {
                        return end;
                    }
                }
            }
            if Instant::now() >= deadline {
                return None;
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + POLL)).await;
        }
    }

    fn look(&mut self, seen: &LeaseSeen) -> Option<End> {
        let words = words::order(self.order);
        let result = seen.result.as_ref().filter(|result| result.id == self.order.id);
        if let Some(result) = result.filter(|result| result.state.is_final()) {
            let (word, end) = match result.state {
                OrderState::Refused => ("refused", End::Failed),
                OrderState::Accepted | OrderState::Running | OrderState::Done => ("done", End::Done),
            };
            say(self.out, &format!("{words}: {word}: {}", result.text));
            return Some(end);
        }
        if matches!(self.order.order, OrderKind::Pause | OrderKind::Resume) && self.is_reached(seen) {
            say(self.out, &format!("{words}: done"));
            return Some(End::Done);
        }
        let ours = matches!(&seen.order, Some(Ok(order)) if order.id == self.order.id);
        if !ours && result.is_none() {
            say(
                self.out,
                &format!(
                    "{words}: the order is not on the Lease (never written, or replaced by somebody); see 'pgbaton status'"
                ),
            );
            return Some(End::Unknown);
        }
        let mut lines = Vec::new();
        if let Ok(record) = &seen.record {
            lines.extend(record.step.as_ref().map(|step| format!("  in progress: {step}")));
            if let Some(primary) = record.primary.as_ref().filter(|_| record.term > self.before.term) {
                lines.push(format!(
                    "  term {}: the primary is {}",
                    record.term, primary.member
                ));
            }
        }
        lines.extend(result.map(|result| format!("  {}", result.text)));
        self.progress(lines);
        None
    }

    fn progress(&mut self, lines: Vec<String>) {
        for line in &lines {
            if !self.said.contains(line) {
                say(self.out, line);
            }
        }
        self.said = lines;
    }

    /// The record shows what was ordered.
    fn is_reached(&self, seen: &LeaseSeen) -> bool {
        let Ok(record) = &seen.record else {
            return false;
        };
        let primary = record.primary.as_ref().map(|p| &p.member);
        match self.order.order {
            OrderKind::Pause => record.paused,
            OrderKind::Resume => !record.paused,
            OrderKind::Switchover | OrderKind::Failover | OrderKind::Adopt => {
                let right = match &self.order.to {
                    Some(to) => primary == Some(to),
                    None => primary != self.before.primary.as_ref(),
                };
                right && record.step.is_none() && record.term > self.before.term
            }
        }
    }

    /// The time is over: says how things stand, and takes back an order that nobody took up.
    async fn give_up(&mut self) -> End {
        let words = words::order(self.order);
        let Some(seen) = self.last.take() else {
            say(
                self.out,
                &format!("{words}: not known whether it was done; see 'pgbaton status'"),
            );
            return End::Unknown;
        };
        if self.is_reached(&seen) {
            say(
                self.out,
                &format!("{words}: done, as the record shows; the answer did not come"),
            );
            return End::Done;
        }
        let id = &self.order.id;
        let withdrawn = self
            .cluster
            .change(&BTreeMap::from([(ORDER_ANNOTATION, None)]), |seen| {
                let ours = matches!(&seen.order, Some(Ok(order)) if order.id == *id);
                let taken_up = seen.result.as_ref().is_some_and(|result| result.id == *id);
                if ours && !taken_up { Ok(()) } else { Err(taken_up) }
            })
            .await;
        let text = match withdrawn {
            Ok(Ok(())) => match &seen.holder {
                Some(holder) => {
                    format!("nobody took the order up in time (the Lease is held by {holder}); withdrawn")
                }
                None => "nobody took the order up in time (nobody holds the Lease); withdrawn".to_owned(),
            },
            Ok(Err(true)) => "taken up and not ended in time; it goes on, see 'pgbaton status'".to_owned(),
            Ok(Err(false)) => "replaced by somebody; see 'pgbaton status'".to_owned(),
            Err(error) => format!("no end in time, and it could not be withdrawn: {error}"),
        };
        say(self.out, &format!("{words}: {text}"));
        End::Unknown
    }
}

#[cfg(test)]
#[path = "order_tests.rs"]
mod tests;
