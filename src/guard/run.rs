//! The guard's life from start to the container's stop signal.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

use super::clock::boot_ms;
use super::command::ServerCommand;
use super::disk::{STATE_FILE, StateFile};
use super::live::Guard;
use super::prepare::{Asked, prepare};
use super::protocol::{DownReason, SOCKET_NAME, Server};
use super::socket;

/// A sidecar that spoke within this time is there.
const PRESENT_MS: u64 = 2000;
/// How long the last answers get on their way out.
const FAREWELL: Duration = Duration::from_millis(200);

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn note_stop(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

/// Runs the guard until the container is stopped.
///
/// # Errors
/// When the guard cannot guard here; nothing was started then.
pub fn run(asked: &Asked, words: &[String]) -> anyhow::Result<ExitCode> {
    // A guard with a dead thread guards nothing. Its own end ends the server.
    std::panic::set_hook(Box::new(|panic| {
        super::log::say(&format!("pgbaton guard: {panic}\n"));
        super::log::flush();
        std::process::abort();
    }));
    // Before anything is changed on disk.
    ServerCommand::parse(words, &asked.pgdata)?;
    let (settings, _lock) = prepare(asked)?;
    super::refusal::clear(&settings.run_dir);
    super::log::begin().context("cannot start the log's thread")?;
    let command = ServerCommand::parse(words, &settings.pgdata)?;
    catch_stop_signals()?;
    super::resident::cut_code();
    let state_file = StateFile(settings.state_dir.join(STATE_FILE));
    let state = state_file.load()?;
    let guard = Arc::new(Guard::new(settings, command, state, state_file));
    start_thread(&guard, "reaper", |g| g.children.reap(|| g.nudge()))?;
    let _keeper = if guard.settings.is_init {
        None
    } else {
        set_child_subreaper(true).context("cannot become the reaper of PostgreSQL's orphans")?;
        tracing::warn!(
            "the guard is not PID 1: a second process ends PostgreSQL if the guard dies, the kernel does not"
        );
        guard.start_keeper().context("cannot start the keeper")?
    };
    let ended = guard.belongs.kill_all(&guard.spared());
    if ended > 0 {
        tracing::warn!(
            ended,
            "ended processes of PostgreSQL that were there before the guard"
        );
    }
    guard.take_stock().with_context(|| {
        format!(
            "cannot read or write {} and what is beside it",
            guard.settings.pgdata.display()
        )
    })?;
    start_thread(&guard, "permit", Guard::enforce_permit)?;
    start_thread(&guard, "processes", Guard::watch_processes)?;
    start_thread(&guard, "files", Guard::watch_files)?;
    let listener = socket::listen(&guard).with_context(|| {
        format!(
            "cannot listen on {}",
            guard.settings.run_dir.join(SOCKET_NAME).display()
        )
    })?;
    start_thread(&guard, "socket", move |g| socket::serve(g, &listener))?;
    {
        let live = guard.live();
        tracing::info!(
            pgdata = %guard.settings.pgdata.display(), data = ?live.data, highest_term = %live.highest_term,
            boot_id = guard.boot_id, "guarding; waiting for orders"
        );
    }
    while !STOP.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    guard.end();
    super::log::flush();
    Ok(ExitCode::SUCCESS)
}

fn start_thread(
    guard: &Arc<Guard>,
    name: &str,
    body: impl FnOnce(&Arc<Guard>) + Send + 'static,
) -> anyhow::Result<()> {
    let guard = Arc::clone(guard);
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(256 * 1024)
        .spawn(move || body(&guard))
        .with_context(|| format!("cannot start the thread '{name}'"))?;
    Ok(())
}

fn catch_stop_signals() -> anyhow::Result<()> {
    let action = SigAction::new(
        SigHandler::Handler(note_stop),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGQUIT] {
        // SAFETY: the handler only stores into an atomic, which is allowed in one.
        #[allow(
            unsafe_code,
            reason = "the only way to catch a signal; a blocked one would be blocked in the server too"
        )]
        unsafe { sigaction(signal, &action) }.with_context(|| format!("cannot catch {signal}"))?;
    }
    Ok(())
}

impl Guard {
    /// After the stop signal: lets the sidecar hand over and stop the server, or stops it when there is none.
    fn end(self: &Arc<Self>) {
        self.update(|live| live.stopping = true);
        tracing::info!("stop signal: handing over");
        let end = Instant::now() + self.settings.stop_timeout;
        loop {
            let live = self.live();
            let down = matches!(live.server, Server::Down { .. });
            let present = live
                .last_contact
                .is_some_and(|at| boot_ms().saturating_sub(at) <= PRESENT_MS);
            drop(live);
            if down {
                break;
            }
            if !present || Instant::now() >= end {
                tracing::info!(present, "no order to stop came: stopping the server fast");
                self.stop_by_itself();
                break;
            }
            drop(self.wait(self.live(), Duration::from_millis(50)));
        }
        // The sidecar reads the end of WAL from the answer to its order, or from one status more.
        let order = self.orders.try_lock();
        std::thread::sleep(FAREWELL);
        drop(order);
        self.end_operation();
        self.belongs.kill_all(&self.spared());
        tracing::info!("the server is down: ending");
    }

    fn stop_by_itself(self: &Arc<Self>) {
        // An order that hangs must not keep the server running.
        let end = Instant::now() + Duration::from_secs(1);
        let order = loop {
            match self.orders.try_lock() {
                Ok(order) => break Some(order),
                Err(_) if Instant::now() >= end => break None,
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        self.stop_server(self.settings.stop_timeout, DownReason::Stopped);
        self.read_rest(None);
        drop(order);
    }
}
