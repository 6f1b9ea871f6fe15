//! Accepts connections, and ends them all when told to.

use super::faults::{Cut, Cuts};
use super::http::service;
use super::lock;
use super::shared::Shared;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

/// After a failed accept (no file descriptor left), before the next one.
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

/// A connection; whose it is shows with its first request.
#[derive(Debug, Default)]
pub(super) struct Connection {
    user: Mutex<Option<String>>,
    closing: Mutex<bool>,
    look_again: Notify,
}

impl Connection {
    /// Notes whose request came over it.
    pub(super) fn belongs_to(&self, user: &str) {
        *lock(&self.user) = Some(user.to_owned());
        self.look_again.notify_one();
    }

    /// Has it closed.
    pub(super) fn close(&self) {
        *lock(&self.closing) = true;
        self.look_again.notify_one();
    }

    fn ends(&self, cuts: &Cuts) -> bool {
        let user = lock(&self.user);
        *lock(&self.closing) || user.as_deref().is_some_and(|u| cuts.of(u) == Some(Cut::Closed))
    }
}

/// A listener that runs.
#[derive(Debug)]
pub(super) struct Listening {
    pub(super) address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Listening {
    pub(super) async fn start(address: SocketAddr, shared: Arc<Shared>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept(listener, shared, stopped));
        Ok(Self { address, stop, task })
    }

    /// Stops accepting, closes every connection, and returns when all that is done.
    pub(super) async fn stop(self) {
        // Both fail only when the task has ended already, which is what is wanted.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

/// Ends when told, and also when the sender is dropped with the server.
async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve(stream, Arc::clone(&shared)));
                }
                Err(error) => {
                    tracing::warn!(%error, "the API server could not accept a connection and tries on");
                    tokio::time::sleep(AFTER_FAILED_ACCEPT).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Watches send small lines that must not wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let connection = Arc::new(Connection::default());
    let mut cuts: watch::Receiver<Cuts> = shared.faults.cuts();
    let service = TowerToHyperService::new(service(shared, Arc::clone(&connection)));
    let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    loop {
        tokio::select! {
            // An error here is a client that went away.
            _ = &mut served => return,
            () = connection.look_again.notified() => {}
            changed = cuts.changed() => if changed.is_err() { return },
        }
        if connection.ends(&cuts.borrow_and_update()) {
            return;
        }
    }
}
