//! Complete data without pgbaton's files: what it is, and how it becomes a member's. A guard never touches or starts it by itself.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::control::Control;
use super::disk::State;
use super::housekeeping::{data_id_in, mark_with, new_data_id};
use super::live::{Guard, Role};
use super::protocol::{DataState, FoundData, Order};
use super::server::{Outcome, wrong_state};
use super::settings::{Values, connection_value};
use super::timelines::Chain;
use super::wal::end_of_record;

impl Guard {
    /// What complete data that pgbaton does not know of is by its own files; none: it is known, or there is none.
    #[must_use]
    pub fn found_data(&self, state: &State, control: Option<&Control>) -> Option<FoundData> {
        let control = control?;
        let pgdata = &self.settings.pgdata;
        let adopting = state.adopting == Some(control.system_identifier);
        if !is_unknown(state, pgdata) && !adopting {
            return None;
        }
        // Whoever recovers from an archive is no primary either.
        let recovers = |file: &str| pgdata.join(file).exists();
        let standby = !adopting && (recovers("standby.signal") || recovers("recovery.signal"));
        let mut theirs = Values::default();
        theirs.read(&self.command.config_file, 0);
        theirs.read(&pgdata.join("postgresql.auto.conf"), 0);
        let conninfo = theirs.get("primary_conninfo").unwrap_or_default();
        Some(FoundData {
            standby,
            upstream: connection_value(conninfo, "host"),
            application_name: connection_value(conninfo, "application_name"),
            slot: theirs
                .get("primary_slot_name")
                .filter(|s| !s.is_empty())
                .map(str::to_owned),
            end: None,
            history: Vec::new(),
        })
    }

    /// Reads where the WAL of found data ends, once for each state of its control file. Called while no server runs and no order works.
    pub fn look_at_found(&self) {
        let pgdata = &self.settings.pgdata;
        let control = Control::read(pgdata).ok();
        {
            let live = self.live();
            let known = live.found_as == control && live.found.as_ref().is_some_and(|f| f.end.is_some());
            let tried = live.found_as == control && live.found_tried;
            if live.found.is_none() || live.role != Role::None || live.fresh_copy || known || tried {
                return;
            }
        }
        let position = self.read_rest(None);
        let end = position.and_then(|p| {
            let end = end_of_record(pgdata, p);
            let chain = Chain::read(&pgdata.join("pg_wal"), p.timeline);
            let problem = end.as_ref().err().map(ToString::to_string);
            self.warn("end of the last record", problem);
            Some((end.ok()?, chain.ok().flatten()?.0))
        });
        self.update(|live| {
            live.found_as = control;
            live.found_tried = true;
            if let (Some(found), Some((end, history))) = (&mut live.found, end) {
                found.end = Some(end);
                found.history = history;
            }
        });
    }

    /// Makes data that was found a member's: it gets its data id. On disk before it is told.
    ///
    /// # Errors
    /// When there is no such data, or a primary's data runs.
    pub fn adopt(self: &Arc<Self>) -> Outcome {
        let (data, found, down) = {
            let live = self.live();
            (live.data, live.found.clone(), live.role == Role::None)
        };
        let (DataState::Complete, Some(found)) = (data, found) else {
            return wrong_state("there is no data here that waits to be adopted");
        };
        if !found.standby && !down {
            return wrong_state("the data is a primary's, and a server runs on it");
        }
        let pgdata = &self.settings.pgdata;
        let system_identifier = Control::read(pgdata)?.system_identifier;
        let data_id = new_data_id();
        tracing::info!(%data_id, standby = found.standby, "adopting the data in {}", pgdata.display());
        // First the promise, then the mark: a guard that dies in between finds both or finishes.
        self.save(|state| {
            state.data_id = Some(data_id.clone());
            state.adopting = (!found.standby).then_some(system_identifier);
        })?;
        mark_with(pgdata, &data_id)?;
        self.find_out()?;
        Ok(())
    }

    /// A guard that died while it adopted a primary's data: finishes what it had promised.
    ///
    /// # Errors
    /// Of the file system.
    pub fn finish_adoption(&self, state: &State, control: Option<&Control>) -> io::Result<()> {
        let pgdata = &self.settings.pgdata;
        let promised = control.is_some_and(|c| state.adopting == Some(c.system_identifier));
        match &state.data_id {
            Some(data_id) if promised && data_id_in(pgdata).is_none() => mark_with(pgdata, data_id),
            _ => Ok(()),
        }
    }

    /// Refuses what would start or change data that was never adopted.
    ///
    /// # Errors
    /// What must be done first.
    pub fn must_be_adopted(&self, order: &Order) -> Outcome {
        let live = self.live();
        let Some(found) = live.found.as_ref().filter(|_| live.data_id.is_none()) else {
            return Ok(());
        };
        let changes = matches!(
            order,
            Order::StartPrimary { .. } | Order::Promote { .. } | Order::Rewind { .. }
        );
        // A standby's data may go on as a standby's, and may be copied anew.
        let of_standbys = matches!(
            order,
            Order::Follow { .. } | Order::StandAlone { .. } | Order::Clone { .. }
        );
        if changes || (of_standbys && !found.standby) {
            return wrong_state(
                "the data here was made without pgbaton and was never adopted: it is neither started nor changed",
            );
        }
        Ok(())
    }

    /// The adopted primary's data is about to be started: from now on it is a member's as any other.
    ///
    /// # Errors
    /// Of the file system.
    pub fn end_adoption(&self) -> Outcome {
        self.save(|state| state.adopting = None)?;
        self.update(|live| live.found = None);
        Ok(())
    }

    /// `standby.signal` tells whose data it was: it is not laid into a primary's data that was never adopted.
    #[must_use]
    pub fn is_found_primary(&self) -> bool {
        let live = self.live();
        let unadopted = live.data_id.is_none() && live.data == DataState::Complete;
        unadopted && live.found.as_ref().is_some_and(|f| !f.standby)
    }
}

/// As `Guard::found_data` compares two looks: by what the files say, not by what was read of the WAL.
#[must_use]
pub fn same_files(old: Option<&FoundData>, new: Option<&FoundData>) -> bool {
    let files = |f: &FoundData| FoundData {
        end: None,
        history: Vec::new(),
        ..f.clone()
    };
    old.map(files) == new.map(files)
}

/// True for data that has none of pgbaton's files: it waits to be adopted.
#[must_use]
pub fn is_unknown(state: &State, pgdata: &Path) -> bool {
    state.data_id.is_none() && data_id_in(pgdata).is_none()
}
