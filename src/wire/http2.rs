//! HTTP/2 frames as they pass (RFC 9113 §4.1): how many of what a client sent
//! are control frames, which cost the gateway time and ask for nothing.
//!
//! Only the nine bytes of a frame's header are looked at, and only they are
//! kept when the network cuts one. What the frames mean, and whether they may
//! come at all, is the HTTP library's to judge.

/// What begins a client's connection before its first frame (RFC 9113 §3.4).
const PREFACE_BYTES: u32 = 24;

/// Length (3 bytes), type, flags, stream (4 bytes).
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;

/// On DATA and HEADERS: the request ends here.
const END_STREAM: u8 = 0x1;

/// Follows the frames of one client's connection from its first byte on.
#[derive(Clone, Debug)]
pub struct Frames {
    /// Bytes to come before the next frame's header.
    skip: u32,
    header: [u8; HEADER_BYTES],
    held: u8,
    /// Requests whose body has not ended: each may end with an empty DATA
    /// frame, which is how a body of unknown length ends.
    bodies: u32,
}

impl Default for Frames {
    fn default() -> Frames {
        Frames { skip: PREFACE_BYTES, header: [0; HEADER_BYTES], held: 0, bodies: 0 }
    }
}

impl Frames {
    /// Takes what the client has sent next, and gives how many control frames
    /// began in it: all but HEADERS, `WINDOW_UPDATE`, DATA that holds something,
    /// and the empty DATA at the end of a body. Types that nobody knows count.
    pub fn feed(&mut self, mut input: &[u8]) -> u32 {
        let mut control = 0;
        loop {
            let passed = input.len().min(self.skip as usize);
            self.skip -= passed as u32;
            input = &input[passed..];
            let held = usize::from(self.held);
            let taken = input.len().min(HEADER_BYTES - held);
            if taken == 0 {
                return control;
            }
            self.header[held..held + taken].copy_from_slice(&input[..taken]);
            input = &input[taken..];
            self.held += taken as u8;
            if usize::from(self.held) == HEADER_BYTES {
                self.held = 0;
                control += u32::from(self.begin());
            }
        }
    }

    /// Whether the frame whose header is whole is a control frame.
    fn begin(&mut self) -> bool {
        let [high, middle, low, kind, flags, ..] = self.header;
        self.skip = u32::from_be_bytes([0, high, middle, low]);
        let ends = flags & END_STREAM != 0;
        match kind {
            DATA if ends && self.bodies > 0 => {
                self.bodies -= 1;
                false
            }
            DATA => self.skip == 0,
            HEADERS => {
                self.bodies = self.bodies.saturating_add(u32::from(!ends));
                false
            }
            WINDOW_UPDATE => false,
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes of `frames` behind a preface, in pieces of `step` bytes.
    fn count(frames: &[Vec<u8>], step: usize) -> u32 {
        let bytes = [PREFACE, &frames.concat()].concat();
        let mut seen = Frames::default();
        bytes.chunks(step).map(|piece| seen.feed(piece)).sum()
    }

    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: u32) {
        for step in [1, 7, 100_000] {
            assert_eq!(count(frames, step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn control_frames_count() {
        check(&[frame(0x4, 0, b"\0\x04\0\0\0\0")], 1);
        check(&[frame(0x4, 1, b"")], 1);
        check(&[frame(0x6, 0, &[0xff; 8]), frame(0x6, 1, &[0; 8])], 2);
        check(&[frame(0x2, 0, &[0; 5])], 1);
        check(&[frame(0x3, 0, &[0; 4])], 1);
        check(&[frame(0x1, 1, b"head"), frame(0x9, 0, b"more"), frame(0x9, 4, b"")], 2);
        check(&[frame(0x0, 0, b"")], 1);
        check(&[frame(0x7, 0, &[0; 8]), frame(0xfa, 0, b"grease")], 2);
    }

    #[test]
    fn what_a_request_is_made_of_does_not_count() {
        check(&[], 0);
        check(&[frame(0x1, 4, b"head"), frame(0x0, 0, b"body"), frame(0x0, 1, b"")], 0);
        check(&[frame(0x1, 5, b"head"), frame(0x8, 0, &[0, 0, 0, 9])], 0);
        check(&[frame(0x1, 4, b"head"), frame(0x0, 1, &[b'x'; 16_384])], 0);
    }

    #[test]
    fn a_body_ends_once() {
        let opened = frame(0x1, 4, b"head");
        check(&[opened.clone(), frame(0x0, 1, b""), frame(0x0, 1, b"")], 1);
        check(&[opened, frame(0x0, 1, b"x"), frame(0x0, 1, b"")], 1);
        check(&[frame(0x1, 5, b"head"), frame(0x0, 1, b"")], 1);
    }

    proptest! {
        #[test]
        fn how_the_network_cuts_changes_nothing(
            frames in vec((0u8..12, any::<u8>(), vec(any::<u8>(), 0..40)), 0..20),
            step in 1usize..60,
        ) {
            let frames: Vec<_> = frames.iter().map(|(k, f, p)| frame(*k, *f, p)).collect();
            prop_assert_eq!(count(&frames, step), count(&frames, usize::MAX));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..300), step in 1usize..60) {
            let mut seen = Frames::default();
            for piece in bytes.chunks(step) {
                prop_assert!(seen.feed(piece) as usize <= piece.len());
            }
        }
    }
}
