//! Reading a request's body within its limits.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use metrics::Counter;
use tokio::time::timeout;

use super::error;
use crate::wire::problem::Problem;

/// The next bytes of `body`, counted in `received`; none at its end.
///
/// # Errors
/// 408 when they do not come within `wait`, 400 when the body breaks off.
///
/// # Cancel safety
/// Safe: nothing is lost.
pub async fn next(
    body: &mut Incoming,
    wait: Duration,
    received: &Counter,
) -> Result<Option<Bytes>, Problem> {
    loop {
        match timeout(wait, body.frame()).await {
            Err(_) => return Err(error::slow_body()),
            Ok(None) => return Ok(None),
            Ok(Some(Err(broken))) => {
                return Err(error::malformed(format!("the body broke off: {broken}")));
            }
            Ok(Some(Ok(frame))) => {
                // Trailers say nothing here.
                if let Ok(bytes) = frame.into_data() {
                    received.increment(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// All of `body`, up to `bytes_max`. A declared length beyond that is refused
/// before anything is read.
///
/// # Errors
/// 413 beyond `bytes_max`, and those of [`next`].
///
/// # Cancel safety
/// Not safe: what was read is lost.
pub async fn whole(
    mut body: Incoming,
    bytes_max: usize,
    wait: Duration,
    received: &Counter,
) -> Result<Bytes, Problem> {
    let too_large = || error::too_large("the body", bytes_max);
    if body.size_hint().lower() > bytes_max as u64 {
        return Err(too_large());
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(bytes) = next(&mut body, wait, received).await? {
        if first.len() + rest.len() + bytes.len() > bytes_max {
            return Err(too_large());
        }
        if first.is_empty() {
            first = bytes;
        } else {
            rest.extend_from_slice(&bytes);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(first.len() + rest.len());
    all.extend_from_slice(&first);
    all.extend_from_slice(&rest);
    Ok(all.freeze())
}
