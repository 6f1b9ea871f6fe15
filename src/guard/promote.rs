//! Promotes the standby: under a live permit, after a pledge, to a timeline of the leader's choice (invariant 8).

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::boot_ms;
use super::control::{Control, ControlState};
use super::disk::{lay_file, remove_if_there};
use super::live::{Guard, Role};
use super::protocol::{DownReason, Refusal, Server};
use super::server::{Outcome, Problem, wrong_state};
use super::timelines::{history_name, with_history, with_segments};
use crate::core::types::{Position, Term, Timeline};

/// How long a promotion may take; the permit usually ends it before.
const PROMOTION: Duration = Duration::from_secs(60);

impl Guard {
    /// Promotes the running standby; on success it is in production on this timeline.
    ///
    /// # Errors
    /// Without permit or pledge, when a number is used already, or when PostgreSQL does not do it.
    pub fn promote(self: &Arc<Self>, term: Term, timeline: Timeline) -> Outcome {
        let pgdata = self.settings.pgdata.clone();
        let (role, pledge) = {
            let live = self.live();
            (live.role, live.pledge.clone())
        };
        if role != Role::Standby {
            return wrong_state("no standby runs here that could be promoted");
        }
        if pledge.as_ref().is_none_or(|p| p.term != term) {
            return Err(Problem::Refused(
                Refusal::NotPermitted,
                format!("a promotion in term {term} needs a pledge to it first"),
            ));
        }
        self.lay_histories(timeline, pledge.and_then(|p| p.position))?;
        let fences = self.update(|live| {
            let permitted = live
                .permit
                .is_some_and(|p| p.term == term && p.deadline_boot_ms > boot_ms());
            (permitted && live.role == Role::Standby).then(|| {
                live.role = Role::Promoting;
                live.fences
            })
        });
        let Some(fences) = fences else {
            self.unbar_numbers()?;
            return Err(Problem::Refused(
                Refusal::NotPermitted,
                format!("a promotion needs a live permit of term {term}"),
            ));
        };
        let began = Instant::now();
        let result = self.run_promotion(&pgdata, fences);
        // From now on the watcher removes it again; a promotion that did not happen must not happen later.
        let _ = remove_if_there(&pgdata.join("promote"));
        if let Err(problem) = result {
            self.update(|live| {
                if live.fences == fences && live.role == Role::Promoting {
                    live.role = Role::Standby;
                }
            });
            return Err(problem);
        }
        self.check_timeline(timeline)?;
        let done = self.update(|live| {
            let ours = live.fences == fences && live.role == Role::Promoting;
            if ours {
                live.role = Role::Primary;
                live.server = Server::Primary;
            }
            ours
        });
        if !done {
            return Err(Problem::Failed(
                "the permit ended during the promotion".to_owned(),
            ));
        }
        tracing::info!(%term, %timeline, ms = began.elapsed().as_millis(), "promoted");
        Ok(())
    }

    fn run_promotion(&self, pgdata: &Path, fences: u64) -> Outcome {
        let mut command = self.tool("pg_ctl");
        command.arg("promote").arg("-W").arg("-D").arg(pgdata);
        let (exit, output) = self.run_tool(&mut command, Duration::from_secs(10))?;
        if !exit.is_success() {
            return Err(Problem::Failed(format!(
                "pg_ctl promote failed ({exit}): {output}"
            )));
        }
        let end = Instant::now() + PROMOTION;
        loop {
            if matches!(Control::read(pgdata), Ok(c) if c.state == ControlState::InProduction) {
                return Ok(());
            }
            let live = self.live();
            if live.fences != fences || live.role != Role::Promoting {
                return Err(Problem::Failed(
                    "the server ended during the promotion".to_owned(),
                ));
            }
            drop(live);
            if Instant::now() >= end {
                return Err(Problem::Failed(format!(
                    "the server did not leave recovery within {} s of pg_ctl promote",
                    PROMOTION.as_secs()
                )));
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Bars every number below `timeline` that has no history, so that PostgreSQL takes exactly this one (invariant 8).
    fn lay_histories(&self, timeline: Timeline, held: Option<Position>) -> Outcome {
        let pg_wal = self.settings.pgdata.join("pg_wal");
        let there = with_history(&pg_wal)?;
        let newest = with_segments(&pg_wal)?
            .into_iter()
            .chain(there.iter().copied())
            .max();
        if newest.is_some_and(|n| n >= timeline) {
            return wrong_state(format!(
                "timeline {} is in pg_wal already, so {timeline} cannot be a new one here",
                newest.unwrap_or(timeline)
            ));
        }
        let from = held.map_or(1, |p| p.timeline.0) + 1;
        for number in from..timeline.0 {
            if !there.contains(&Timeline(number)) {
                lay_file(&pg_wal.join(history_name(Timeline(number))))?;
            }
        }
        Ok(())
    }

    /// Takes away bars above every timeline that is really here, left by a promotion that never came about. A server that recovers takes
    /// the highest number for its history, finds none in the empty file, and waits for ever; the next promotion lays them again.
    ///
    /// # Errors
    /// Of the file system.
    pub fn unbar_numbers(&self) -> std::io::Result<()> {
        let pg_wal = self.settings.pgdata.join("pg_wal");
        let file = |number: Timeline| pg_wal.join(history_name(number));
        let (mut bars, mut newest) = (Vec::new(), with_segments(&pg_wal)?.last().copied());
        for number in with_history(&pg_wal)? {
            if fs::metadata(file(number))?.len() == 0 {
                bars.push(number);
            } else {
                newest = newest.max(Some(number));
            }
        }
        for number in bars.into_iter().filter(|n| Some(*n) > newest) {
            tracing::info!(timeline = %number, "took away the bar of a promotion that never came about");
            remove_if_there(&file(number))?;
        }
        Ok(())
    }

    /// The promotion made this timeline and no other; else the server is ended.
    fn check_timeline(self: &Arc<Self>, timeline: Timeline) -> Outcome {
        let path = self.settings.pgdata.join("pg_wal").join(history_name(timeline));
        let made = fs::metadata(&path).is_ok_and(|m| m.len() > 0);
        if made {
            return Ok(());
        }
        let detail = format!("the promotion did not make timeline {timeline}");
        self.fence(DownReason::Unpermitted, &detail, |_| true);
        Err(Problem::Failed(detail))
    }
}
