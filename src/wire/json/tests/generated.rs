//! Comparison with `serde_json` on generated and on damaged text.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::super::*;

/// Returns random values whose numbers `serde_json` compares exactly.
fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    scalar.prop_recursive(5, 60, 20, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((text(), inner), 0..24).prop_map(|members| Value::Object(Map::from_iter(members))),
        ]
    })
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-d]", "[ -~]{0,12}", any::<String>(), "[\u{0}-\u{1f}\"\\\\é😀x]{0,20}"]
}

/// Writes `value` with random white space and escapes, which `noise` selects.
fn spell(value: &Value, noise: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    if let Some(byte @ 0..4) = noise.next() {
        out.extend(&b" \n\t\r"[usize::from(byte)..]);
    }
    match value {
        Value::Array(values) => {
            out.push(b'[');
            for (i, value) in values.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                spell(value, noise, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            out.push(b'{');
            for (i, (key, value)) in members.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                spell_string(key, noise, out);
                out.push(b':');
                spell(value, noise, out);
            }
            out.push(b'}');
        }
        Value::String(text) => spell_string(text, noise, out),
        scalar => out.extend(scalar.to_string().bytes()),
    }
    out.extend(noise.next().filter(|&byte| byte < 32).map(|_| b' '));
}

fn spell_string(text: &str, noise: &mut impl Iterator<Item = u8>, out: &mut Vec<u8>) {
    out.push(b'"');
    for character in text.chars() {
        if noise.next().is_some_and(|byte| byte < 32) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.extend(format!("\\u{unit:04X}").bytes());
            }
        } else {
            let mut quoted = Vec::new();
            quote(character.encode_utf8(&mut [0; 4]), &mut quoted);
            out.extend(&quoted[1..quoted.len() - 1]);
        }
    }
    out.push(b'"');
}

fn spelled() -> impl Strategy<Value = (Value, Vec<u8>)> {
    (value(), vec(any::<u8>(), 1..64)).prop_map(|(value, noise)| {
        let mut out = Vec::new();
        spell(&value, &mut noise.into_iter().cycle(), &mut out);
        (value, out)
    })
}

/// Returns random bytes that are frequent in JSON.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        4 => proptest::sample::select(&br#"{}[]",:\u0dD8cC19-+.eE tfnrab/"#[..]),
        1 => any::<u8>(),
    ]
}

fn read(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text)
}

fn call_every_function(a: &[u8], b: &[u8]) {
    let name = String::from_utf8_lossy(b);
    let mut out = Vec::new();
    let _ = (Json::parse(a), member(a, &name), scalar_text(a), string(a));
    for (key, value) in members(a) {
        let _ = (string(key), scalar_text(value), members(value).count());
    }
    with_first(a, &name, b, &[&name, "a"], &mut out);
    merge_patch(a, b, &mut out);
    quote(&name, &mut out);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_compacted_text_has_the_same_value((value, text) in spelled()) {
        let json = Json::parse(&text).unwrap();
        prop_assert_eq!(&read(json.as_bytes()).unwrap(), &value);
        prop_assert_eq!(Json::parse(json.as_bytes()), Ok(json.clone()));
        if let Value::Object(expected) = &value {
            prop_assert_eq!(members(json.as_bytes()).count(), expected.len());
            for (name, value) in expected {
                let found = member(json.as_bytes(), name).unwrap();
                prop_assert_eq!(&read(found).unwrap(), value);
                let content = string(found);
                prop_assert_eq!(content.as_deref(), value.as_str());
            }
        }
    }

    #[test]
    fn damaged_text_is_accepted_if_serde_json_accepts_it(
        (_, mut text) in spelled(),
        edits in vec((any::<prop::sample::Index>(), byte(), 0..3_u8), 0..4),
    ) {
        for (at, byte, edit) in edits {
            let at = at.index(text.len() + 1);
            match edit {
                0 if at < text.len() => text[at] = byte,
                1 if at < text.len() => drop(text.remove(at)),
                _ => text.insert(at, byte),
            }
        }
        check_agreement(&text)?;
    }

    #[test]
    fn random_text_is_accepted_if_serde_json_accepts_it(text in vec(byte(), 0..16)) {
        check_agreement(&text)?;
    }

    #[test]
    fn a_quoted_text_is_read_back_unchanged(text: String) {
        let mut out = Vec::new();
        quote(&text, &mut out);
        prop_assert_eq!(Json::parse(&out).map(Json::into_bytes), Ok(out.clone().into()));
        let read_back = string(&out);
        prop_assert_eq!(read_back.as_deref(), Some(&text[..]));
    }

    #[test]
    fn a_merge_patch_has_the_result_of_the_algorithm_in_rfc_7396(
        (target, a) in spelled(),
        (patch, b) in spelled(),
    ) {
        let [a, b] = [a, b].map(|text| Json::parse(&text).unwrap());
        let mut out = Vec::new();
        merge_patch(a.as_bytes(), b.as_bytes(), &mut out);
        prop_assert_eq!(Json::parse(&out).map(Json::into_bytes), Ok(out.clone().into()));
        prop_assert_eq!(read(&out).unwrap(), merged(target, &patch));
    }

    #[test]
    fn the_new_first_member_precedes_all_members(
        (_, text) in spelled(),
        name in text(),
        drop in text(),
    ) {
        let json = Json::parse(&text).unwrap();
        let mut out = Vec::new();
        with_first(json.as_bytes(), &name, b"[1]", &[&drop], &mut out);
        prop_assert_eq!(Json::parse(&out).map(Json::into_bytes), Ok(out.clone().into()));
        let mut first = Vec::new();
        quote(&name, &mut first);
        prop_assert_eq!(members(&out).next(), Some((&first[..], &b"[1]"[..])));
        prop_assert!(drop == name || member(&out, &drop).is_none());
    }

    #[test]
    fn arbitrary_bytes_never_panic(a in vec(any::<u8>(), 0..64), b in vec(any::<u8>(), 0..64)) {
        call_every_function(&a, &b);
    }

    #[test]
    fn bytes_that_are_similar_to_json_never_panic(
        a in vec(byte(), 0..64),
        b in vec(byte(), 0..64),
    ) {
        call_every_function(&a, &b);
        call_every_function(&[b"{\"a\":".as_slice(), &a].concat(), &[b"{\"a\":", &b[..]].concat());
    }
}

/// Checks that both parsers read the same value from `text`, or that both reject
/// `text`. There are two exceptions: only `serde_json` accepts a duplicate key, and
/// only this module accepts a number that exceeds an `f64`.
fn check_agreement(text: &[u8]) -> Result<(), TestCaseError> {
    let (ours, theirs) = (Json::parse(text), read(text));
    match (&ours, &theirs) {
        (Ok(json), Ok(value)) => prop_assert_eq!(&read(json.as_bytes()).unwrap(), value),
        (Err(e), Ok(_)) => prop_assert_eq!(e.reason, "duplicate member name in the object"),
        (Ok(_), Err(e)) => prop_assert!(e.to_string().starts_with("number out of range"), "{}", e),
        (Err(e), Err(_)) => prop_assert!(e.position <= text.len()),
    }
    Ok(())
}

/// Returns the result of the algorithm in RFC 7396 §2.
fn merged(target: Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else { return patch.clone() };
    let mut target = match target {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    for (name, value) in patch {
        if value.is_null() {
            target.remove(name);
        } else {
            let old = target.remove(name).unwrap_or_default();
            target.insert(name.clone(), merged(old, value));
        }
    }
    Value::Object(target)
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    for unit in [r#"{"a":"#, "[", "{", r#"{"a":1,"a":"#] {
        let deep = unit.repeat(5000).into_bytes();
        call_every_function(&deep, &deep);
    }
}
