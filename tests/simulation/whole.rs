//! Whether the cluster is whole, and the story of how it came to be, or not.

use std::fmt::Write as _;

use pgbaton::core::observe::RecordView;
use pgbaton::core::record::Durability;

use crate::machine::Proc;
use crate::wal;
use crate::world::World;

/// Lines of the story that are told.
const TOLD: usize = 160;
/// Things that happen between two looks whether it is whole.
const BETWEEN: u64 = 16;

impl World {
    pub fn note(&mut self, what: &str) {
        self.story.push(format!("{:>7} {what}", self.now));
    }

    pub fn until_whole(&mut self, millis: u64) -> u64 {
        let began = self.now;
        self.run(0);
        loop {
            match self.wants_for_whole() {
                None => return self.now - began,
                Some(missing) => assert!(
                    self.now < began + millis,
                    "after {millis} ms not whole: {missing}\n{}",
                    self.tell()
                ),
            }
            for _ in 0..BETWEEN {
                self.step();
            }
        }
    }

    /// What is missing for a whole cluster.
    pub fn wants_for_whole(&self) -> Option<&'static str> {
        let Some(primary) = self.primary() else {
            return Some("a primary");
        };
        let lease = self.api.lease()?;
        let record = lease.record()?;
        if lease.holder.as_deref() != Some(self.sidecars[primary].settings.holder.as_str()) {
            return Some("the primary holds the Lease");
        }
        let own = &self.machines[primary].data.as_ref()?.wal;
        for (member, machine) in self.machines.iter().enumerate() {
            if member == primary {
                continue;
            }
            if machine.proc != Proc::Standby || machine.stream.is_none_or(|(to, _, _)| to != primary) {
                return Some("every standby streams");
            }
            let theirs = machine.data.as_ref().map_or(&[][..], |d| &d.wal);
            if !wal::is_within(theirs, own) || theirs.len() + 50 < own.len() {
                return Some("every standby keeps up");
            }
        }
        if record.step.is_some() {
            return Some("no step is left in the record");
        }
        let full = self.plan.members - 1;
        let sync = self.plan.durability == Durability::Sync;
        if record.sync_sets.len() != 1 || (sync && record.sync_sets[0].standbys.len() != full) {
            return Some("one full sync set");
        }
        (sync && self.machines[primary].names != record.current_set().names()).then_some("the names are set")
    }

    /// The recorded primary, when it runs read-write.
    pub fn primary(&self) -> Option<usize> {
        let lease = self.api.lease()?;
        let named = lease.record()?.primary.as_ref()?.data();
        let index = self.machines.iter().position(|m| m.is(&named))?;
        self.machines[index].writes(self.now).then_some(index)
    }

    pub fn show(&mut self) {
        for member in 0..self.plan.members {
            let machine = &self.machines[member];
            let last = self.sidecars[member]
                .last
                .as_ref()
                .filter(|_| self.sidecars[member].up);
            let line = format!(
                "{:?} {} | {}",
                machine.proc,
                if machine.up { "" } else { "(no container)" },
                last.map_or("no sidecar".to_owned(), |d| {
                    let why: String = d.why.to_string();
                    let cut = why.find(" ms").map_or(why.len(), |_| why.len().min(60));
                    let words = why.chars().take(cut).filter(|c| !c.is_ascii_digit());
                    format!("{:?}: {}", d.phase, words.collect::<String>())
                })
            );
            if self.shown[member] != line {
                let text = format!("    {} {line}", machine.name);
                self.shown[member] = line;
                self.note(&text);
            }
        }
    }

    /// The story so far, its end, and how things stand.
    pub fn tell(&self) -> String {
        let mut text = String::new();
        let from = self.story.len().saturating_sub(TOLD);
        for line in &self.story[from..] {
            let _ = writeln!(text, "{line}");
        }
        if let Some(lease) = self.api.lease() {
            let _ = writeln!(text, "Lease: holder {:?}, term {}", lease.holder, lease.term);
            if let RecordView::Good(record) = &lease.record {
                let _ = writeln!(text, "record: {}", record.render());
            }
        }
        for (index, machine) in self.machines.iter().enumerate() {
            let length = machine.data.as_ref().map_or(0, |d| d.wal.len());
            let sidecar = &self.sidecars[index];
            let _ = writeln!(
                text,
                "{}: {:?} data {:?} length {length} flushed {} position {:?} pledge {:?} permit {:?} boot clock {} highest {} names {} \
                 following {:?} stream {:?} running {:?} rest {:?} busy {:?} lanes {:?} unreadable {} not before {:?} now {}",
                machine.name,
                machine.proc,
                machine.data.as_ref().map(|d| d.id.to_string()),
                machine.flushed,
                machine.data.as_ref().and_then(|d| wal::position(&d.wal)),
                machine.pledge,
                machine.permit,
                machine.boot_now(),
                machine.highest_term,
                machine.names,
                machine.following,
                machine.stream,
                machine.running.as_ref().map(|r| &r.order),
                machine.rest,
                machine.busy.as_ref().map(|b| &b.order),
                sidecar.seen.lanes,
                sidecar.state.rejoin.unreadable,
                sidecar.state.guard_not_before,
                sidecar.live(),
            );
        }
        let _ = writeln!(
            text,
            "acknowledged: {}, last {:?}",
            self.checks.acked.len(),
            self.checks.acked.last()
        );
        text
    }
}
