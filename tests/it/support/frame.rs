//! The framing of HTTP/1.1 chunks and WebSocket messages for test clients. The
//! code is independent of the code of the gateway.

/// A decoder of the HTTP/1.1 chunked coding (RFC 9112 §7.1).
#[derive(Default)]
pub struct Chunks {
    line: Vec<u8>,
    left: usize,
    /// The number of bytes of the CR LF after a chunk that are still missing.
    trailer: usize,
    pub ended: bool,
}

impl Chunks {
    pub fn feed(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.trailer > 0 {
                assert!(first == b'\r' || first == b'\n', "no CR LF after a chunk");
                self.trailer -= 1;
                bytes = rest;
            } else if self.left > 0 {
                let n = self.left.min(bytes.len());
                out.extend_from_slice(&bytes[..n]);
                self.left -= n;
                bytes = &bytes[n..];
                self.trailer = if self.left == 0 { 2 } else { 0 };
            } else {
                assert!(!self.ended || self.line.len() < 2, "bytes after the last chunk");
                self.line.push(first);
                bytes = rest;
                if self.line.ends_with(b"\r\n") {
                    self.begin();
                }
            }
        }
    }

    fn begin(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.ended {
            return;
        }
        let digits = str::from_utf8(&line[..line.len() - 2]).unwrap();
        self.left =
            usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("chunk size {digits:?}"));
        self.ended = self.left == 0;
    }
}

/// A decoder of the WebSocket frames of a server (RFC 6455 §5.2).
pub struct Frames;

impl Frames {
    /// Removes the first complete frame. Returns its first byte and its payload.
    pub fn next(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        assert_eq!(second & 0x80, 0, "a frame of a server is not masked");
        let (length, header) = match second {
            126 => (usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().unwrap())), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().unwrap()) as usize, 10),
            length => (usize::from(length), 2),
        };
        let payload = bytes.get(header..header + length)?.to_vec();
        bytes.drain(..header + length);
        Some((first, payload))
    }
}

/// Returns a masked frame of a client.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            frame.push(0x80 | 0x7e);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 0x7f);
            frame.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(&MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}
