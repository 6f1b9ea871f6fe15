//! Waiting: for how long, what is said meanwhile, and what ends it.

use std::io::Write;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::cli::order::say;

/// Why it stopped before its end.
pub(super) enum Halt {
    /// Ctrl-C.
    Interrupted,
    /// This did not come in time.
    Late(String),
    /// It must not or cannot go on.
    Refused(String),
}

/// What is awaited, said once each time it changes.
pub(super) struct Awaited {
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    /// Nothing is said before.
    quiet: Duration,
    pub(super) text: String,
    said: bool,
}

impl Awaited {
    pub(super) fn new(bound: Duration, quiet: Duration) -> Self {
        let since = Instant::now();
        Self {
            since,
            deadline: since + bound,
            quiet,
            text: String::new(),
            said: false,
        }
    }

    pub(super) fn note(&mut self, out: &mut impl Write, text: String) {
        if text != self.text {
            self.text = text;
            self.said = false;
        }
        if !self.said && self.since.elapsed() >= self.quiet {
            say(out, &format!("  waiting: {}", self.text));
            self.said = true;
        }
    }
}

/// True for good once `ended` has ended.
pub(super) fn signal(ended: impl Future<Output = ()> + Send + 'static) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        ended.await;
        sender.send_replace(true);
    });
    receiver
}

pub(super) async fn stopped(mut stop: watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
