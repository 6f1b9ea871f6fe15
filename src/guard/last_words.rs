//! The last lines that a server wrote: why it died, for the status. They leave this container, so they are bounded and hold no password.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::live::{Guard, lock};
use super::protocol::{DownReason, Server};

/// Lines of the server's output that are kept for the status.
const KEPT_LINES: usize = 8;
/// Longest of them, in characters.
const KEPT_CHARS: usize = 300;
/// Longest piece of a line that is looked at: one without an end must not fill the memory.
const LONGEST_PIECE: u64 = 64 * 1024;
/// A shorter password is no secret, and hiding it would hide half of every text.
const SHORTEST_SECRET: usize = 4;
/// Passwords that are remembered: the image's own and those of the last upstreams.
const REMEMBERED: usize = 16;
/// Longest password file of the image that is read.
const LONGEST_SECRET: u64 = 4096;
const HIDDEN: &str = "(hidden)";

/// Passwords that this guard has met.
#[derive(Debug)]
pub struct Secrets(Mutex<VecDeque<String>>);

impl Default for Secrets {
    /// Those of the image's environment.
    fn default() -> Self {
        let secrets = Self(Mutex::default());
        for name in ["POSTGRES_PASSWORD", "PGPASSWORD"] {
            secrets.remember(&std::env::var(name).unwrap_or_default());
        }
        if let Some(path) = std::env::var_os("POSTGRES_PASSWORD_FILE") {
            let mut text = String::new();
            let read = std::fs::File::open(path).map(|f| f.take(LONGEST_SECRET).read_to_string(&mut text));
            if read.is_ok() {
                secrets.remember(text.trim_end_matches(['\n', '\r']));
            }
        }
        secrets
    }
}

impl Secrets {
    /// Remembers one.
    pub fn remember(&self, secret: &str) {
        let mut known = lock(&self.0);
        if secret.len() < SHORTEST_SECRET || known.iter().any(|k| k == secret) {
            return;
        }
        // The first ones are the image's: they stay.
        if known.len() >= REMEMBERED {
            known.remove(REMEMBERED / 2);
        }
        known.push_back(secret.to_owned());
    }

    /// The text without passwords: known ones, and whatever is written like one.
    #[must_use]
    pub fn hide(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in lock(&self.0).iter() {
            for written in [secret.replace('\'', "''"), secret.clone()] {
                if text.contains(&written) {
                    text = text.replace(&written, HIDDEN);
                }
            }
        }
        let lines: Vec<String> = text.split('\n').map(without_written).collect();
        lines.join("\n")
    }
}

/// Cuts a line behind `password` when a value follows, as in a statement or a connection string.
fn without_written(line: &str) -> String {
    let word = "password";
    let lower = line.to_ascii_lowercase();
    let mut from = 0;
    while let Some(at) = lower[from..].find(word) {
        let end = from + at + word.len();
        let rest = lower[end..].trim_start_matches(|c: char| c.is_whitespace() || c == '"');
        let value =
            rest.starts_with(['=', '\'', '$', ':']) || rest.starts_with("e'") || rest.starts_with("u&'");
        if value {
            return format!("{} {HIDDEN}", &line[..end]);
        }
        from = end;
    }
    line.to_owned()
}

/// What one server wrote, from its start until all of its processes have ended.
#[derive(Debug, Default)]
pub struct Output {
    kept: Mutex<Kept>,
    closed: Condvar,
}

#[derive(Debug, Default)]
struct Kept {
    lines: VecDeque<String>,
    is_closed: bool,
}

impl Output {
    /// The last lines that were read so far.
    #[must_use]
    pub fn words(&self) -> String {
        lock(&self.kept).words()
    }

    /// The last lines; waits this long for those that are still in the pipe.
    #[must_use]
    pub fn all_words(&self, budget: Duration) -> String {
        let kept = lock(&self.kept);
        let waited = self.closed.wait_timeout_while(kept, budget, |k| !k.is_closed);
        waited
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .0
            .words()
    }

    fn keep(&self, line: String) {
        let mut kept = lock(&self.kept);
        if kept.lines.len() >= KEPT_LINES {
            kept.lines.pop_front();
        }
        kept.lines.push_back(line);
    }

    fn close(&self) {
        lock(&self.kept).is_closed = true;
        self.closed.notify_all();
    }
}

impl Kept {
    fn words(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        lines.join("\n")
    }
}

impl Guard {
    /// Passes the server's messages on to the container's log and keeps the last ones.
    pub fn pass_on(&self, from: impl Read, output: &Arc<Output>) {
        self.read_output(from, output);
        output.close();
        self.complete_words(output);
    }

    /// Whoever noticed the server's end did not wait for the lines that were still in the pipe: they are added here.
    fn complete_words(&self, output: &Arc<Output>) {
        self.update(|live| {
            let own = Arc::ptr_eq(&live.output, output);
            if let Server::Down {
                reason: DownReason::Crashed,
                detail,
            } = &mut live.server
                && own
            {
                let exit = detail.lines().next().unwrap_or_default();
                *detail = format!("{exit}\n{}", output.words());
            }
        });
    }

    fn read_output(&self, from: impl Read, output: &Output) {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match reader.by_ref().take(LONGEST_PIECE).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
            let _ = std::io::stderr().lock().write_all(&line);
            // Hidden before it is cut: half a password would not be recognised.
            let text = self.secrets.hide(String::from_utf8_lossy(&line).trim_end());
            let text: String = text.chars().take(KEPT_CHARS).collect();
            output.keep(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_still_in_the_pipe_are_waited_for() {
        let output = Arc::new(Output::default());
        output.keep("first".to_owned());
        let writer = {
            let output = Arc::clone(&output);
            std::thread::spawn(move || {
                // As soon as somebody waits, or has all: either order gives both lines.
                output.keep("last".to_owned());
                output.close();
            })
        };
        assert_eq!(output.all_words(Duration::from_secs(60)), "first\nlast");
        writer.join().unwrap();
        let open = Output::default();
        assert_eq!(open.all_words(Duration::ZERO), "", "bounded");
        for n in 0..100 {
            open.keep(n.to_string());
        }
        assert_eq!(open.words().lines().count(), KEPT_LINES);
    }

    #[test]
    fn passwords_are_hidden_and_the_rest_stays() {
        let secrets = Secrets(Mutex::default());
        secrets.remember("it's:secret");
        secrets.remember("abc");
        for (text, shown) in [
            (
                "FATAL:  role \"abc\" is missing",
                "FATAL:  role \"abc\" is missing",
            ),
            ("+ export X=it's:secret done", "+ export X=(hidden) done"),
            ("set x = 'it''s:secret'", "set x = '(hidden)'"),
            (
                "STATEMENT:  ALTER ROLE a PASSWORD 'other' LOGIN",
                "STATEMENT:  ALTER ROLE a PASSWORD (hidden)",
            ),
            ("a\nb password = 'x'\nc", "a\nb password (hidden)\nc"),
            ("create role a password E'x'", "create role a password (hidden)"),
            ("\"password\": \"x\"", "\"password (hidden)"),
            (
                "FATAL:  password authentication failed for user \"a\", password=b",
                "FATAL:  password authentication failed for user \"a\", password (hidden)",
            ),
            (
                "LOG: \u{130} password authentication",
                "LOG: \u{130} password authentication",
            ),
        ] {
            assert_eq!(secrets.hide(text), shown);
        }
        for n in 0..100 {
            secrets.remember(&format!("secret-{n}"));
        }
        assert!(lock(&secrets.0).len() <= REMEMBERED);
        assert_eq!(secrets.hide("it's:secret secret-99"), "(hidden) (hidden)");
    }
}
