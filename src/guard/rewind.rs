//! Makes PGDATA a copy of another server from the point where they diverged. A rewind that dies leaves PGDATA unusable, so it is marked
//! as such from before until after.

use std::path::Path;
use std::sync::Arc;

use super::control::{Control, ControlState, major_version};
use super::disk::{DATA_ID_FILE, Unfinished, lay_file, remove_if_there, sync_parent};
use super::housekeeping::{mark_with, new_data_id};
use super::live::{Guard, lock};
use super::protocol::{DataState, Upstream};
use super::server::{Outcome, wrong_state};
use super::settings::{Desired, conninfo, write_passfile};
use super::timelines::history_name;
use crate::core::types::{DataId, Timeline};

/// What pg_rewind says before it begins to change files of its own accord.
const BEGINS_TO_CHANGE: &str = "reading source file list";
/// The first version with `--config-file`.
const CONFIG_FILE_SINCE: u32 = 15;

impl Guard {
    /// Begins a rewind.
    ///
    /// # Errors
    /// When there is no database, or pg_rewind of this version cannot do it here: nothing was changed.
    pub fn rewind(
        self: &Arc<Self>,
        upstream: Upstream,
        timeline: Timeline,
        source_major: Option<u32>,
        sequence: u64,
    ) -> Outcome {
        if self.live().data != DataState::Complete {
            return wrong_state("PGDATA holds no complete database: only a clone helps");
        }
        let major = major_version(&self.settings.pgdata);
        self.check_data_version(major)?;
        self.check_source_version(upstream.host.as_str(), source_major)?;
        if let Some(major) = major.filter(|m| *m < CONFIG_FILE_SINCE) {
            return wrong_state(format!(
                "pg_rewind of PostgreSQL {major} has no --config-file (since {CONFIG_FILE_SINCE}), so it cannot recover a server whose \
                 configuration lies outside PGDATA: a clone is made instead"
            ));
        }
        self.write_settings(&Desired::default())?;
        self.operate("rewind", sequence, None, move |guard| {
            guard.make_rewind(&upstream, timeline)
        });
        Ok(())
    }

    fn make_rewind(self: &Arc<Self>, upstream: &Upstream, timeline: Timeline) -> Result<(), String> {
        let passfile = self.settings.run_dir.join("passfile.rewind");
        let old = self.state().data_id;
        let begun = self
            .begin(upstream, &passfile)
            .map_err(|e| format!("cannot prepare the rewind: {e}"));
        let result = begun.and_then(|()| self.run_rewind(upstream, &passfile));
        let _ = remove_if_there(&passfile);
        let order = lock(&self.orders);
        let ended = match result {
            Ok(output) => self.finish(&output, timeline),
            Err(why) if why.contains(BEGINS_TO_CHANGE) => Err(format!(
                "{why}\nPGDATA is not usable any more: only a clone helps"
            )),
            Err(why) => match self.restore(old) {
                Ok(()) => Err(format!("{why}\nPGDATA is as it was")),
                Err(e) => Err(format!(
                    "{why}\nPGDATA could not be marked as unchanged ({e}): only a clone helps"
                )),
            },
        };
        drop(order);
        ended
    }

    fn begin(&self, upstream: &Upstream, passfile: &Path) -> std::io::Result<()> {
        let pgdata = &self.settings.pgdata;
        self.secrets.remember(&upstream.password.0);
        write_passfile(passfile, upstream)?;
        self.save(|state| {
            state.unfinished = Some(Unfinished::Rewind);
            state.data_id = None;
        })?;
        remove_if_there(&pgdata.join(DATA_ID_FILE))?;
        remove_if_there(&pgdata.join("postmaster.pid"))?;
        super::prepare::restrict(pgdata)?;
        self.clean_auto_conf(pgdata)?;
        let clean = matches!(
            Control::read(pgdata)?.state,
            ControlState::ShutDown | ControlState::ShutDownInRecovery
        );
        if !clean {
            // pg_rewind recovers an unclean server in single-user mode, which does not start with the file.
            remove_if_there(&self.standby_signal())?;
        }
        self.find_out()
    }

    fn run_rewind(&self, upstream: &Upstream, passfile: &Path) -> Result<String, String> {
        let mut command = self.tool("pg_rewind");
        command
            .arg("--target-pgdata")
            .arg(&self.settings.pgdata)
            .arg("--source-server")
            .arg(conninfo(upstream, passfile, Some("postgres")))
            .arg("--progress");
        let mut option = std::ffi::OsString::from("--config-file=");
        option.push(self.settings.config_file());
        command.arg(option);
        let (exit, words) = self.run_long(command, None)?;
        let output = words.last();
        if exit.is_success() {
            Ok(output)
        } else {
            Err(format!(
                "pg_rewind from {} failed ({exit}): {output}",
                upstream.host
            ))
        }
    }

    fn finish(&self, output: &str, timeline: Timeline) -> Result<(), String> {
        let pgdata = &self.settings.pgdata;
        let rewound = output.contains(BEGINS_TO_CHANGE);
        let history = pgdata.join("pg_wal").join(history_name(timeline));
        if rewound && timeline.0 > 1 && !history.exists() {
            return Err(format!(
                "the source was not on timeline {timeline}: PGDATA is not usable any more, only a clone helps"
            ));
        }
        let data_id = new_data_id();
        let mark = || {
            for file in ["recovery.signal", "promote"] {
                remove_if_there(&pgdata.join(file))?;
            }
            // pg_rewind copied the source's.
            self.clean_auto_conf(pgdata)?;
            lay_file(&self.standby_signal())?;
            mark_with(pgdata, &data_id)?;
            self.save(|state| {
                state.renew(Some(data_id.clone()));
                state.unfinished = None;
            })
        };
        mark().map_err(|e| format!("the rewound PGDATA could not be marked: {e}"))?;
        tracing::info!(rewound, "pg_rewind ended well");
        Ok(())
    }

    /// pg_rewind refused before it changed anything.
    fn restore(&self, old: Option<DataId>) -> std::io::Result<()> {
        lay_file(&self.standby_signal())?;
        if let Some(old) = &old {
            mark_with(&self.settings.pgdata, old)?;
        }
        self.save(|state| {
            state.unfinished = None;
            state.data_id = old;
        })?;
        sync_parent(&self.standby_signal())
    }
}
