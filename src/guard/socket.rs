//! The socket: one JSON object a line, from the sidecar only.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::getuid;

use super::live::Guard;
use super::orders::refused;
use super::protocol::{Answer, MAX_LINE, Refusal, Request, SOCKET_NAME};

/// Connections at once.
const CONNECTIONS: usize = 8;
/// A connection that says nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// An answer that nobody takes for so long is dropped.
const SLOW: Duration = Duration::from_secs(5);

/// Opens the socket.
///
/// # Errors
/// Of the file system.
pub fn listen(guard: &Guard) -> io::Result<UnixListener> {
    let path = guard.settings.run_dir.join(SOCKET_NAME);
    super::disk::remove_if_there(&path)?;
    let listener = UnixListener::bind(&path)?;
    // Another user's sidecar needs the right to connect; who it is, is checked for each connection.
    let others = guard
        .settings
        .peer_uid
        .is_some_and(|peer| peer != getuid().as_raw());
    std::fs::set_permissions(
        &path,
        std::fs::Permissions::from_mode(if others { 0o666 } else { 0o600 }),
    )?;
    Ok(listener)
}

/// Takes connections for ever; each gets a thread. The thread's body.
pub fn serve(guard: &Arc<Guard>, listener: &UnixListener) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!("cannot take a connection: {e}");
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if !may_connect(guard, &stream) {
            continue;
        }
        let guard = Arc::clone(guard);
        let place = Place::take(&open);
        std::thread::spawn(move || {
            let ended = if place.is_beyond(CONNECTIONS) {
                let why = format!("more than {CONNECTIONS} connections: close one");
                write_answer(&stream, &refused(Refusal::Busy, why))
            } else {
                talk(&guard, &stream)
            };
            if let Err(e) = ended {
                tracing::debug!("connection ended: {e}");
            }
        });
    }
}

fn may_connect(guard: &Guard, stream: &UnixStream) -> bool {
    let Ok(peer) = getsockopt(stream, PeerCredentials) else {
        return false;
    };
    let uid = peer.uid();
    let known = uid == 0 || uid == getuid().as_raw() || guard.settings.peer_uid == Some(uid);
    if !known {
        tracing::warn!(
            uid,
            "refused a connection: neither root nor this user, nor the one named by --peer-uid"
        );
    }
    known
}

/// A counted connection.
struct Place {
    open: Arc<AtomicUsize>,
    number: usize,
}

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Self {
        let number = open.fetch_add(1, Ordering::SeqCst) + 1;
        Self {
            open: Arc::clone(open),
            number,
        }
    }

    fn is_beyond(&self, most: usize) -> bool {
        self.number > most
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn talk(guard: &Arc<Guard>, stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(SLOW))?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        if reader.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            let why = if line.len() >= MAX_LINE {
                format!("a line of more than {MAX_LINE} bytes")
            } else {
                "a line without an end".to_owned()
            };
            return write_answer(stream, &refused(Refusal::Malformed, why));
        }
        let request: Request = match serde_json::from_slice(&line) {
            Ok(request) => request,
            Err(e) => {
                // The category only: the text around an error may hold a password.
                let why = format!("not a request of this protocol ({:?} error)", e.classify());
                return write_answer(stream, &refused(Refusal::Malformed, why));
            }
        };
        let answer = guard.answer(&request);
        write_answer(stream, &answer)?;
    }
}

fn write_answer(mut stream: &UnixStream, answer: &Answer) -> io::Result<()> {
    let mut text = serde_json::to_vec(answer).map_err(io::Error::other)?;
    text.push(b'\n');
    stream.write_all(&text)
}
