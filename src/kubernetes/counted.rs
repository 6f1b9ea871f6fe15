//! Counts the requests to the API server, as they are sent, and tells when one was forbidden: a tower layer under a client.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service, ServiceExt};

use crate::http::metrics::{ApiLabels, ApiOutcome, ApiResource, ApiVerb, Metrics};

/// A client that sends what it is given through `client` and counts it. `forbidden` is notified when an answer is 403, but for
/// those to a question about a right and to the search for servers to adopt.
#[must_use]
pub fn counted(client: kube::Client, metrics: &Metrics, forbidden: &Arc<Notify>) -> kube::Client {
    let namespace = client.default_namespace().to_owned();
    let send = tower::service_fn(move |request| {
        let client = client.clone();
        async move { client.send(request).await.map_err(BoxError::from) }
    });
    let layer = CountLayer {
        metrics: metrics.clone(),
        forbidden: forbidden.clone(),
    };
    kube::Client::new(layer.layer(send), namespace)
}

/// See the module's head.
#[derive(Debug, Clone)]
struct CountLayer {
    metrics: Metrics,
    forbidden: Arc<Notify>,
}

impl<S> Layer<S> for CountLayer {
    type Service = Counting<S>;

    fn layer(&self, inner: S) -> Counting<S> {
        Counting {
            inner,
            metrics: self.metrics.clone(),
            forbidden: self.forbidden.clone(),
        }
    }
}

/// The service that the layer makes.
#[derive(Debug, Clone)]
struct Counting<S> {
    inner: S,
    metrics: Metrics,
    forbidden: Arc<Notify>,
}

impl<S> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // The inner service is waited for within the request.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (verb, resource) = what(&request);
        // Whoever gives up drops the request: then its outcome is not known.
        let mut count = Count {
            metrics: self.metrics.clone(),
            labels: ApiLabels {
                verb,
                resource,
                outcome: ApiOutcome::unknown,
            },
        };
        let (inner, forbidden) = (self.inner.clone(), self.forbidden.clone());
        // Neither says that a needed right is missing: a question about one, and the search for servers to adopt, which says so itself.
        let is_asked_freely = request.uri().path().ends_with("/selfsubjectaccessreviews")
            || (verb == ApiVerb::list && resource == ApiResource::statefulsets);
        Box::pin(async move {
            let answer = inner.oneshot(request).await;
            if let Ok(answer) = &answer {
                count.answered(answer.status().as_u16());
                if answer.status() == StatusCode::FORBIDDEN && !is_asked_freely {
                    forbidden.notify_one();
                }
            }
            answer
        })
    }
}

/// Counts when it is dropped.
struct Count {
    metrics: Metrics,
    labels: ApiLabels,
}

impl Count {
    fn answered(&mut self, status: u16) {
        self.labels.outcome = match status {
            0..=399 => ApiOutcome::ok,
            409 => ApiOutcome::conflict,
            400..=499 => ApiOutcome::refused,
            _ => ApiOutcome::failed,
        };
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.metrics.api_requests.get_or_create(&self.labels).inc();
    }
}

/// Verb and plural name, as the API server's rules name them.
fn what<B>(request: &Request<B>) -> (ApiVerb, ApiResource) {
    let mut path = request.uri().path().split('/').filter(|part| !part.is_empty());
    // `api/v1/namespaces/N/KIND/NAME` or `apis/GROUP/VERSION/namespaces/N/KIND/NAME`.
    let _ = path.find(|part| *part == "namespaces");
    let resource = match path.nth(1) {
        Some("leases") => ApiResource::leases,
        Some("services") => ApiResource::services,
        Some("statefulsets") => ApiResource::statefulsets,
        Some("pods") => ApiResource::pods,
        Some("events") => ApiResource::events,
        _ => ApiResource::other,
    };
    let named = path.next().is_some();
    let watches = request.uri().query().is_some_and(|query| {
        query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"))
    });
    let verb = match *request.method() {
        _ if watches => ApiVerb::watch,
        Method::GET if named => ApiVerb::get,
        Method::GET => ApiVerb::list,
        Method::PATCH => ApiVerb::patch,
        Method::POST => ApiVerb::create,
        _ => ApiVerb::other,
    };
    (verb, resource)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubernetes::fake::FakeApi;
    use k8s_openapi::api::apps::v1::StatefulSet;
    use k8s_openapi::api::core::v1::Service as KubeService;
    use kube::api::{Api, ListParams, Patch, PatchParams, WatchParams};
    use std::time::Duration;

    fn count(metrics: &Metrics, verb: ApiVerb, outcome: ApiOutcome) -> u64 {
        let resource = ApiResource::services;
        let labels = ApiLabels {
            verb,
            resource,
            outcome,
        };
        metrics.api_requests.get_or_create(&labels).get()
    }

    #[tokio::test]
    async fn each_request_is_counted_once_by_how_it_ended() {
        let (metrics, _) = Metrics::new();
        let api = FakeApi::default();
        api.put("services/postgres", serde_json::json!({ "metadata": {} }));
        let forbidden = Arc::new(Notify::new());
        let client = counted(api.client(), &metrics, &forbidden);
        let services: Api<KubeService> = Api::namespaced(client, "default");
        services.get("postgres").await.unwrap();
        services.get("none").await.unwrap_err();
        let stale = serde_json::json!({ "metadata": { "resourceVersion": "0" } });
        let params = PatchParams::default();
        services
            .patch("postgres", &params, &Patch::Merge(stale))
            .await
            .unwrap_err();
        let _ = services.list(&ListParams::default()).await;
        let _ = services.watch(&WatchParams::default(), "0").await;
        api.hang(true);
        let given_up = tokio::time::timeout(Duration::from_millis(50), services.get("postgres")).await;
        assert!(given_up.is_err());
        tokio::task::yield_now().await;
        assert_eq!(count(&metrics, ApiVerb::get, ApiOutcome::ok), 1);
        assert_eq!(count(&metrics, ApiVerb::get, ApiOutcome::refused), 1);
        assert_eq!(count(&metrics, ApiVerb::get, ApiOutcome::unknown), 1);
        assert_eq!(count(&metrics, ApiVerb::patch, ApiOutcome::conflict), 1);
        assert_eq!(count(&metrics, ApiVerb::list, ApiOutcome::refused), 1);
        assert_eq!(count(&metrics, ApiVerb::watch, ApiOutcome::refused), 1);
    }

    #[tokio::test]
    async fn a_forbidden_request_is_told_and_a_forbidden_question_is_not() {
        let (metrics, _) = Metrics::new();
        let api = FakeApi::default();
        let forbidden = Arc::new(Notify::new());
        let client = counted(api.client(), &metrics, &forbidden);
        let told = async || {
            let waiting = tokio::time::timeout(Duration::from_millis(20), forbidden.notified());
            waiting.await.is_ok()
        };
        let services: Api<KubeService> = Api::namespaced(client.clone(), "default");
        services.get("none").await.unwrap_err();
        assert!(!told().await, "404");
        api.forbid("GET", "services/postgres");
        services.get("postgres").await.unwrap_err();
        assert!(told().await);
        api.forbid("POST", "selfsubjectaccessreviews");
        let right = crate::core::preflight::Right {
            group: "",
            resource: "services",
            name: None,
            verb: "get",
        };
        crate::kubernetes::preflight::is_granted(&client, "default", &right)
            .await
            .unwrap_err();
        assert!(!told().await, "a question would ask for the next one");
        api.forbid("GET", "statefulsets");
        let sets: Api<StatefulSet> = Api::namespaced(client, "default");
        let refused = sets.list(&ListParams::default()).await.unwrap_err();
        assert!(
            matches!(&refused, kube::Error::Api(status) if status.code == 403),
            "{refused}"
        );
        assert!(!told().await, "a new cluster needs no right to list servers");
    }
}
