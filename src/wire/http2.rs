//! A counter of HTTP/2 control frames (RFC 9113 §4.1). Control frames cost CPU time,
//! but no limit on requests counts them. The gateway therefore limits the rate of
//! control frames.
//!
//! The counter reads only the nine bytes of each frame header. If a header
//! arrives in parts, the counter stores it until it is complete. The HTTP
//! library decides what a frame means and whether it is valid.

/// The length of the client's connection preface, which comes before the first
/// frame (RFC 9113 §3.4).
const PREFACE_BYTES: u32 = 24;

/// The length of a frame header: length (3 bytes), type, flags, stream id
/// (4 bytes).
const HEADER_BYTES: usize = 9;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;

/// The flag `END_STREAM` of DATA and HEADERS frames. It marks the end of the
/// request.
const END_STREAM: u8 = 0x1;

/// A counter of the control frames that a client sends on one connection. The
/// counter must receive every byte from the first one on.
#[derive(Clone, Debug)]
pub struct ControlFrameCounter {
    /// The number of bytes to skip before the next frame header.
    skip: u32,
    header: [u8; HEADER_BYTES],
    header_len: u8,
    /// The number of requests whose body has not ended. A body of unknown length
    /// ends with an empty DATA frame. One such frame per body does not count as a
    /// control frame.
    bodies: u32,
}

impl Default for ControlFrameCounter {
    fn default() -> ControlFrameCounter {
        ControlFrameCounter {
            skip: PREFACE_BYTES,
            header: [0; HEADER_BYTES],
            header_len: 0,
            bodies: 0,
        }
    }
}

impl ControlFrameCounter {
    /// Reads the next bytes from the client. Returns the number of control frames
    /// whose header ends in `input`. HEADERS, `WINDOW_UPDATE`, DATA with a payload,
    /// and the empty DATA frame at the end of a body do not count. All other frames
    /// count, including frames of an unknown type.
    pub fn feed(&mut self, mut input: &[u8]) -> u32 {
        let mut control = 0;
        loop {
            let skipped = input.len().min(self.skip as usize);
            self.skip -= skipped as u32;
            input = &input[skipped..];
            let start = usize::from(self.header_len);
            let copied = input.len().min(HEADER_BYTES - start);
            if copied == 0 {
                return control;
            }
            self.header[start..start + copied].copy_from_slice(&input[..copied]);
            input = &input[copied..];
            self.header_len += copied as u8;
            if usize::from(self.header_len) == HEADER_BYTES {
                self.header_len = 0;
                control += u32::from(self.begin_frame());
            }
        }
    }

    /// Reads the complete frame header in `header`, and returns whether the frame is
    /// a control frame.
    fn begin_frame(&mut self) -> bool {
        let [high, middle, low, frame_type, flags, ..] = self.header;
        self.skip = u32::from_be_bytes([0, high, middle, low]);
        let ends = flags & END_STREAM != 0;
        match frame_type {
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

    fn frame(frame_type: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[frame_type, flags, 0, 0, 0, 1], payload].concat()
    }

    /// Returns the number of control frames in a preface and `frames`, which
    /// arrive in pieces of `step` bytes.
    fn count(frames: &[Vec<u8>], step: usize) -> u32 {
        let bytes = [PREFACE, &frames.concat()].concat();
        let mut counter = ControlFrameCounter::default();
        bytes.chunks(step).map(|piece| counter.feed(piece)).sum()
    }

    #[track_caller]
    fn check(frames: &[Vec<u8>], expected: u32) {
        for step in [1, 7, 100_000] {
            assert_eq!(count(frames, step), expected, "in steps of {step}");
        }
    }

    #[test]
    fn control_frames_are_counted() {
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
    fn the_frames_of_a_request_are_not_counted() {
        check(&[], 0);
        check(&[frame(0x1, 4, b"head"), frame(0x0, 0, b"body"), frame(0x0, 1, b"")], 0);
        check(&[frame(0x1, 5, b"head"), frame(0x8, 0, &[0, 0, 0, 9])], 0);
        check(&[frame(0x1, 4, b"head"), frame(0x0, 1, &[b'x'; 16_384])], 0);
    }

    #[test]
    fn an_empty_data_frame_after_the_end_of_a_body_is_counted() {
        let request = frame(0x1, 4, b"head");
        check(&[request.clone(), frame(0x0, 1, b""), frame(0x0, 1, b"")], 1);
        check(&[request, frame(0x0, 1, b"x"), frame(0x0, 1, b"")], 1);
        check(&[frame(0x1, 5, b"head"), frame(0x0, 1, b"")], 1);
    }

    proptest! {
        #[test]
        fn the_count_does_not_depend_on_the_sizes_of_the_reads(
            frames in vec((0u8..12, any::<u8>(), vec(any::<u8>(), 0..40)), 0..20),
            step in 1usize..60,
        ) {
            let frames: Vec<_> = frames.iter().map(|(k, f, p)| frame(*k, *f, p)).collect();
            prop_assert_eq!(count(&frames, step), count(&frames, usize::MAX));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300), step in 1usize..60) {
            let mut counter = ControlFrameCounter::default();
            for piece in bytes.chunks(step) {
                prop_assert!(counter.feed(piece) as usize <= piece.len());
            }
        }
    }
}
