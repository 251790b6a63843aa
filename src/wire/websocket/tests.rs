use proptest::collection::vec;
use proptest::prelude::*;
use tokio_tungstenite::tungstenite::protocol::frame::Frame as ForeignFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{
    Control as ForeignControl, Data as ForeignData, OpCode,
};

use super::*;

const LIMITS: Limits = Limits { message_bytes_max: 1000, message_fragments_max: 8 };

const TEXT: u8 = 0x01;
const BINARY: u8 = 0x02;
const CONTINUE: u8 = 0x00;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const FINAL: u8 = 0x80;

/// Returns a client's masked frame with the first byte `first` and `payload`.
fn client(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, payload.len() as u64);
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

/// Returns only the header of a client's frame that announces `length` bytes.
fn header(first: u8, length: u64) -> Vec<u8> {
    let mut out = vec![first];
    match length {
        0..=125 => out.push(0x80 | length as u8),
        126..=0xffff => {
            out.push(0x80 | 0x7e);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(0x80 | 0x7f);
            out.extend(length.to_be_bytes());
        }
    }
    out.extend([0x37, 0xfa, 0x21, 0x3d]);
    out
}

type Outcome = (Vec<Message>, Option<ProtocolError>);

/// Decodes `pieces` one after the other. Returns the messages and the protocol
/// error.
fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::default();
    let mut messages = Vec::new();
    for piece in pieces {
        let result = decoder.feed(piece, LIMITS, |incoming| messages.push(incoming));
        if let Err(violation) = result {
            return (messages, Some(violation));
        }
    }
    (messages, None)
}

#[track_caller]
fn check(frames: &[Vec<u8>], expected: &[Message], close: Option<CloseCode>) {
    let bytes = frames.concat();
    for (pieces, outcome) in [
        ("in one piece", decode([bytes.as_slice()])),
        ("in pieces of one byte", decode(bytes.chunks(1))),
        ("in pieces of seven bytes", decode(bytes.chunks(7))),
    ] {
        assert_eq!(outcome.0, expected, "{pieces}");
        assert_eq!(outcome.1.map(|violation| violation.close), close, "{pieces}");
    }
}

fn text_of(text: &str) -> Message {
    Message::Text(text.to_owned())
}

fn closed(code: Option<u16>, reason: &str) -> Message {
    Message::Close { code, reason: reason.to_owned() }
}

#[test]
fn a_message_of_one_frame_is_decoded() {
    check(&[client(FINAL | TEXT, b"hello")], &[text_of("hello")], None);
    check(&[client(FINAL | TEXT, b"")], &[text_of("")], None);
    check(&[client(FINAL | BINARY, b"\xff\0")], &[Message::Binary(b"\xff\0"[..].into())], None);
    check(
        &[client(FINAL | TEXT, "zażółć".as_bytes()), client(FINAL | TEXT, "🎏".as_bytes())],
        &[text_of("zażółć"), text_of("🎏")],
        None,
    );
    let long = "x".repeat(1000);
    check(&[client(FINAL | TEXT, long.as_bytes())], &[text_of(&long)], None);
}

#[test]
fn control_frames_are_decoded_between_the_fragments_of_a_message() {
    check(
        &[
            client(TEXT, b"one \xc5"),
            client(PING, b"p"),
            client(CONTINUE, b""),
            client(CONTINUE, b"\xbc two"),
            client(PONG, b""),
            client(FINAL | CONTINUE, b" three"),
            client(FINAL | TEXT, b"next"),
        ],
        &[
            Message::Ping(b"p"[..].into()),
            Message::Pong(Bytes::new()),
            text_of("one ż two three"),
            text_of("next"),
        ],
        None,
    );
}

#[test]
fn a_close_frame_is_accepted_with_a_valid_code_only() {
    check(&[client(CLOSE, b"")], &[closed(None, "")], None);
    check(&[client(CLOSE, b"\x03\xe8")], &[closed(Some(1000), "")], None);
    check(&[client(CLOSE, b"\x0f\xa1why")], &[closed(Some(4001), "why")], None);
    check(&[client(CLOSE, b"\x03")], &[], Some(CloseCode::Protocol));
    check(&[client(CLOSE, b"\x03\xe8\xff")], &[], Some(CloseCode::NotUtf8));
    for code in [1000u16, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4000, 4999] {
        check(&[client(CLOSE, &code.to_be_bytes())], &[closed(Some(code), "")], None);
    }
    for code in [0u16, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        check(&[client(CLOSE, &code.to_be_bytes())], &[], Some(CloseCode::Protocol));
    }
}

#[test]
fn bytes_after_a_close_frame_are_dropped() {
    check(
        &[client(CLOSE, b""), client(FINAL | TEXT, b"late"), vec![0xff; 20]],
        &[closed(None, "")],
        None,
    );
}

#[test]
fn bytes_after_a_protocol_error_are_dropped() {
    let mut decoder = Decoder::default();
    let reserved = client(FINAL | 0x03, b"");
    assert!(decoder.feed(&reserved, LIMITS, |_| panic!("no message is complete")).is_err());
    let valid = client(FINAL | TEXT, b"valid");
    assert_eq!(decoder.feed(&valid, LIMITS, |_| panic!("the message must be dropped")), Ok(()));
    assert_eq!(decoder.buffered_bytes(), 0);
}

#[test]
fn frames_that_rfc_6455_forbids_are_protocol_errors() {
    let protocol = |frames: &[Vec<u8>]| check(frames, &[], Some(CloseCode::Protocol));
    protocol(&[vec![FINAL | TEXT, 5, b'h', b'e', b'l', b'l', b'o']]); // unmasked
    for reserved_bit in [0x40, 0x20, 0x10] {
        protocol(&[client(FINAL | reserved_bit | TEXT, b"x")]);
        protocol(&[client(PING | reserved_bit, b"x")]);
    }
    for opcode in (0x03..=0x07).chain(0x0b..=0x0f) {
        protocol(&[client(FINAL | opcode, b"")]);
        protocol(&[client(opcode, b"")]);
    }
    for control in [CLOSE, PING, PONG] {
        protocol(&[client(control & !FINAL, b"")]);
        protocol(&[client(control, &[b'x'; 126])]);
        protocol(&[header(control, 1 << 40)]);
    }
    protocol(&[client(CONTINUE, b"x")]);
    protocol(&[client(FINAL | CONTINUE, b"x")]);
    protocol(&[client(TEXT, b"x"), client(FINAL | TEXT, b"y")]);
    protocol(&[client(TEXT, b"x"), client(BINARY, b"y")]);
    // Lengths that are not in their shortest form, and a length of 64 bits.
    protocol(&[vec![FINAL | TEXT, 0x80 | 0x7e, 0, 5, 0, 0, 0, 0]]);
    protocol(&[vec![FINAL | TEXT, 0x80 | 0x7f, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]]);
    protocol(&[header(FINAL | TEXT, u64::MAX)]);
}

#[test]
fn a_complete_message_before_a_protocol_error_is_delivered() {
    check(
        &[client(FINAL | TEXT, b"valid"), client(FINAL | 0x07, b"")],
        &[text_of("valid")],
        Some(CloseCode::Protocol),
    );
}

#[test]
fn text_that_is_not_utf8_is_rejected_at_its_first_invalid_byte() {
    for invalid in [&b"\xff"[..], b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\x80"] {
        check(&[client(FINAL | TEXT, invalid)], &[], Some(CloseCode::NotUtf8));
        check(&[client(TEXT, invalid)], &[], Some(CloseCode::NotUtf8));
    }
    check(&[client(FINAL | TEXT, b"cut \xc5")], &[], Some(CloseCode::NotUtf8));
    check(
        &[client(TEXT, b"\xce\xba"), client(CONTINUE, b"\xf4\x90")],
        &[],
        Some(CloseCode::NotUtf8),
    );
    let mut incomplete = client(FINAL | TEXT, b"\xff and more");
    incomplete.truncate(7);
    check(&[incomplete], &[], Some(CloseCode::NotUtf8));
}

#[test]
fn a_message_above_the_limit_is_rejected_at_its_header() {
    let too_big = |frames: &[Vec<u8>]| check(frames, &[], Some(CloseCode::TooBig));
    too_big(&[header(FINAL | TEXT, 1001)]);
    too_big(&[header(FINAL | BINARY, i64::MAX as u64)]);
    too_big(&[client(TEXT, &[b'x'; 900]), header(CONTINUE, 101)]);
    let thousand = text_of(&"x".repeat(1000));
    check(&[client(TEXT, &[b'x'; 900]), client(FINAL | CONTINUE, &[b'x'; 100])], &[thousand], None);
}

#[test]
fn a_message_with_too_many_fragments_is_rejected() {
    let mut frames = vec![client(TEXT, b"")];
    frames.extend(vec![client(CONTINUE, b""); 7]);
    check(&frames, &[], None);
    frames.push(client(FINAL | CONTINUE, b""));
    check(&frames, &[], Some(CloseCode::Policy));
    // Each message has its own count.
    let of_two = [client(TEXT, b""), client(FINAL | CONTINUE, b"")].concat();
    check(&vec![of_two; 8], &vec![text_of(""); 8], None);
}

#[test]
fn control_frames_and_empty_fragments_are_counted() {
    let count = |frames: &[Vec<u8>]| {
        let mut decoder = Decoder::default();
        for byte in frames.concat() {
            decoder.feed(&[byte], LIMITS, drop).unwrap();
        }
        let count = decoder.take_control_frames();
        assert_eq!(decoder.take_control_frames(), 0);
        count
    };
    assert_eq!(count(&[client(FINAL | TEXT, b""), client(FINAL | BINARY, b"x")]), 0);
    assert_eq!(count(&[client(TEXT, b"a"), client(FINAL | CONTINUE, b"b")]), 0);
    assert_eq!(count(&[client(PING, b"p"), client(PONG, b"")]), 2);
    let empty = [client(TEXT, b""), client(CONTINUE, b""), client(FINAL | CONTINUE, b"")];
    assert_eq!(count(&empty), 3);
}

#[test]
fn an_announced_length_allocates_no_memory() {
    let limits = Limits { message_bytes_max: usize::MAX, ..LIMITS };
    let mut decoder = Decoder::default();
    let frame = [header(FINAL | BINARY, 1 << 40), vec![0; 100]].concat();
    assert_eq!(decoder.feed(&frame, limits, |_| panic!("no message is complete")), Ok(()));
    assert!(decoder.unfinished());
    assert_eq!(decoder.buffered_bytes(), 100);
}

#[test]
fn a_decoder_between_messages_has_no_heap_memory() {
    assert!(size_of::<Decoder>() <= 80, "{}", size_of::<Decoder>());
    let mut decoder = Decoder::default();
    assert!(!decoder.unfinished());
    let frames = [client(TEXT, b"a"), client(PING, b"p"), client(FINAL | CONTINUE, b"b")].concat();
    for (at, &byte) in frames.iter().enumerate() {
        decoder.feed(&[byte], LIMITS, drop).unwrap();
        assert_eq!(decoder.unfinished(), at + 1 < frames.len());
    }
    assert_eq!(decoder.buffered_bytes(), 0);
    assert!(decoder.message.is_none());
}

#[test]
fn server_frames_have_the_bytes_of_rfc_6455() {
    assert_eq!(&text(b"hi")[..], b"\x81\x02hi");
    assert_eq!(&text(&[b'x'; 126])[..4], b"\x81\x7e\x00\x7e");
    assert_eq!(&text(&vec![b'x'; 65536])[..10], b"\x81\x7f\0\0\0\0\0\x01\0\0");
    assert_eq!(&ping(b"")[..], b"\x89\x00");
    assert_eq!(&pong(b"p")[..], b"\x8a\x01p");
    assert_eq!(pong(&[0; 200]).len(), 2 + 125);
    assert_eq!(&close(CloseCode::Draining, "")[..], b"\x88\x0a\x03\xf4draining");
    assert_eq!(&close(CloseCode::Policy, "no")[..], b"\x88\x0c\x03\xf0policy: no");
    assert_eq!(&close_reply(Some(1000))[..], b"\x88\x02\x03\xe8");
    assert_eq!(&close_reply(None)[..], b"\x88\x00");
}

#[test]
fn the_detail_of_a_close_frame_is_truncated_at_a_character() {
    for code in CloseCode::ALL {
        for pad in 0..4 {
            let frame = close(code, &("x".repeat(pad) + &"ż".repeat(100)));
            assert!((126..=127).contains(&frame.len()), "{} bytes", frame.len());
            assert_eq!(usize::from(frame[1]), frame.len() - 2);
            assert!(std::str::from_utf8(&frame[4..]).is_ok());
        }
    }
}

/// Returns frames that another implementation encodes. Most of them are valid,
/// and some break a rule.
fn foreign_frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        "\\PC{0,40}".prop_map(String::into_bytes),
        vec(any::<u8>(), 0..10),
        (0usize..1010).prop_map(|n| vec![b'x'; n]),
    ];
    let opcode = prop_oneof![
        4 => Just(OpCode::Data(ForeignData::Text)),
        4 => Just(OpCode::Data(ForeignData::Continue)),
        1 => Just(OpCode::Data(ForeignData::Binary)),
        2 => Just(OpCode::Control(ForeignControl::Ping)),
        1 => Just(OpCode::Control(ForeignControl::Pong)),
        1 => Just(OpCode::Control(ForeignControl::Close)),
        1 => (0u8..16).prop_map(OpCode::from),
    ];
    let frame = (opcode, any::<bool>(), payload, any::<[u8; 4]>(), 0..40).prop_map(
        |(opcode, is_final, payload, mask, quirk)| {
            let mut frame = ForeignFrame::message(payload, OpCode::Data(ForeignData::Text), true);
            let header = frame.header_mut();
            header.opcode = opcode;
            header.is_final = is_final || matches!(opcode, OpCode::Control(_)) && quirk > 1;
            header.mask = (quirk > 0).then_some(mask);
            header.rsv1 = quirk == 2;
            let mut out = Vec::new();
            frame.format(&mut out).expect("a write to a Vec never fails");
            out
        },
    );
    vec(frame, 0..12).prop_map(|frames| frames.concat())
}

/// Splits `bytes` into pieces. Their lengths are `lengths`, repeated.
fn pieces<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().map_or(bytes.len(), |&n| n.min(bytes.len()));
        (!bytes.is_empty()).then(|| bytes.split_off(..length).expect("within"))
    })
}

/// Returns a message in fragments with the lengths `cuts` and a last fragment
/// with the rest. A ping follows each fragment except the last.
fn fragmented(message: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut rest = message;
    let mut out = Vec::new();
    for (n, &cut) in cuts.iter().enumerate() {
        let part = rest.split_off(..cut.min(rest.len())).expect("within");
        out.extend(client(if n == 0 { TEXT } else { CONTINUE }, part));
        out.extend(client(PING, &[n as u8]));
    }
    out.extend(client(FINAL | if cuts.is_empty() { TEXT } else { CONTINUE }, rest));
    out
}

proptest! {
    #[test]
    fn the_result_does_not_depend_on_the_sizes_of_the_reads(
        bytes in prop_oneof![foreign_frames(), vec(any::<u8>(), 0..200)],
        lengths in vec(1usize..64, 1..8),
    ) {
        let whole = decode([bytes.as_slice()]);
        prop_assert_eq!(&decode(bytes.chunks(1)), &whole);
        prop_assert_eq!(&decode(pieces(&bytes, &lengths)), &whole);
    }

    #[test]
    fn a_split_at_any_byte_gives_the_same_result(bytes in foreign_frames()) {
        let whole = decode([bytes.as_slice()]);
        for cut in 0..bytes.len() {
            let (left, right) = bytes.split_at(cut);
            prop_assert_eq!(&decode([left, right]), &whole, "split at {}", cut);
        }
    }

    #[test]
    fn fragments_are_joined_to_the_message(
        message in "\\PC{0,200}",
        cuts in vec(0usize..60, 0..7),
        lengths in vec(1usize..64, 1..8),
    ) {
        let bytes = fragmented(message.as_bytes(), &cuts);
        let (mut messages, violation) = decode(pieces(&bytes, &lengths));
        prop_assert_eq!(violation, None);
        prop_assert_eq!(messages.pop(), Some(Message::Text(message)));
        prop_assert_eq!(messages.len(), cuts.len());
    }

    #[test]
    fn the_buffers_are_at_most_twice_the_limit(bytes in vec(any::<u8>(), 0..3000)) {
        let mut decoder = Decoder::default();
        let frames = [client(TEXT, b""), header(CONTINUE, 1000), bytes].concat();
        for piece in frames.chunks(50) {
            if decoder.feed(piece, LIMITS, drop).is_err() {
                break;
            }
            prop_assert!(decoder.buffered_bytes() <= 2 * LIMITS.message_bytes_max + 256);
        }
    }
}
