//! Forms of names and values that the real server insists on, and the empty values that it leaves out.

use super::kinds::Kind;
use super::status::FieldError;
use serde_json::{Value, json};

const NAME_FORM: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                         validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const VALUE_FORM: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
                          '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or \
                          'my_value',  or '12345', regex used for validation is \
                          '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const SUBDOMAIN_FORM: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
                              or '.', and must start and end with an alphanumeric character (e.g. 'example.com', \
                              regex used for validation is \
                              '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_FORM: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
                             an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
                             'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
/// The layout of a `MicroTime`, in Go's words.
const MICRO_TIME: &str = "2006-01-02T15:04:05.000000Z07:00";
const LONGEST: usize = 63;

/// A `MicroTime` has six digits after the point, no more and no fewer; everything else cannot be read.
pub fn check_micro_times(kind: Kind, object: &Value) -> Result<(), String> {
    let fields: &[&str] = match kind {
        Kind::Lease => &["/spec/acquireTime", "/spec/renewTime"],
        Kind::Event => &["/eventTime", "/series/lastObservedTime"],
        _ => &[],
    };
    for text in fields.iter().filter_map(|field| object.pointer(field)?.as_str()) {
        let rest = text.get(19..).unwrap_or_default();
        let digits = rest.strip_prefix('.').unwrap_or_default();
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        if count != 6 {
            return Err(format!(
                "parsing time \"{text}\" as \"{MICRO_TIME}\": cannot parse \"{rest}\" as \".000000\""
            ));
        }
    }
    Ok(())
}

/// A variable that is set to nothing comes back without a value.
pub fn drop_empty_values(kind: Kind, object: &mut Value) {
    let pod = match kind {
        Kind::StatefulSet => "/spec/template/spec",
        Kind::Pod => "/spec",
        _ => return,
    };
    let Some(pod) = object.pointer_mut(pod) else {
        return;
    };
    for list in ["initContainers", "containers"] {
        let containers = pod.get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let env = container.get_mut("env").and_then(Value::as_array_mut);
            for variable in env.into_iter().flatten().filter_map(Value::as_object_mut) {
                if variable.get("value").is_some_and(|v| v == "") {
                    variable.remove("value");
                }
            }
        }
    }
}

/// The forms of an object's name, labels and annotations.
pub fn check_metadata(kind: Kind, metadata: &Value, errors: &mut Vec<FieldError>) {
    let name = metadata["name"].as_str().unwrap_or_default();
    let wrong = if kind == Kind::Service {
        (!is_dns_1035(name)).then_some(DNS_1035_FORM)
    } else {
        (!is_subdomain(name)).then_some(SUBDOMAIN_FORM)
    };
    if let Some(form) = wrong {
        errors.push(FieldError::invalid("metadata.name", &json!(name), form));
    }
    for field in ["labels", "annotations"] {
        let at = format!("metadata.{field}");
        for (key, value) in metadata[field].as_object().into_iter().flatten() {
            if let Some(wrong) = wrong_key(key) {
                errors.push(FieldError::invalid(&at, &json!(key), wrong));
            }
            let value = value.as_str().unwrap_or_default();
            if field == "labels"
                && let Some(wrong) = wrong_label(value)
            {
                errors.push(FieldError::invalid(&at, &json!(value), wrong));
            }
        }
    }
}

fn too_long() -> String {
    format!("must be no more than {LONGEST} bytes")
}

/// What is wrong with `name` or `prefix/name`, as labels, annotations and reporting controllers are named.
pub fn wrong_key(key: &str) -> Option<String> {
    let name = match key.split_once('/') {
        Some((prefix, _)) if !is_subdomain(prefix) => return Some(format!("prefix part {SUBDOMAIN_FORM}")),
        Some((_, name)) => name,
        None => key,
    };
    if name.len() > LONGEST {
        return Some(format!("name part {}", too_long()));
    }
    (!is_word(name)).then(|| format!("name part {NAME_FORM}"))
}

fn wrong_label(value: &str) -> Option<String> {
    if value.len() > LONGEST {
        return Some(too_long());
    }
    (!value.is_empty() && !is_word(value)).then(|| VALUE_FORM.to_owned())
}

fn is_word(text: &str) -> bool {
    let ends = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

fn is_dns_1035(name: &str) -> bool {
    name.len() <= LONGEST
        && !name.contains('.')
        && is_subdomain(name)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
}

fn is_subdomain(name: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    name.len() <= 253
        && name.split('.').all(|label| {
            let b = label.as_bytes();
            b.iter().all(|c| alphanumeric(*c) || *c == b'-')
                && b.first().is_some_and(|c| alphanumeric(*c))
                && b.last().is_some_and(|c| alphanumeric(*c))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_micro_time_has_six_digits() {
        for (text, read) in [
            ("2026-01-01T00:00:00.000001Z", true),
            ("2026-01-01T00:00:00.000001+01:00", true),
            ("2026-01-01T00:00:00Z", false),
            ("2026-01-01T00:00:00.123Z", false),
            ("2026-01-01T00:00:00.1234567Z", false),
            ("", false),
        ] {
            let lease = json!({"spec": {"renewTime": text}});
            assert_eq!(check_micro_times(Kind::Lease, &lease).is_ok(), read, "{text}");
        }
        assert!(check_micro_times(Kind::Lease, &json!({"spec": {"renewTime": null}})).is_ok());
    }

    #[test]
    fn names_have_forms() {
        assert!(is_dns_1035("postgres-1"));
        for wrong in ["", "1a", "a.b", "A", "a-"] {
            assert!(!is_dns_1035(wrong), "{wrong}");
        }
        for right in ["a", "pgbaton.dev/role", "a_b.C"] {
            assert_eq!(wrong_key(right), None, "{right}");
        }
        for wrong in ["", "a b", "/a", "A/b", "a/", "-a"] {
            assert!(wrong_key(wrong).is_some(), "{wrong}");
        }
        assert_eq!(wrong_label(""), None);
        assert!(wrong_label("a b").is_some());
        assert!(wrong_label(&"a".repeat(64)).is_some());
    }
}
