//! JSON patch (RFC 6902), as a pure function on JSON.

use super::patch::PatchError;
use serde_json::Value;

/// Applies a list of operations to `target`; one that does not fit spoils them all.
pub fn apply(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let operations = patch.as_array().ok_or_else(|| {
        PatchError::Malformed("error decoding patch: a list of operations is wanted".to_owned())
    })?;
    for operation in operations {
        one(target, operation).ok_or(PatchError::DoesNotFit)?;
    }
    Ok(())
}

fn one(target: &mut Value, operation: &Value) -> Option<()> {
    let path = operation.get("path")?.as_str()?;
    // A value of null is a value.
    let value = || operation.get("value").cloned();
    let from = || operation.get("from")?.as_str();
    match operation.get("op")?.as_str()? {
        "add" => add(target, path, value()?),
        "remove" => remove(target, path).map(|_| ()),
        "replace" => {
            *target.pointer_mut(path)? = value()?;
            Some(())
        }
        "test" => (*target.pointer(path)? == value()?).then_some(()),
        "copy" => {
            let copied = target.pointer(from()?)?.clone();
            add(target, path, copied)
        }
        "move" => {
            let moved = remove(target, from()?)?;
            add(target, path, moved)
        }
        _ => None,
    }
}

/// The pointer to the parent, and the last step from there.
fn split(path: &str) -> Option<(&str, String)> {
    let (parent, last) = path.rsplit_once('/')?;
    Some((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Option<()> {
    if path.is_empty() {
        *target = value;
        return Some(());
    }
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => {
            map.insert(last, value);
        }
        Value::Array(list) if last == "-" => list.push(value),
        Value::Array(list) => {
            let place = last.parse().ok().filter(|place| *place <= list.len())?;
            list.insert(place, value);
        }
        _ => return None,
    }
    Some(())
}

fn remove(target: &mut Value, path: &str) -> Option<Value> {
    let (parent, last) = split(path)?;
    match target.pointer_mut(parent)? {
        Value::Object(map) => map.remove(&last),
        Value::Array(list) => {
            let place = last.parse().ok().filter(|place| *place < list.len())?;
            Some(list.remove(place))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn operations_follow_the_rfc() {
        for (target, operation, result) in [
            (
                json!({"a": 1}),
                json!({"op": "add", "path": "/b", "value": 2}),
                Some(json!({"a": 1, "b": 2})),
            ),
            (
                json!({"l": [1, 3]}),
                json!({"op": "add", "path": "/l/1", "value": 2}),
                Some(json!({"l": [1, 2, 3]})),
            ),
            (
                json!({"l": [1]}),
                json!({"op": "add", "path": "/l/-", "value": 2}),
                Some(json!({"l": [1, 2]})),
            ),
            (
                json!({"l": [1]}),
                json!({"op": "add", "path": "/l/2", "value": 2}),
                None,
            ),
            (json!({}), json!({"op": "add", "path": "/a/b", "value": 2}), None),
            (
                json!({"a/b": 1}),
                json!({"op": "remove", "path": "/a~1b"}),
                Some(json!({})),
            ),
            (json!({"a": 1}), json!({"op": "remove", "path": "/b"}), None),
            (
                json!({"a": 1}),
                json!({"op": "replace", "path": "/a", "value": null}),
                Some(json!({"a": null})),
            ),
            (
                json!({"a": 1}),
                json!({"op": "replace", "path": "/b", "value": 2}),
                None,
            ),
            (
                json!({"a": 1}),
                json!({"op": "test", "path": "/a", "value": 1}),
                Some(json!({"a": 1})),
            ),
            (
                json!({"a": 1}),
                json!({"op": "test", "path": "/a", "value": 2}),
                None,
            ),
            (
                json!({"a": 1}),
                json!({"op": "move", "from": "/a", "path": "/b"}),
                Some(json!({"b": 1})),
            ),
            (
                json!({"a": 1}),
                json!({"op": "copy", "from": "/a", "path": "/b"}),
                Some(json!({"a": 1, "b": 1})),
            ),
            (json!({"a": 1}), json!({"op": "nonsense", "path": "/a"}), None),
        ] {
            let mut got = target.clone();
            let ended = apply(&mut got, &json!([operation]));
            assert_eq!(ended.is_ok().then_some(got), result, "{target} {operation}");
        }
    }
}
