//! The WebSocket frame decoder: no input panics, the result does not depend on
//! how the input is cut, and the buffer holds at most twice the largest
//! message. The first byte is the length of the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamgate::wire::websocket::{Decoder, Limits, Message, ProtocolError};

const LIMITS: Limits = Limits { message_bytes_max: 256, message_fragments_max: 8 };

fuzz_target!(|input: &[u8]| {
    let Some((&cut, bytes)) = input.split_first() else { return };
    let whole = decode(std::iter::once(bytes));
    assert_eq!(decode(bytes.chunks(1)), whole, "byte by byte");
    assert_eq!(decode(bytes.chunks(usize::from(cut).max(1))), whole, "in pieces of {cut}");
});

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, Option<ProtocolError>) {
    let mut decoder = Decoder::default();
    let mut seen = Vec::new();
    for piece in pieces {
        if let Err(violation) = decoder.feed(piece, LIMITS, |incoming| seen.push(incoming)) {
            return (seen, Some(violation));
        }
        // Twice the message, and twice a control frame between its fragments.
        assert!(decoder.buffered_bytes() <= 2 * (LIMITS.message_bytes_max + 125));
    }
    (seen, None)
}
