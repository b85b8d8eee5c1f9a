//! Random requests: the examples of the description, what users have been seen to get wrong, and changes of both.

use proptest::prelude::*;

use super::openapi::Description;
use super::world::Scene;
use crate::api::routes::{self, Verb, ROUTES};

/// What is worth trying besides the examples.
const CORPUS: [&str; 10] = [
    "",
    "{}",
    "[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]",
    r#"{"payload":{"kernel":"k"},"memory":{"size":18446744073709551615}}"#,
    r#"{"payload":{"kernel":"k"},"memory":{"size":-1}}"#,
    r#"{"payload":{"kernel":"k"},"cpus":{"boot_vcpus":4294967295,"max_vcpus":4294967296}}"#,
    r#"{"payload":{"kernel":"k"},"tessera":{"memory_per_host":[18446744073709551615,1]}}"#,
    r#"{"payload":{"kernel":"\u0000"},"disks":[{"path":""},{"path":"/","serial":"\n"}]}"#,
    r#"{"id":"_disk0"}"#,
    r#"{"vcpu":4294967295,"to":"../../"}"#,
];

/// What replaces a piece of a body.
fn piece() -> impl Strategy<Value = String> {
    let known =
        ["null", "-1", "1e999", "18446744073709551616", "\"\"", "[]", "{}", "\"_\"", ",", "\\", "true"];
    prop_oneof![proptest::sample::select(known.to_vec()).prop_map(String::from), "\\PC{0,12}"]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let description = Description::read();
    let examples = ROUTES.iter().map(|(.., verb)| description.example(*verb));
    let corpus: Vec<Vec<u8>> = CORPUS.iter().map(|text| text.as_bytes().to_vec()).chain(examples).collect();
    let change = (any::<prop::sample::Index>(), 0usize..24, piece());
    (proptest::sample::select(corpus), proptest::collection::vec(change, 0..4)).prop_map(
        |(mut body, changes)| {
            for (at, removed, piece) in changes {
                let at = at.index(body.len() + 1);
                let end = (at + removed).min(body.len());
                body.splice(at..end, piece.into_bytes());
            }
            body
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_sequence_of_requests_is_answered_as_the_description_says(
        requests in proptest::collection::vec((proptest::sample::select(ROUTES.as_slice()), body()), 1..20),
    ) {
        let scene = Scene::new();
        for ((_, _, verb), body) in requests {
            if matches!(verb, Verb::Quit | Verb::Stop) {
                continue;
            }
            scene.ask(verb, &body);
        }
        scene.ask(Verb::Quit, b"");
    }

    #[test]
    fn no_path_panics(method in "\\PC{0,8}", path in "(/api/v1/)?(vm|tessera)?\\.?\\PC{0,12}") {
        let _either = routes::find(&method, &path);
    }
}
