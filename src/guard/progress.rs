//! What a long program writes: its progress, told in the status and the log, and its last words.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use super::live::Guard;

/// Last lines that are kept for an error's text.
const KEPT_LINES: usize = 20;
/// Longest of them.
const KEPT_BYTES: usize = 1000;
/// Progress is logged at each tenth, and at least so often while it is told.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What copying so much needs: databases grow while they are copied, and their WAL comes on top.
#[must_use]
pub fn with_reserve(bytes: u64) -> u64 {
    bytes.saturating_add(bytes / 10)
}

/// A program's output, read as it comes.
#[derive(Debug)]
pub struct Words {
    kept: Vec<String>,
    /// Bytes that there is room for; none: not asked.
    room: Option<u64>,
    /// The program said that it needs so much, which there is no room for.
    pub too_big: Option<u64>,
    logged: (u64, Instant),
}

impl Words {
    /// Nothing yet. A program that says that it will write more than `room` is ended.
    #[must_use]
    pub fn new(room: Option<u64>) -> Self {
        Self {
            kept: Vec::new(),
            room,
            too_big: None,
            logged: (0, Instant::now()),
        }
    }

    /// The last lines that were no progress.
    #[must_use]
    pub fn last(&self) -> String {
        self.kept.join("\n")
    }

    /// A tenth more is done, or nothing was logged for long.
    fn is_worth_a_line(&mut self, percent: u64) -> bool {
        let (logged, at) = self.logged;
        let worth = percent / 10 > logged / 10 || at.elapsed() >= LOG_EVERY;
        if worth {
            self.logged = (percent, Instant::now());
        }
        worth
    }
}

impl Guard {
    /// Reads until the program has closed its output.
    pub fn follow_output(&self, mut output: impl Read, words: &mut Words) {
        let mut line = Vec::new();
        let mut chunk = [0u8; 1024];
        loop {
            let read = match output.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            for &byte in &chunk[..read] {
                if byte == b'\n' || byte == b'\r' {
                    self.take_line(&String::from_utf8_lossy(&line), words);
                    line.clear();
                } else if line.len() < KEPT_BYTES {
                    line.push(byte);
                }
            }
        }
        self.take_line(&String::from_utf8_lossy(&line), words);
    }

    fn take_line(&self, line: &str, words: &mut Words) {
        let line = line.trim();
        let Some((done, total)) = progress(line) else {
            if !line.is_empty() {
                words.kept.push(line.to_owned());
                if words.kept.len() > KEPT_LINES {
                    words.kept.remove(0);
                }
            }
            return;
        };
        let told = self.update(|live| {
            live.operation.as_mut().map(|(operation, _)| {
                operation.bytes_done = done;
                operation.bytes_total = Some(total.max(operation.bytes_total.unwrap_or(0)));
                (
                    operation.kind.clone(),
                    total.max(operation.bytes_total.unwrap_or(0)),
                )
            })
        });
        if let Some((kind, total)) = told {
            let percent = done.saturating_mul(100) / total.max(1);
            if words.is_worth_a_line(percent) {
                tracing::info!(kind, bytes = done, of = total, percent, "operation goes on");
            }
        }
        // The size as the source itself counts it, told before the first byte comes.
        let needed = with_reserve(total);
        if words.too_big.is_none() && words.room.is_some_and(|room| needed > room) {
            words.too_big = Some(needed);
            self.end_operation();
        }
    }
}

/// Bytes done and in all, from a line such as `  2048/30720 kB (6%), 0/1 tablespace`.
fn progress(line: &str) -> Option<(u64, u64)> {
    let (done, rest) = line.split_once('/')?;
    let (total, _) = rest.split_once(" kB (")?;
    let kilobytes = |text: &str| text.trim().parse::<u64>().ok().map(|n| n.saturating_mul(1024));
    Some((kilobytes(done)?, kilobytes(total)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read() {
        assert_eq!(
            progress("2048/30720 kB (6%), 0/1 tablespace"),
            Some((2_097_152, 31_457_280))
        );
        assert_eq!(
            progress("  36145/36145 kB (100%) copied"),
            Some((37_012_480, 37_012_480))
        );
        assert_eq!(progress("pg_basebackup: error: a/b kB ("), None);
    }

    #[test]
    fn progress_is_logged_at_each_tenth_only() {
        let mut words = Words::new(None);
        let logged: Vec<u64> = (0..=100).filter(|p| words.is_worth_a_line(*p)).collect();
        assert_eq!(logged, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        words.logged.1 = Instant::now() - LOG_EVERY;
        assert!(words.is_worth_a_line(100) && !words.is_worth_a_line(100));
    }
}
