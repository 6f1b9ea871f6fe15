//! The HTTP side: who asks, may they, what is answered.

use super::access::{ANONYMOUS, Attributes};
use super::events::to_served;
use super::faults::Faults;
use super::kinds::ACCESS_REVIEWS;
use super::listener::Connection;
use super::lock;
use super::request::{self, Asked, Objects, Parameters};
use super::shared::{Shared, fresh};
use super::status::{ApiError, FieldError};
use super::types::{DeleteOptions, Deleted, Part, Propagation, Target};
use super::watch;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// The largest body that is read, as in the real server.
const LARGEST_BODY: usize = 3 * 1024 * 1024;

/// The service for one connection.
pub(super) fn service(shared: Arc<Shared>, connection: Arc<Connection>) -> Router {
    Router::new().fallback(answer).with_state((shared, connection))
}

type Context = State<(Arc<Shared>, Arc<Connection>)>;

async fn answer(State((shared, connection)): Context, request: Request) -> Response {
    match respond(&shared, &connection, request).await {
        Ok(response) => response,
        Err(error) => reply(error.code, &error.to_status()),
    }
}

async fn respond(
    shared: &Arc<Shared>,
    connection: &Connection,
    request: Request,
) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let given = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok());
    let user = lock(&shared.access).authenticate(given);
    let parameters = Parameters::read(&parts.uri)?;
    let asked = request::understand(&parts.method, &parts.uri, &parameters);
    let who = user.as_deref().unwrap_or_default();
    let open = count(shared, who, asked.as_ref());
    connection.belongs_to(who);

    let faults = &shared.faults;
    faults.pass(who).await;
    faults.delay().await;
    faults.pass(who).await;
    faults.failure()?;
    let user = user?;
    let objects = match asked? {
        Asked::Health => return Ok((StatusCode::OK, "ok").into_response()),
        Asked::Version => return Ok(reply(200, &version())),
        Asked::AccessReview => return review(shared, &user, &parts, body).await,
        Asked::Objects(objects) => objects,
    };
    if !lock(&shared.access).allows(&user, &objects.attributes()) {
        return Err(objects.attributes().forbidden(&user));
    }
    if let Some(open) = open {
        let lines = watch::start(shared, &user, objects, &parameters, open)?;
        let headers = [(header::CONTENT_TYPE, "application/json")];
        return Ok((headers, Body::from_stream(lines)).into_response());
    }
    let bytes = to_bytes(body, LARGEST_BODY)
        .await
        .map_err(|_| ApiError::too_large(LARGEST_BODY))?;
    let names = [objects.resource.plural, objects.resource.kind_name];
    let verb = objects.verb;
    let answer = act(shared, &objects, &parameters, &parts.headers, &bytes);
    if faults.loses_reply(verb, names) {
        Faults::silence().await;
        connection.close();
    }
    // What was asked before a cut is not answered during it.
    faults.pass(&user).await;
    answer
}

/// Counts the request; for a watch, until what is returned is dropped.
fn count(
    shared: &Shared,
    user: &str,
    asked: Result<&Asked, &ApiError>,
) -> Option<super::counters::OpenWatch> {
    match asked {
        Ok(Asked::Objects(o)) if o.verb == "watch" => {
            return Some(shared.counters.watch(user, o.resource.plural));
        }
        Ok(Asked::Objects(o)) => shared.counters.request(user, o.verb, o.counted_as()),
        Ok(Asked::AccessReview) => {
            shared
                .counters
                .request(user, "create", "selfsubjectaccessreviews".to_owned());
        }
        Ok(Asked::Health | Asked::Version) | Err(_) => {
            shared.counters.request(user, "get", "other".to_owned());
        }
    }
    None
}

/// Everything but a watch.
fn act(
    shared: &Shared,
    objects: &Objects,
    parameters: &Parameters,
    headers: &HeaderMap,
    bytes: &[u8],
) -> Result<Response, ApiError> {
    let resource = objects.resource;
    let target = Target {
        resource,
        namespace: objects.namespace.as_deref().unwrap_or_default(),
        name: objects.name.as_deref().unwrap_or_default(),
        part: if objects.status {
            Part::Status
        } else {
            Part::Object
        },
        dry_run: parameters.dry_run(objects.verb)?,
    };
    let serve = |object: &Value| to_served(resource, object.clone());
    match objects.verb {
        "get" => {
            let object = shared.with_store(|store| store.get(&target))?;
            Ok(reply(200, &serve(&object)))
        }
        "list" => Ok(list(shared, objects)),
        "create" => {
            request::require_json(headers)?;
            let body = json_body(bytes)?;
            let object = shared.with_store(|store| store.create(&target, body, &fresh()))?;
            Ok(reply(201, &serve(&object)))
        }
        "update" => {
            request::require_json(headers)?;
            let body = json_body(bytes)?;
            let (object, created) = shared.with_store(|store| store.replace(&target, body, &fresh()))?;
            Ok(reply(if created { 201 } else { 200 }, &serve(&object)))
        }
        "patch" => {
            let how = request::patch_type(headers)?;
            let body = json_body(bytes)?;
            let object = shared.with_store(|store| store.patch(&target, how, &body))?;
            Ok(reply(200, &serve(&object)))
        }
        "delete" => {
            let options = delete_options(parameters, bytes)?;
            let target = Target {
                dry_run: target.dry_run || options.dry_run,
                ..target
            };
            let deleted = shared.with_store(|store| store.delete(&target, &options, &fresh()))?;
            Ok(deleted_reply(&target, &deleted))
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

fn list(shared: &Shared, objects: &Objects) -> Response {
    let resource = objects.resource;
    let (found, version) = shared.with_store(|store| {
        (
            store.list(resource.kind, objects.namespace.as_deref(), &objects.selector),
            store.version(),
        )
    });
    let items: Vec<Value> = found
        .iter()
        .map(|object| {
            let mut item = to_served(resource, object.as_ref().clone());
            // The real server leaves the type out of the items of a list.
            if let Some(map) = item.as_object_mut() {
                map.remove("apiVersion");
                map.remove("kind");
            }
            item
        })
        .collect();
    reply(
        200,
        &json!({
            "kind": format!("{}List", resource.kind_name),
            "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": version.to_string() },
            "items": items,
        }),
    )
}

fn deleted_reply(target: &Target<'_>, deleted: &Deleted) -> Response {
    match deleted {
        Deleted::Terminating(pod) => reply(200, pod),
        Deleted::Gone(object) if target.resource.kind.deletion_shows_object() => reply(200, object),
        Deleted::Gone(object) => reply(
            200,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {
                    "name": target.name, "group": target.resource.group, "kind": target.resource.plural,
                    "uid": object["metadata"]["uid"],
                },
            }),
        ),
    }
}

fn delete_options(parameters: &Parameters, bytes: &[u8]) -> Result<DeleteOptions, ApiError> {
    let body = if bytes.is_empty() {
        Value::Null
    } else {
        json_body(bytes)?
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let policy = body["propagationPolicy"]
        .as_str()
        .unwrap_or_else(|| parameters.text("propagationPolicy"));
    let orphans = body["orphanDependents"]
        .as_bool()
        .unwrap_or_else(|| parameters.flag("orphanDependents"));
    let propagation = match policy {
        "Orphan" => Propagation::Orphan,
        "" if orphans => Propagation::Orphan,
        "" | "Background" | "Foreground" => Propagation::Background,
        other => {
            return Err(ApiError::unsupported_option(
                "DeleteOptions",
                "propagationPolicy",
                &format!("\"{other}\""),
                "\"Foreground\", \"Background\", \"Orphan\", \"nil\"",
            ));
        }
    };
    let in_query = parameters
        .number("gracePeriodSeconds")?
        .and_then(|n| i64::try_from(n).ok());
    Ok(DeleteOptions {
        grace_seconds: body["gracePeriodSeconds"].as_i64().or(in_query),
        propagation,
        dry_run: body["dryRun"].as_array().is_some_and(|list| !list.is_empty()),
        uid: text(&body["preconditions"]["uid"]),
        resource_version: text(&body["preconditions"]["resourceVersion"]),
    })
}

/// A SelfSubjectAccessReview: anybody who is logged in may ask what they may. Another method is a matter of rights first.
async fn review(shared: &Shared, user: &str, parts: &Parts, body: Body) -> Result<Response, ApiError> {
    let verb = match parts.method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "deletecollection",
        _ => "list",
    };
    let question = Attributes {
        verb,
        group: "authorization.k8s.io",
        resource: "selfsubjectaccessreviews",
        ..Attributes::default()
    };
    let may = if verb == "create" {
        user != ANONYMOUS
    } else {
        lock(&shared.access).allows(user, &question)
    };
    if !may {
        return Err(question.forbidden(user));
    }
    if verb != "create" {
        return Err(ApiError::method_not_allowed());
    }
    request::require_json(&parts.headers)?;
    let bytes = to_bytes(body, LARGEST_BODY)
        .await
        .map_err(|_| ApiError::too_large(LARGEST_BODY))?;
    let mut review = json_body(&bytes)?;
    if !review.is_object() {
        return Err(ApiError::bad_request("the object provided is unrecognized"));
    }
    let spec = &review["spec"];
    let asked = &spec["resourceAttributes"];
    if asked.is_object() == spec["nonResourceAttributes"].is_object() {
        let cause = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
        let error = FieldError::invalid("spec.resourceAttributes", &Value::Null, cause);
        return Err(ApiError::invalid(&ACCESS_REVIEWS, "", &[error]));
    }
    let text = |field: &str| asked[field].as_str().unwrap_or_default();
    let attributes = Attributes {
        verb: text("verb"),
        group: text("group"),
        resource: text("resource"),
        subresource: text("subresource"),
        name: text("name"),
        namespace: text("namespace"),
    };
    // No path of this server is a right of its own; a question about one finds no rule.
    let reason = lock(&shared.access).reason(user, &attributes);
    // As the real server: what is false or empty is left out but for `allowed`, and nobody is denied, only not allowed.
    review["status"] = json!({ "allowed": reason.is_some() });
    if let Some(reason) = reason.filter(|reason| !reason.is_empty()) {
        review["status"]["reason"] = reason.into();
    }
    review["kind"] = ACCESS_REVIEWS.kind_name.into();
    review["apiVersion"] = ACCESS_REVIEWS.api_version().into();
    if review["metadata"].is_null() {
        review["metadata"] = json!({});
    }
    Ok(reply(201, &review))
}

fn json_body(bytes: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::bad_request(format!("the object provided is unrecognized: {e}")))
}

fn version() -> Value {
    json!({
        "major": "1", "minor": "33", "gitVersion": "v1.33.0-pgbaton-rig", "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
    })
}

fn reply(code: u16, body: &Value) -> Response {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (
        code,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
