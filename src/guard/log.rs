//! The guard's log. Nobody who enforces a permit may wait for whoever reads the container's log: lines go to a thread of their own, and
//! are lost when that one cannot keep up.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::live::lock;

/// Lines that may wait.
const WAITING: usize = 256;
/// How long the last lines get.
const FLUSH: Duration = Duration::from_millis(200);

static LINES: OnceLock<SyncSender<Line>> = OnceLock::new();
/// The other end, until somebody writes.
static WAITING_LINES: Mutex<Option<Receiver<Line>>> = Mutex::new(None);

enum Line {
    Text(Vec<u8>),
    /// Answered when everything before it is written.
    Flush(SyncSender<()>),
}

/// Starts the log with this filter (a level, or target=level,...) and format (`human` or `json`).
///
/// # Errors
/// When the filter makes no sense.
pub fn start(filter: &str, format: &str) -> anyhow::Result<()> {
    let targets: Targets = filter
        .parse()
        .with_context(|| format!("--log {filter} is neither a level nor a list of target=level"))?;
    // A word alone would be taken for a target, and a misspelt level would silence everything.
    for word in filter.split(',').filter(|w| !w.contains('=')) {
        word.trim().parse::<LevelFilter>().with_context(|| {
            format!("--log {filter}: '{word}' is no level (error, warn, info, debug, trace, off)")
        })?;
    }
    let (sender, receiver) = sync_channel(WAITING);
    if LINES.set(sender).is_ok() {
        *lock(&WAITING_LINES) = Some(receiver);
    }
    let registry = tracing_subscriber::registry().with(targets);
    let layer = tracing_subscriber::fmt::layer().with_writer(Lines);
    if format == "json" {
        registry.with(layer.json().flatten_event(true)).try_init()?;
    } else {
        registry
            .with(layer.with_ansi(false).with_target(false))
            .try_init()?;
    }
    Ok(())
}

/// Begins to write what was said. Not before the guard has become PostgreSQL's user: that is done with one thread only.
///
/// # Errors
/// When no thread can be started.
pub fn begin() -> io::Result<()> {
    if let Some(receiver) = lock(&WAITING_LINES).take() {
        std::thread::Builder::new()
            .name("log".to_owned())
            .stack_size(128 * 1024)
            .spawn(move || write(&receiver))?;
    }
    Ok(())
}

fn write(lines: &Receiver<Line>) {
    for line in lines {
        match line {
            // A log that nobody takes is no reason to end.
            Line::Text(text) => drop(io::stderr().lock().write_all(&text)),
            Line::Flush(done) => drop(done.send(())),
        }
    }
}

/// Writes a line if there is room for it.
pub fn say(text: &str) {
    Lines.take(text.as_bytes().to_vec());
}

/// Waits a bounded time until what was said is written.
pub fn flush() {
    let (done, written) = sync_channel(1);
    if LINES.get().is_some_and(|l| l.try_send(Line::Flush(done)).is_ok()) {
        let _ = written.recv_timeout(FLUSH);
    }
}

#[derive(Debug, Clone, Copy)]
struct Lines;

impl Lines {
    fn take(self, text: Vec<u8>) {
        if let Some(lines) = LINES.get() {
            let _ = lines.try_send(Line::Text(text));
        }
    }
}

impl Write for Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.take(text.to_vec());
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        *self
    }
}
