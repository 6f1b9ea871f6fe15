//! The kube client of the Lease. A client of its own, so that no other request delays a renewal.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Longest time for a TCP connection and its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Where the API server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ApiServer {
    /// As the pod's service account and environment say.
    InCluster,
    /// As this kubeconfig's current context says.
    Kubeconfig(PathBuf),
}

/// No client could be made; nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Not in a pod, or without a service account.
    #[error(
        "no way to the API server: {0}. pgbaton runs in a pod with a service account token, or with --kubeconfig FILE"
    )]
    InCluster(#[from] InClusterError),
    /// The file.
    #[error("the kubeconfig {path} cannot be used: {source}. Check --kubeconfig (or KUBECONFIG)")]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// Certificates, keys, proxies.
    #[error("a client for the API server could not be made: {0}. Check certificates and proxy settings")]
    Build(#[from] kube::Error),
}

/// Makes ring the crypto provider of this process. Call it once at the top of `main`: rustls panics at the first connection
/// when the tree holds two providers and none was chosen.
pub fn install_crypto() {
    // An error means that one is installed already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A client without kube's own retries (up to 15, honouring Retry-After: longer than a lease) and without a read timeout
/// (in kube 4.2 it would count the idle time of a pooled connection). Each call is bounded by its caller instead.
///
/// # Errors
/// When the configuration cannot be read or used. No request is made.
pub async fn connect(server: &ApiServer) -> Result<kube::Client, ClientError> {
    let mut config = match server {
        ApiServer::InCluster => kube::Config::incluster()?,
        ApiServer::Kubeconfig(path) => {
            let wrong = |source| ClientError::Kubeconfig {
                path: path.clone(),
                source,
            };
            let kubeconfig = Kubeconfig::read_from(path).map_err(wrong)?;
            kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .map_err(wrong)?
        }
    };
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = None;
    Ok(kube::Client::try_from(config)?)
}
