//! `docs/api.json` against the server.

use serde_json::Value;

use crate::api::reply::Reply;
use crate::api::routes::{Method, Verb, ROUTES};

/// Deep enough for every body, and an end for one that is not.
const DEPTH_MAX: u32 = 20;

/// What the file says.
pub struct Description(Value);

impl Description {
    pub fn read() -> Self {
        Description(serde_json::from_str(include_str!("../../../../docs/api.json")).expect("JSON"))
    }

    fn operation(&self, verb: Verb) -> &Value {
        let (method, name, _) = ROUTES.iter().find(|(.., known)| *known == verb).expect("a route");
        &self.0["paths"][format!("/{name}")][method.name().to_lowercase()]
    }

    /// The body that the file has as an example of a request.
    pub fn example(&self, verb: Verb) -> Vec<u8> {
        let content = &self.operation(verb)["requestBody"]["content"]["application/json"];
        if content.is_null() {
            return vec![];
        }
        self.check(&content["schema"], &content["example"], "example", DEPTH_MAX);
        content["example"].to_string().into_bytes()
    }

    /// Checks that the file knows of this answer.
    pub fn check_reply(&self, verb: Verb, reply: &Reply) {
        let response = &self.operation(verb)["responses"][reply.status.to_string()];
        assert!(response.is_object(), "{verb:?} does not answer with {reply:?}");
        let schema = &response["content"]["application/json"]["schema"];
        assert_eq!(reply.body.is_some(), schema.is_object(), "{verb:?}: {reply:?}");
        if let Some(body) = &reply.body {
            self.check(schema, body, &format!("{verb:?}"), DEPTH_MAX);
        }
    }

    fn check(&self, schema: &Value, value: &Value, place: &str, depth: u32) {
        assert!(depth > 0, "{place} is too deep");
        if let Some(name) = schema["$ref"].as_str() {
            let name = name.strip_prefix("#/components/schemas/").expect("a schema of this file");
            let schema = &self.0["components"]["schemas"][name];
            assert!(schema.is_object(), "there is no schema {name}");
            return self.check(schema, value, place, depth - 1);
        }
        let fits = match schema["type"].as_str() {
            Some("string") => {
                let most = schema["maxLength"].as_u64().unwrap_or(u64::MAX);
                value.as_str().is_some_and(|text| text.chars().count() as u64 <= most)
            }
            Some("integer") => value.is_u64() || (value.is_i64() && schema["minimum"].is_null()),
            Some("boolean") => value.is_boolean(),
            Some("array") => value.is_array(),
            Some("object") => value.is_object(),
            other => panic!("{place}: the file has a type {other:?}"),
        };
        assert!(fits, "{place}: {value} is no {}", schema["type"]);
        if let Some(choices) = schema["enum"].as_array() {
            assert!(choices.contains(value), "{place}: {value} is none of {choices:?}");
        }
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], item, &format!("{place}[{index}]"), depth - 1);
        }
        let Some(fields) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(fields.contains_key(name.as_str().expect("a name")), "{place}: there is no {name}");
        }
        for (name, field) in fields {
            let (known, others) = (&schema["properties"][name], &schema["additionalProperties"]);
            let place = format!("{place}.{name}");
            match (known.is_object(), others) {
                (true, _) => self.check(known, field, &place, depth - 1),
                (false, Value::Bool(true)) => {}
                (false, Value::Object(_)) => self.check(others, field, &place, depth - 1),
                (false, _) => panic!("{place} is not in the file"),
            }
        }
    }
}

#[test]
fn the_file_has_every_route_and_no_other() {
    let description = Description::read();
    let mut written: Vec<(String, String)> = Vec::new();
    for (path, methods) in description.0["paths"].as_object().expect("paths") {
        for method in methods.as_object().expect("methods").keys() {
            written.push((method.to_uppercase(), path.trim_start_matches('/').into()));
        }
    }
    let mut known: Vec<(String, String)> =
        ROUTES.iter().map(|(method, name, _)| (method.name().into(), (*name).into())).collect();
    written.sort();
    known.sort();
    assert_eq!(written, known);
    assert_eq!(description.0["servers"][0]["url"], "http://localhost/api/v1");
    for (method, _, verb) in ROUTES {
        assert!(method == Method::Put || description.example(verb).is_empty());
    }
}

#[test]
fn the_checker_can_fail() {
    let wrong = |verb, status, body| {
        let reply = Reply { status, body };
        let check = || Description::read().check_reply(verb, &reply);
        assert!(std::panic::catch_unwind(check).is_err(), "{reply:?}");
    };
    wrong(Verb::Ping, 204, None);
    wrong(Verb::Ping, 200, Some(serde_json::json!({"version": "1"})));
    wrong(Verb::Delete, 204, Some(serde_json::json!([])));
    wrong(Verb::Vcpus, 200, Some(serde_json::json!([7])));
    wrong(Verb::Counters, 200, Some(serde_json::json!({"_disk0": {"bytes": -1}})));
}
