//! The JSON scanner and its functions: no input panics, and output made of
//! valid text is valid and compact. The input is two texts, separated by 0.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamgate::wire::json::{self, Json};

fuzz_target!(|input: &[u8]| {
    let (a, b) = input.split_at(input.iter().position(|&byte| byte == 0).unwrap_or(input.len()));
    let b = b.strip_prefix(b"\0").unwrap_or(b"{}");
    through_everything(a, b);
    let (Ok(target), Ok(patch)) = (Json::parse(a), Json::parse(b)) else { return };
    for json in [&target, &patch] {
        assert_compact(json.as_bytes());
    }
    through_everything(target.as_bytes(), patch.as_bytes());
    let mut merged = Vec::new();
    json::merge_patch(target.as_bytes(), patch.as_bytes(), &mut merged);
    assert_compact(&merged);
    let mut again = Vec::new();
    json::merge_patch(&merged, patch.as_bytes(), &mut again);
    assert_eq!(merged, again, "a patch twice is a patch once");
    for (key, value) in json::members(&merged) {
        assert_compact(value);
        let name = json::string(key).expect("a key is a string");
        assert_eq!(json::member(&merged, &name), Some(value));
        let mut quoted = Vec::new();
        json::quote(&name, &mut quoted);
        assert_eq!(quoted, key, "a key has one spelling");
    }
});

fn through_everything(a: &[u8], b: &[u8]) {
    let name = String::from_utf8_lossy(b);
    let mut out = Vec::new();
    json::merge_patch(a, b, &mut out);
    json::with_first(a, &name, b, &["a", &name], &mut out);
    json::quote(&name, &mut out);
    let _ = (json::member(a, &name), json::scalar_text(a), json::string(a));
    for (key, value) in json::members(a) {
        let _ = (json::string(key), json::scalar_text(value), json::members(value).count());
    }
}

fn assert_compact(text: &[u8]) {
    assert_eq!(Json::parse(text).expect("the input was valid").as_bytes(), text);
}
