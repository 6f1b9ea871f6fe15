//! From a method and a URI to what is asked for.

use super::access::Attributes;
use super::kinds::{self, Resource};
use super::patch::PatchType;
use super::selector::Selector;
use super::status::ApiError;
use axum::extract::Query;
use http::{HeaderMap, Method, Uri};
use std::collections::BTreeMap;

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// `/healthz`, `/livez`, `/readyz`
    Health,
    /// `/version`
    Version,
    /// A SelfSubjectAccessReview
    AccessReview,
    /// Objects
    Objects(Objects),
}

/// A request about objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Objects {
    pub(super) resource: &'static Resource,
    /// None: of all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    /// `status`, the only subresource.
    pub(super) status: bool,
    pub(super) verb: &'static str,
    pub(super) selector: Selector,
}

impl Objects {
    /// The request as the authoriser sees it.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: self.verb,
            group: self.resource.group,
            resource: self.resource.plural,
            subresource: if self.status { "status" } else { "" },
            name: self
                .name
                .as_deref()
                .or_else(|| self.selector.single_name())
                .unwrap_or_default(),
            namespace: self.namespace.as_deref().unwrap_or_default(),
        }
    }

    /// The name under which it is counted.
    pub(super) fn counted_as(&self) -> String {
        let suffix = if self.status { "/status" } else { "" };
        format!("{}{suffix}", self.resource.plural)
    }
}

/// The query's parameters; of a repeated one the first counts.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn read(uri: &Uri) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
            .map_err(|e| ApiError::bad_request(format!("the query cannot be read: {e}")))?;
        let mut map = BTreeMap::new();
        for (key, value) in pairs {
            map.entry(key).or_insert(value);
        }
        Ok(Self(map))
    }

    pub(super) fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub(super) fn flag(&self, key: &str) -> bool {
        matches!(self.text(key), "1" | "true" | "True" | "TRUE" | "t" | "T")
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<u64>, ApiError> {
        let text = self.text(key);
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse().map_err(|_| {
            ApiError::bad_request(format!(
                "{key}: Invalid value: \"{text}\": must be an unsigned number"
            ))
        })?;
        Ok(Some(number))
    }

    pub(super) fn dry_run(&self, verb: &str) -> Result<bool, ApiError> {
        let options = match verb {
            "create" => "CreateOptions",
            "update" => "UpdateOptions",
            "patch" => "PatchOptions",
            "delete" => "DeleteOptions",
            _ => return Ok(false),
        };
        match self.text("dryRun") {
            "" => Ok(false),
            "All" => Ok(true),
            other => Err(ApiError::unsupported_option(
                options,
                "dryRun",
                &format!("[\"{other}\"]"),
                "\"All\"",
            )),
        }
    }

    /// The version after which a watch tells changes.
    pub(super) fn version(&self) -> Result<u64, ApiError> {
        let text = self.text("resourceVersion");
        if text.is_empty() {
            return Ok(0);
        }
        text.parse().map_err(|_| {
            ApiError::unexplained(format!(
                "resourceVersion: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        })
    }
}

/// What is asked for; 404 for a path that is not served, 405 for a method that does not fit.
pub(super) fn understand(method: &Method, uri: &Uri, parameters: &Parameters) -> Result<Asked, ApiError> {
    let segments: Vec<&str> = uri.path().split('/').filter(|s| !s.is_empty()).collect();
    let (group, version, rest) = match segments.as_slice() {
        ["healthz" | "livez" | "readyz", ..] => return Ok(Asked::Health),
        ["version"] => return Ok(Asked::Version),
        ["api", version, rest @ ..] => ("", *version, rest),
        ["apis", group, version, rest @ ..] => (*group, *version, rest),
        _ => return Err(ApiError::no_such_path()),
    };
    if (group, version, rest) == ("authorization.k8s.io", "v1", &["selfsubjectaccessreviews"][..]) {
        return Ok(Asked::AccessReview);
    }
    let (namespace, plural, name, subresource) = match rest {
        [plural] => (None, *plural, None, None),
        ["namespaces", ns, plural] => (Some(*ns), *plural, None, None),
        ["namespaces", ns, plural, name] => (Some(*ns), *plural, Some(*name), None),
        ["namespaces", ns, plural, name, sub] => (Some(*ns), *plural, Some(*name), Some(*sub)),
        _ => return Err(ApiError::no_such_path()),
    };
    let resource = kinds::find(group, version, plural).ok_or_else(ApiError::no_such_path)?;
    let status = match subresource {
        None => false,
        Some("status") if resource.kind.has_status() => true,
        Some(_) => return Err(ApiError::no_such_path()),
    };
    let selector = if name.is_none() {
        let stored_fields = parameters
            .text("fieldSelector")
            .replace("regarding.", "involvedObject.");
        Selector::parse(resource.kind, &stored_fields, parameters.text("labelSelector"))?
    } else {
        Selector::default()
    };
    let verb = verb(
        method,
        name.is_some(),
        namespace.is_some(),
        status,
        parameters.flag("watch"),
    )
    .ok_or_else(ApiError::method_not_allowed)?;
    Ok(Asked::Objects(Objects {
        resource,
        namespace: namespace.map(str::to_owned),
        name: name.map(str::to_owned),
        status,
        verb,
        selector,
    }))
}

fn verb(method: &Method, named: bool, in_namespace: bool, status: bool, watch: bool) -> Option<&'static str> {
    match (method.as_str(), named) {
        ("GET", true) => Some("get"),
        ("GET", false) if watch => Some("watch"),
        ("GET", false) => Some("list"),
        ("POST", false) if in_namespace => Some("create"),
        ("PUT", true) => Some("update"),
        ("PATCH", true) => Some("patch"),
        ("DELETE", true) if !status => Some("delete"),
        _ => None,
    }
}

/// The kind of patch; 415 for those that are not served.
pub(super) fn patch_type(headers: &HeaderMap) -> Result<PatchType, ApiError> {
    let given = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => Ok(PatchType::Merge),
        "application/strategic-merge-patch+json" => Ok(PatchType::Strategic),
        "application/json-patch+json" => Ok(PatchType::Json),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types here: \
             application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json"
        ))),
    }
}

/// 415 for a body that is not JSON.
pub(super) fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let given = headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    match given.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" => Ok(()),
        other => Err(ApiError::unsupported_media_type(format!(
            "the body of the request was in an unknown format ({other}) - accepted media types here: \
             application/json"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &Method, uri: &str) -> Result<Asked, u16> {
        let uri: Uri = uri.parse().unwrap();
        let parameters = Parameters::read(&uri).map_err(|e| e.code)?;
        understand(method, &uri, &parameters).map_err(|e| e.code)
    }

    #[test]
    fn paths_become_verbs_and_names() {
        let base = "/apis/coordination.k8s.io/v1/namespaces/db/leases";
        for (method, uri, verb, name) in [
            (Method::GET, format!("{base}/postgres"), "get", "postgres"),
            (
                Method::GET,
                format!("{base}?watch=1&fieldSelector=metadata.name%3Dpostgres"),
                "watch",
                "postgres",
            ),
            (Method::GET, base.to_owned(), "list", ""),
            (Method::POST, base.to_owned(), "create", ""),
            (Method::PATCH, format!("{base}/postgres"), "patch", "postgres"),
            (Method::PUT, format!("{base}/postgres"), "update", "postgres"),
            (Method::DELETE, format!("{base}/postgres"), "delete", "postgres"),
        ] {
            let Ok(Asked::Objects(objects)) = asked(&method, &uri) else {
                panic!("{method} {uri}")
            };
            assert_eq!(
                (objects.attributes().verb, objects.attributes().name),
                (verb, name),
                "{method} {uri}"
            );
            assert_eq!(objects.attributes().namespace, "db");
        }
    }

    #[test]
    fn what_is_not_served() {
        assert_eq!(
            asked(&Method::GET, "/api/v1/namespaces/db/configmaps/x"),
            Err(404)
        );
        assert_eq!(asked(&Method::GET, "/nonsense"), Err(404));
        assert_eq!(asked(&Method::PUT, "/api/v1/namespaces/db/pods"), Err(405));
        assert_eq!(asked(&Method::POST, "/api/v1/namespaces/db/pods/x"), Err(405));
        assert_eq!(asked(&Method::POST, "/api/v1/pods"), Err(405));
        assert_eq!(asked(&Method::GET, "/api/v1/namespaces/db/pods/x/log"), Err(404));
        assert_eq!(
            asked(&Method::GET, "/api/v1/pods?fieldSelector=a.b%3Dc"),
            Err(400)
        );
    }
}
