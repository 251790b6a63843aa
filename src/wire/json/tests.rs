use super::*;

mod generated;

fn compact(input: &str) -> String {
    let json = Json::parse(input.as_bytes()).unwrap_or_else(|e| panic!("{input:?}: {e}"));
    String::from_utf8(json.0.to_vec()).unwrap()
}

fn patched(target: &str, patch: &str) -> String {
    let mut out = Vec::new();
    merge_patch(target.as_bytes(), patch.as_bytes(), &mut out);
    String::from_utf8(out).unwrap()
}

fn quoted(text: &str) -> String {
    let mut out = Vec::new();
    quote(text, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn valid_text_is_only_compacted() {
    for (input, expected) in [
        ("null", "null"),
        (" true ", "true"),
        ("\t\r\n false\n", "false"),
        ("0", "0"),
        ("-0", "-0"),
        ("1.50e+007", "1.50e+007"),
        ("1E400", "1E400"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        (r#""""#, r#""""#),
        (r#"" a  b ""#, r#"" a  b ""#),
        (r#""\u0041\/\n\ud83d\ude00""#, r#""\u0041\/\n\ud83d\ude00""#),
        ("\"é😀\u{2028}\u{7f}\"", "\"é😀\u{2028}\u{7f}\""),
        ("[ ]", "[]"),
        ("{ }", "{}"),
        ("[ 1 , [ ] , { } ]", "[1,[],{}]"),
        (r#" { "b" : 1 , "a" : [ null ] } "#, r#"{"b":1,"a":[null]}"#),
        (r#"{"a":{"a":1},"b":{"a":1}}"#, r#"{"a":{"a":1},"b":{"a":1}}"#),
        (r#"{"":0}"#, r#"{"":0}"#),
        (r#"{ "\u0069d" : 1, "x":2}"#, r#"{"id":1,"x":2}"#),
        (r#"{"\/\u000a\u0001\u0022":1}"#, r#"{"/\n\u0001\"":1}"#),
        (r#"{"\ud83d\ude00":1}"#, r#"{"😀":1}"#),
    ] {
        assert_eq!(compact(input), expected, "{input:?}");
    }
}

fn check_invalid(cases: &[(&[u8], usize, &'static str)]) {
    for &(input, position, reason) in cases {
        let expected = ParseError { position, reason };
        assert_eq!(Json::parse(input), Err(expected), "{:?}", input.escape_ascii().to_string());
    }
}

#[test]
fn an_invalid_structure_is_rejected_at_its_first_invalid_byte() {
    let value = "expected a value";
    let after = "unexpected text after the value";
    let brace = "expected a comma or a closing brace";
    let bracket = "expected a comma or a closing bracket";
    let name = "expected a member name in quotes";
    let twice = "duplicate member name in the object";
    check_invalid(&[
        (b"", 0, value),
        (b"  ", 2, value),
        (b"\xef\xbb\xbf{}", 0, value),
        (b"nul", 0, value),
        (b"nulls", 4, after),
        (b"True", 0, value),
        (b"NaN", 0, value),
        (b"'a'", 0, value),
        (b"{} {}", 3, after),
        (b"1\0", 1, after),
        (b"1\x0b", 1, after),
        (b"\xc2\xa01", 0, value),
        (b"[1 2]", 3, bracket),
        (b"[1,]", 3, value),
        (b"[", 1, value),
        (b"[1", 2, bracket),
        (b"[1}", 2, bracket),
        (b"]", 0, value),
        (b"{", 1, name),
        (b"{,}", 1, name),
        (b"{\"a\"}", 4, "expected a colon"),
        (b"{\"a\":}", 5, value),
        (b"{\"a\":1,}", 7, name),
        (b"{\"a\":1", 6, brace),
        (b"{\"a\":1]", 6, brace),
        (b"{\"a\":1 \"b\":2}", 7, brace),
        (b"{a:1}", 1, name),
        (b"{\"a\":1,\"b\":2,\"a\":3}", 13, twice),
        (b"{\"id\":1, \"\\u0069d\":2}", 9, twice),
        (b"[{\"a\":{\"b\":1,\"b\":1}}]", 13, twice),
    ]);
}

#[test]
fn an_invalid_scalar_is_rejected_at_its_first_invalid_byte() {
    let value = "expected a value";
    let after = "unexpected text after the value";
    let digit = "expected a digit";
    let control = "a control character in a string must be escaped";
    let open = "the string has no closing quote";
    let hex = "a \\u escape needs four hexadecimal digits";
    let half = "the escape of a surrogate needs the other half of its pair";
    check_invalid(&[
        (b"-", 1, digit),
        (b"+1", 0, value),
        (b".5", 0, value),
        (b"1.", 2, digit),
        (b"1.e1", 2, digit),
        (b"1e+", 3, digit),
        (b"01", 1, "a number must not have leading zeros"),
        (b"-01", 2, "a number must not have leading zeros"),
        (b"0x1", 1, after),
        (b"\"a\nb\"", 2, control),
        (b"\"12345678\x1f\"", 9, control),
        (b"\"abc", 4, open),
        (b"\"abcdefghijkl\\\"", 15, open),
        (b"\"a\\x\"", 2, "not an escape of JSON"),
        (b"\"\\", 1, "not an escape of JSON"),
        (b"\"\\u12g4\"", 1, hex),
        (b"\"\\u+123\"", 1, hex),
        (b"\"\\u123", 1, hex),
        (b"\"a\\ud800\"", 2, half),
        (b"\"a\\ude00\\ud83d\"", 2, half),
        (b"\"\\ud800\\u0041\"", 1, half),
        (b"\"\\ud83d\\ud83d\\ude00\"", 1, half),
        (b"\"ab\xff\"", 3, "not UTF-8"),
        (b"\"abcdefghij\xc3\"", 11, "not UTF-8"),
        (b"\"\xed\xa0\x80\"", 1, "not UTF-8"),
        (b"\"\xc0\x80\"", 1, "not UTF-8"),
    ]);
}

#[test]
fn nesting_has_the_same_limit_for_arrays_and_objects() {
    assert_eq!(DEPTH_MAX, 64, "the error text has this number");
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}"), (r#"[{"a":"#, "}]")] {
        let levels = 64 / open.matches(['[', '{']).count();
        let nested = |levels| format!("{}1{}", open.repeat(levels), close.repeat(levels));
        assert_eq!(compact(&nested(levels)), nested(levels));
        let error = Json::parse(nested(levels + 1).as_bytes()).unwrap_err();
        let expected = "more than 64 levels of nesting";
        assert_eq!((error.position, error.reason), (open.len() * levels, expected));
    }
    assert!(Json::parse(&[b'['].repeat(1 << 20)).is_err());
}

#[test]
fn a_duplicate_key_is_found_among_any_number_of_keys() {
    for count in [1, 2, 15, 16, 17, 18, 100, 5000] {
        let members = |from| (from..count).map(|i| format!(r#""k{i}":{{"k{i}":{i}}}"#));
        let whole = format!("{{{}}}", members(0).collect::<Vec<_>>().join(","));
        assert_eq!(compact(&whole), whole);
        for twice in [0, count / 2, count - 1] {
            let text = format!(r#"{},"\u006b{twice}":0}}"#, &whole[..whole.len() - 1]);
            let error = Json::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.reason, "duplicate member name in the object");
            assert_eq!(error.position, whole.len(), "{count} {twice}");
        }
    }
}

#[test]
fn the_memory_of_removed_white_space_is_freed() {
    let spaced = format!("[{}1]", " ".repeat(10_000));
    let out = scan::compact(spaced.as_bytes()).unwrap();
    assert!(out.capacity() < 1000, "{}", out.capacity());
}

#[test]
fn members_are_returned_as_slices_in_their_order() {
    let object = br#"{"a":1,"b":{"c":[2,"}"]},"d\"":"x,\"y","e":[],"f":-1.5e3,"g":null}"#;
    let found: Vec<_> = members(object)
        .map(|(key, value)| (str::from_utf8(key).unwrap(), str::from_utf8(value).unwrap()))
        .collect();
    let expected = [
        (r#""a""#, "1"),
        (r#""b""#, r#"{"c":[2,"}"]}"#),
        (r#""d\"""#, r#""x,\"y""#),
        (r#""e""#, "[]"),
        (r#""f""#, "-1.5e3"),
        (r#""g""#, "null"),
    ];
    assert_eq!(found, expected);
    for other in ["{}", "[]", r#"["a",{"b":1}]"#, "1", r#""{\"a\":1}""#, ""] {
        assert_eq!(members(other.as_bytes()).count(), 0, "{other}");
        assert_eq!(member(other.as_bytes(), "a"), None, "{other}");
    }
    assert_eq!(member(object, "f"), Some(&b"-1.5e3"[..]));
    assert_eq!(member(object, "d\""), Some(&br#""x,\"y""#[..]));
    assert_eq!(member(object, "c"), None, "a member of an inner object");
}

#[test]
fn only_scalars_have_a_text() {
    for (value, expected) in [
        (r#""a b""#, Some("a b")),
        (r#""""#, Some("")),
        (r#""\u00e9\n\\\"\/\b\f\r\t\ud83d\ude00é""#, Some("é\n\\\"/\u{8}\u{c}\r\t😀é")),
        ("-1.50", Some("-1.50")),
        ("true", Some("true")),
        ("null", Some("null")),
        ("{}", None),
        ("[1]", None),
        ("", None),
        ("\"", None),
        (r#""\"#, None),
        (r#""\ud800""#, None),
    ] {
        assert_eq!(scalar_text(value.as_bytes()).as_deref(), expected, "{value}");
        let is_string = value.starts_with('"');
        assert_eq!(string(value.as_bytes()).as_deref(), expected.filter(|_| is_string), "{value}");
    }
}

#[test]
fn a_quoted_text_has_only_the_required_escapes() {
    for (text, expected) in [
        ("", r#""""#),
        ("order-1", r#""order-1""#),
        ("a\"b\\c/d", r#""a\"b\\c/d""#),
        (
            "\u{0}\u{8}\t\n\u{b}\u{c}\r\u{1f} \u{7f}",
            "\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f \u{7f}\"",
        ),
        ("é\u{2028}😀", "\"é\u{2028}😀\""),
    ] {
        assert_eq!(quoted(text), expected);
    }
}

#[test]
fn a_new_first_member_replaces_a_member_with_the_same_name() {
    let check = |object: &str, drop: &[&str], expected: &str| {
        let mut out = b"data: ".to_vec();
        with_first(object.as_bytes(), "orderId", br#""o1""#, drop, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), format!("data: {expected}"));
    };
    check("{}", &[], r#"{"orderId":"o1"}"#);
    check("17", &[], r#"{"orderId":"o1"}"#);
    check(r#"{"id":"o1","n":1}"#, &["id"], r#"{"orderId":"o1","n":1}"#);
    check(r#"{"n":1,"orderId":"x","id":{}}"#, &["id", "z"], r#"{"orderId":"o1","n":1}"#);
    check(r#"{"a\n":1,"b":[2]}"#, &["a\n"], r#"{"orderId":"o1","b":[2]}"#);
}

/// Checks the targets, patches and results of RFC 7396, Appendix A.
#[test]
fn a_merge_patch_has_the_results_of_the_examples_in_rfc_7396() {
    for (target, patch, expected) in [
        (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
        (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
        (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
        (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
        (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
        (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
        (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
        (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
        (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
        (r#"{"a":"foo"}"#, "null", "null"),
        (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
        (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
        ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
        ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
    ] {
        assert_eq!(patched(target, patch), expected, "{target} with {patch}");
    }
}

#[test]
fn a_merge_patch_keeps_the_order_of_the_target_and_appends_new_members() {
    assert_eq!(
        patched(
            r#"{"z":1,"y":{"b":1,"a":2},"x":3}"#,
            r#"{"n":4,"x":null,"y":{"a":5,"m":[null]},"k":6}"#
        ),
        r#"{"z":1,"y":{"b":1,"a":5,"m":[null]},"n":4,"k":6}"#
    );
}

#[test]
fn a_merge_patch_changes_the_deepest_level() {
    let nested = |value| format!("{}{value}{}", r#"{"a":"#.repeat(64), "}".repeat(64));
    assert_eq!(patched(&nested("1"), &nested("2")), nested("2"));
    let emptied = format!("{}{{}}{}", r#"{"a":"#.repeat(63), "}".repeat(63));
    assert_eq!(patched(&nested("1"), &nested("null")), emptied);
    assert_eq!(patched("1", &nested("null")), emptied);
}

#[test]
fn a_merge_patch_finds_a_key_among_any_number_of_keys() {
    for count in [16, 17, 5000] {
        let members = |from: usize, value: &str| {
            let members: Vec<_> = (from..count).map(|i| format!(r#""k{i}":{value}"#)).collect();
            format!("{{{}}}", members.join(","))
        };
        assert_eq!(patched(&members(0, "1"), &members(0, "2")), members(0, "2"));
        assert_eq!(patched(&members(3, "1"), &members(3, "null")), "{}");
    }
}
