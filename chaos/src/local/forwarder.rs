//! The Service's address on one machine: a TCP proxy that sends each new connection where the Service's selector points at that
//! moment and leaves old connections alone, as kube-proxy does.

use std::net::SocketAddrV4;
use std::time::Duration;

use anyhow::{Context, Result};
use socket_options::abort_on_close;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::store::Store;

/// A connection to a member is local: refused or made at once, unless its listen queue is full.
const CONNECT_BOUND: Duration = Duration::from_secs(1);

/// The running proxy; dropping it ends it with all its connections.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddrV4,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Listens on `address` for the Service of that name.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(address: SocketAddrV4, service: &str, store: &Store) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for the Service '{service}'"))?;
        let task = tokio::spawn(accept(listener, service.to_owned(), store.clone()));
        Ok(Self { address, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, service: String, store: Store) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => {
                    let endpoint = store.endpoint(&service);
                    connections.spawn(forward(client, endpoint));
                }
                Err(error) => {
                    // Out of file descriptors, most likely: the queue keeps what waits.
                    tracing::warn!("the Service's address cannot accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Without an endpoint, or with one that refuses, the client's connection is reset: what it would see of a refused one.
async fn forward(client: TcpStream, endpoint: Option<SocketAddrV4>) {
    let Some(endpoint) = endpoint else {
        abort_on_close(&client);
        return;
    };
    match timeout(CONNECT_BOUND, TcpStream::connect(endpoint)).await {
        Ok(Ok(server)) => pump(client, server).await,
        Ok(Err(_)) | Err(_) => abort_on_close(&client),
    }
}

async fn pump(mut client: TcpStream, mut server: TcpStream) {
    // Small packets of a request and its answer must not wait for each other.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    if tokio::io::copy_bidirectional(&mut client, &mut server)
        .await
        .is_err()
    {
        // One side was reset: so is the other.
        abort_on_close(&client);
        abort_on_close(&server);
    }
}

mod socket_options {
    use nix::sys::socket::{setsockopt, sockopt};
    use tokio::net::TcpStream;

    /// Closing resets the connection instead of ending it in order.
    pub fn abort_on_close(stream: &TcpStream) {
        let linger = nix::libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        if let Err(errno) = setsockopt(stream, sockopt::Linger, &linger) {
            tracing::debug!(%errno, "SO_LINGER was refused");
        }
    }
}
