//! Fields that Tessera does not know of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::reply::Refusal;

/// The fields of an object that have no place of their own.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Rest(BTreeMap<String, Value>);

/// A field whose value is the usual one: as JSON, or anything. Cloud Hypervisor's own client writes all fields out.
pub type Usual = (&'static str, &'static str);

/// Whatever is said.
pub const ANYTHING: &str = "*";

impl Rest {
    /// Checks that they ask for nothing, or for what is so anyway. `place` is the object's, with a dot behind it.
    ///
    /// # Errors
    /// The name of the first that does.
    pub fn check(&self, place: &str, usual: &[Usual]) -> Result<(), Refusal> {
        let is_usual = |name: &str, value: &Value| {
            let text = value.to_string();
            usual.iter().any(|(known, said)| *known == name && (*said == ANYTHING || *said == text))
        };
        let asks = |(name, value): &(&String, &Value)| asks(value) && !is_usual(name, value);
        match self.0.iter().find(asks) {
            // A name is as long as its sender likes.
            Some((name, _)) => {
                let name: String = name.chars().take(NAME_CHARS_MAX).collect();
                Err(Refusal::BadRequest(format!("{place}{name:?}: Tessera has no such thing")))
            }
            None => Ok(()),
        }
    }
}

/// Most characters of a name that are said back.
const NAME_CHARS_MAX: usize = 64;

/// Whether a value asks for something.
fn asks(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => fields.values().any(asks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_asks_for_nothing_is_passed_over_and_the_rest_is_named() {
        let check = |value| {
            let rest = serde_json::from_value::<Rest>(value).expect("an object");
            rest.check("x.", &[("y", ANYTHING), ("z", "true")])
        };
        assert_eq!(
            check(
                json!({"a": null, "b": {"c": false}, "c": 0, "d": [], "e": {}, "f": "", "y": 7, "z": true})
            ),
            Ok(())
        );
        for value in [json!(true), json!(1), json!("a"), json!([0]), json!({"a": 1})] {
            let refusal = check(json!({"fancy": value})).expect_err("asks for something");
            assert_eq!(refusal.to_string(), "x.\"fancy\": Tessera has no such thing");
        }
    }
}
