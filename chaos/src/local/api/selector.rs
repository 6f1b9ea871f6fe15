//! Label selectors and field selectors of lists and watches.

use super::kinds::Kind;
use super::status::ApiError;
use serde_json::Value;

/// What a list or a watch is narrowed to. The default selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    fields: Vec<Requirement>,
    labels: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
}

impl Selector {
    /// Reads `fieldSelector` and `labelSelector`; an unsupported field or syntax is a 400, as in Kubernetes.
    pub fn parse(kind: Kind, fields: &str, labels: &str) -> Result<Self, ApiError> {
        let mut selector = Self::default();
        for term in terms(fields) {
            let requirement = equality(term).ok_or_else(|| {
                ApiError::bad_request(format!("invalid selector: '{fields}'; can't understand '{term}'"))
            })?;
            let key = requirement.key.as_str();
            if key != "metadata.name"
                && key != "metadata.namespace"
                && !kind.selectable_fields().contains(&key)
            {
                return Err(ApiError::bad_request(if kind.selectable_fields().is_empty() {
                    format!(
                        "\"{key}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
                    )
                } else {
                    format!("field label not supported: {key}")
                }));
            }
            selector.fields.push(requirement);
        }
        for term in terms(labels) {
            let requirement = label_requirement(term).ok_or_else(|| {
                ApiError::bad_request(format!("unable to parse requirement: '{term}' in '{labels}'"))
            })?;
            selector.labels.push(requirement);
        }
        Ok(selector)
    }

    /// The one name that is selected, when the fields say so: then the request counts as one by that name.
    #[must_use]
    pub fn single_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|r| r.key == "metadata.name")
            .and_then(|r| match &r.test {
                Test::In(values) => values.first().map(String::as_str),
                _ => None,
            })
    }

    /// Whether the object is selected.
    #[must_use]
    pub fn matches(&self, object: &Value) -> bool {
        let field = |key: &str| {
            let pointer = format!("/{}", key.replace('.', "/"));
            // A field that is not set counts as an empty string, as in Kubernetes.
            Some(
                object
                    .pointer(&pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default(),
            )
        };
        let label = |key: &str| {
            object
                .pointer("/metadata/labels")
                .and_then(|l| l.get(key))
                .and_then(Value::as_str)
        };
        self.fields.iter().all(|r| r.holds(field(&r.key)))
            && self.labels.iter().all(|r| r.holds(label(&r.key)))
    }
}

impl Requirement {
    fn holds(&self, value: Option<&str>) -> bool {
        match (&self.test, value) {
            (Test::In(values), Some(v)) => values.iter().any(|x| x == v),
            (Test::In(_), None) => false,
            (Test::NotIn(values), Some(v)) => values.iter().all(|x| x != v),
            (Test::NotIn(_), None) => true,
            (Test::Exists, v) => v.is_some(),
            (Test::Absent, v) => v.is_none(),
        }
    }
}

/// Splits at commas that are not within parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0_i32;
    let parts = text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|t| !t.is_empty()).collect()
}

fn equality(term: &str) -> Option<Requirement> {
    let (key, value, equal) = if let Some((k, v)) = term.split_once("!=") {
        (k, v, false)
    } else if let Some((k, v)) = term.split_once("==") {
        (k, v, true)
    } else {
        let (k, v) = term.split_once('=')?;
        (k, v, true)
    };
    let values = vec![value.trim().to_owned()];
    let test = if equal {
        Test::In(values)
    } else {
        Test::NotIn(values)
    };
    Some(Requirement {
        key: key.trim().to_owned(),
        test,
    })
}

fn label_requirement(term: &str) -> Option<Requirement> {
    if let Some((head, set)) = term.split_once('(') {
        let values: Vec<String> = set
            .strip_suffix(')')?
            .split(',')
            .map(|v| v.trim().to_owned())
            .collect();
        let mut words = head.split_whitespace();
        let (key, operator) = (words.next()?, words.next()?);
        let test = match operator {
            "in" => Test::In(values),
            "notin" => Test::NotIn(values),
            _ => return None,
        };
        return Some(Requirement {
            key: key.to_owned(),
            test,
        });
    }
    if term.contains('=') {
        return equality(term);
    }
    let (key, test) = term
        .strip_prefix('!')
        .map_or((term, Test::Exists), |key| (key.trim(), Test::Absent));
    (!key.is_empty() && !key.contains(char::is_whitespace)).then(|| Requirement {
        key: key.to_owned(),
        test,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selected(fields: &str, labels: &str) -> bool {
        let object = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"app": "pg", "x": "1"}}});
        Selector::parse(Kind::Pod, fields, labels)
            .unwrap()
            .matches(&object)
    }

    #[test]
    fn fields_and_labels_select() {
        assert!(selected("", ""));
        assert!(selected("metadata.name=a,metadata.namespace==n", "app=pg"));
        assert!(!selected("metadata.name!=a", ""));
        assert!(!selected("metadata.name=b", ""));
        assert!(selected("status.phase!=Running", ""));
        assert!(selected("", "app in (pg, mysql),x,!y,z!=1,x notin (2,3)"));
        assert!(!selected("", "app notin (pg)"));
        assert!(!selected("", "!x"));
        assert!(!selected("", "y=1"));
    }

    #[test]
    fn nonsense_is_refused() {
        for (fields, labels) in [
            ("spec.foo=1", ""),
            ("metadata.name", ""),
            ("", "a b"),
            ("", "a in (b"),
        ] {
            assert_eq!(
                Selector::parse(Kind::Pod, fields, labels).unwrap_err().code,
                400,
                "{fields} {labels}"
            );
        }
    }

    #[test]
    fn a_single_name_is_known() {
        let parse = |f| Selector::parse(Kind::Lease, f, "").unwrap();
        assert_eq!(parse("metadata.name=postgres").single_name(), Some("postgres"));
        assert_eq!(parse("metadata.name!=postgres").single_name(), None);
    }
}
