//! The PROXY header: no input panics, a decision for a prefix stays the same
//! for the whole, and a header is at most as long as the limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use streamgate::wire::proxy::{HEADER_BYTES_MAX, ParseOutcome, decode};

fuzz_target!(|input: &[u8]| {
    let whole = decode(input);
    // Cuts at every point near the start, and at some points in the block.
    let cuts = (0..input.len().min(256)).chain((256..input.len()).step_by(97));
    for cut in cuts {
        match decode(&input[..cut]) {
            ParseOutcome::Incomplete => assert!(cut < HEADER_BYTES_MAX),
            decided => assert_eq!(decided, whole, "at {cut}"),
        }
    }
    if let ParseOutcome::Header { length, .. } = whole {
        assert!(length <= input.len().min(HEADER_BYTES_MAX));
        assert_eq!(decode(&input[..length]), whole);
        assert_eq!(decode(&input[..length - 1]), ParseOutcome::Incomplete);
    }
});
