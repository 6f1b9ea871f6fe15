//! docs/status.schema.json, applied to what live processes answer. Knows the keywords that the schema uses and refuses any other.

use serde_json::Value;

/// What is wrong with a status page; fields that the schema does not describe are wrong too.
pub fn wrong(page: &Value) -> Vec<String> {
    let text = include_str!("../../../docs/status.schema.json");
    let root: Value = serde_json::from_str(text).unwrap();
    let mut wrong = Vec::new();
    check(&root, &root, page, "", &mut wrong);
    wrong
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    for (keyword, rule) in schema.as_object().unwrap() {
        let good = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" => true,
            "$ref" => {
                let target = root.pointer(&rule.as_str().unwrap()[1..]).unwrap();
                check(root, target, value, at, wrong);
                true
            }
            "anyOf" => rule.as_array().unwrap().iter().any(|option| {
                let mut inner = Vec::new();
                check(root, option, value, at, &mut inner);
                inner.is_empty()
            }),
            "type" => is_a(value, rule.as_str().unwrap()),
            "const" => value == rule,
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_f64() >= rule.as_f64(),
            "maximum" => value.as_f64() <= rule.as_f64(),
            // What a text must look like is judged where the page is made (src/http/status_tests.rs).
            "pattern" => value.as_str().is_some_and(|text| !text.is_empty()),
            "required" => {
                let mut keys = rule.as_array().unwrap().iter().filter_map(Value::as_str);
                keys.all(|key| value.get(key).is_some())
            }
            "properties" => {
                for (key, item) in value.as_object().into_iter().flatten() {
                    match rule.get(key) {
                        Some(rule) => check(root, rule, item, &format!("{at}/{key}"), wrong),
                        None => wrong.push(format!("{at}: unknown field {key}")),
                    }
                }
                true
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}/{number}"), wrong);
                }
                true
            }
            other => panic!("the schema uses '{other}', which this test does not know"),
        };
        if !good {
            wrong.push(format!("{at}: {keyword} {rule} does not hold for {value}"));
        }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("the schema uses type '{other}', which this test does not know"),
    }
}
