//! Connections to the API server. `main` has installed the TLS provider.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// How long making a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {reason}: give another one with --kubeconfig or KUBECONFIG")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Not in a pod, or the pod has no service account token.
    #[error(
        "no kubeconfig was given, and this is no pod with a service account ({0}): give one with --kubeconfig or KUBECONFIG"
    )]
    NotInCluster(String),
    /// The client could not be built.
    #[error("cannot make a client for the API server {server}: {reason}")]
    Client {
        /// Its address.
        server: String,
        /// What is wrong.
        reason: String,
    },
}

/// The configuration of a client: from `kubeconfig`, or of the pod that this runs in when none is given. No retries by
/// the library (it would repeat a request for minutes), no read timeout (it counts idle time): every call here has its own bound.
///
/// # Errors
/// When the file cannot be used, or without one when this is no pod.
pub async fn config(kubeconfig: Option<&Path>) -> Result<Config, ConnectError> {
    let mut config = match kubeconfig {
        Some(path) => {
            let bad = |reason: String| ConnectError::Kubeconfig {
                path: path.to_owned(),
                reason,
            };
            let file = Kubeconfig::read_from(path).map_err(|e| bad(with_causes(&e)))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|e| bad(with_causes(&e)))?
        }
        None => Config::incluster().map_err(|e| ConnectError::NotInCluster(with_causes(&e)))?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = None;
    Ok(config)
}

/// A client for `config`.
///
/// # Errors
/// When the TLS settings in it cannot be used.
pub fn client(config: Config) -> Result<Client, ConnectError> {
    let server = config.cluster_url.to_string();
    Client::try_from(config).map_err(|e| ConnectError::Client {
        server,
        reason: with_causes(&e),
    })
}

/// `config` and `client` in one.
///
/// # Errors
/// As theirs.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    client(config(kubeconfig).await?)
}

/// The kubeconfig that a person's command uses: the one given; in a pod none; else `~/.kube/config` as kubectl does.
#[must_use]
pub fn kubeconfig_for_person(given: Option<PathBuf>) -> Option<PathBuf> {
    // Set and empty is not set, as for kubectl.
    let given = given.filter(|path| !path.as_os_str().is_empty());
    if given.is_some() || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return given;
    }
    let home = std::env::var_os("HOME")?;
    Some(Path::new(&home).join(".kube").join("config"))
}

/// An error with what caused it.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_kubeconfig_is_named() {
        let error = connect(Some(Path::new("/nonexistent/kubeconfig")))
            .await
            .err()
            .unwrap();
        assert!(
            error
                .to_string()
                .starts_with("kubeconfig /nonexistent/kubeconfig: "),
            "{error}"
        );
    }

    #[tokio::test]
    async fn nothing_is_retried_and_connecting_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(
            &path,
            "{apiVersion: v1, kind: Config, current-context: a, contexts: [{name: a, context: {cluster: a, user: a}}], \
             clusters: [{name: a, cluster: {server: 'http://127.0.0.1:1'}}], users: [{name: a, user: {}}]}",
        )
        .unwrap();
        let config = config(Some(&path)).await.unwrap();
        assert!(!config.default_retry);
        assert_eq!(
            (config.connect_timeout, config.read_timeout),
            (Some(CONNECT_TIMEOUT), None)
        );
        client(config).unwrap();
    }
}
