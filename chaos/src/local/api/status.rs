//! Refusals, worded and coded as Kubernetes words and codes them (`Status` objects).

use super::kinds::{Kind, Resource};
use serde_json::{Value, json};
use std::fmt;

/// A refusal: an HTTP status code, a machine-readable reason and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Kubernetes' reason, for example `Conflict`.
    pub reason: &'static str,
    /// Text for people.
    pub message: String,
    /// `Status.details`, or null.
    pub details: Value,
}

impl ApiError {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: Value::Null,
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({ "name": name, "group": resource.group, "kind": resource.plural });
        self
    }

    /// 400: the request or its body cannot be understood.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401: a token that belongs to nobody.
    #[must_use]
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 500 without a reason: where the real server passes on an error of its own making.
    pub fn unexplained(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    /// 403 with the text of the authoriser.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// 404: this object does not exist.
    #[must_use]
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(
            404,
            "NotFound",
            format!("{} \"{name}\" not found", resource.qualified()),
        )
        .about(resource, name)
    }

    /// 404: nothing is served under this path.
    #[must_use]
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// 405: the path exists, but not with this method.
    #[must_use]
    pub fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// 409: the name is taken.
    #[must_use]
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            format!("{} \"{name}\" already exists", resource.qualified()),
        )
        .about(resource, name)
    }

    /// 409: the object changed since the version that the request named.
    #[must_use]
    pub fn conflict(resource: &Resource, name: &str) -> Self {
        Self::conflict_because(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 409 with a cause of its own.
    #[must_use]
    pub fn conflict_because(resource: &Resource, name: &str, cause: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {cause}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// 409: a deletion was meant for another object. The real server names the kind here, not the resource.
    #[must_use]
    pub fn other_object(resource: &Resource, name: &str, cause: &str) -> Self {
        let kind = resource.qualified_kind();
        let mut error = Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {kind} \"{name}\": {cause}"),
        );
        error.details = json!({ "name": name, "group": resource.group, "kind": resource.kind_name });
        error
    }

    /// 422: a write that must name the version that it was judged on.
    #[must_use]
    pub fn version_needed(resource: &Resource, name: &str) -> Self {
        let detail = "must be specified for an update";
        let error = FieldError::invalid("metadata.resourceVersion", &json!(0), detail);
        let mut refusal = Self::invalid(resource, name, &[error]);
        refusal.message = refusal
            .message
            .replacen(&resource.qualified_kind(), &resource.qualified(), 1);
        refusal.details["kind"] = resource.plural.into();
        refusal
    }

    /// 422: an operation of a JSON patch does not fit the object.
    #[must_use]
    pub fn unprocessable() -> Self {
        Self::new(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    }

    /// 422: a parameter of the request has a value that is not served. `options` is `DeleteOptions` and the like.
    #[must_use]
    pub fn unsupported_option(options: &str, field: &str, value: &str, supported: &str) -> Self {
        let text = format!("Unsupported value: {value}: supported values: {supported}");
        let mut error = Self::new(
            422,
            "Invalid",
            format!("{options}.meta.k8s.io \"\" is invalid: {field}: {text}"),
        );
        let cause = json!({ "reason": "FieldValueNotSupported", "message": text, "field": field });
        error.details = json!({ "group": "meta.k8s.io", "kind": options, "causes": [cause] });
        error
    }

    /// 410: the asked version is older than the log of changes reaches.
    #[must_use]
    pub fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// 413: the body is larger than the server accepts.
    #[must_use]
    pub fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: limit is {limit}"),
        )
    }

    /// 415: a body in a format that is not served.
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 422: the object breaks a rule of its kind. `causes` are (field, reason, message).
    #[must_use]
    pub fn invalid(resource: &Resource, name: &str, causes: &[FieldError]) -> Self {
        // The rules of events are those of their stored form, whichever form was sent.
        let resource = if resource.kind_name == Kind::Event.name() {
            Kind::Event.resource()
        } else {
            resource
        };
        let texts: Vec<String> = causes.iter().map(ToString::to_string).collect();
        let list = if let [only] = texts.as_slice() {
            only.clone()
        } else {
            format!("[{}]", texts.join(", "))
        };
        let message = format!("{} \"{name}\" is invalid: {list}", resource.qualified_kind());
        let mut error = Self::new(422, "Invalid", message);
        let causes: Vec<Value> = causes
            .iter()
            .map(|c| json!({ "reason": c.reason, "message": c.text(), "field": c.field }))
            .collect();
        error.details =
            json!({ "name": name, "group": resource.group, "kind": resource.kind_name, "causes": causes });
        error
    }

    /// A failure that a person asked for (a fault), with any code.
    #[must_use]
    pub fn injected(code: u16) -> Self {
        let (reason, message) = match code {
            429 => ("TooManyRequests", "Too many requests, please try again later."),
            500 => (
                "InternalError",
                "Internal error occurred: etcdserver: leader changed",
            ),
            503 => (
                "ServiceUnavailable",
                "the server is currently unable to handle the request",
            ),
            504 => (
                "Timeout",
                "Timeout: request did not complete within the allotted timeout",
            ),
            _ => ("InternalError", "failure injected by the rig"),
        };
        Self::new(code, reason, message)
    }

    /// The `Status` object that a client receives.
    #[must_use]
    pub fn to_status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            status["reason"] = self.reason.into();
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} {})", self.message, self.code, self.reason)
    }
}

impl std::error::Error for ApiError {}

/// One rule of a kind that an object breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path of the field.
    pub field: String,
    /// `FieldValueInvalid`, `FieldValueRequired` or `FieldValueForbidden`.
    pub reason: &'static str,
    /// Value as it stands in the message, when the message names it.
    pub value: Option<String>,
    /// What is wrong.
    pub detail: String,
}

impl FieldError {
    /// A value that is not allowed.
    pub fn invalid(field: &str, value: &Value, detail: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueInvalid",
            value: Some(value.to_string()),
            detail: detail.into(),
        }
    }

    /// A value that is missing.
    pub fn required(field: &str, detail: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueRequired",
            value: None,
            detail: detail.into(),
        }
    }

    /// A field that may not be set or changed.
    pub fn forbidden(field: &str, detail: impl Into<String>) -> Self {
        Self {
            field: field.to_owned(),
            reason: "FieldValueForbidden",
            value: None,
            detail: detail.into(),
        }
    }

    fn text(&self) -> String {
        let word = match self.reason {
            "FieldValueRequired" => "Required value",
            "FieldValueForbidden" => "Forbidden",
            _ => "Invalid value",
        };
        let mut text = word.to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.text())
    }
}
