//! The checks that every request head must pass.

use hyper::body::Incoming;
use hyper::header::{EXPECT, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::uri::Authority;
use hyper::{Request, Version};

use crate::api::answer::problem;
use crate::wire::problem::Problem;

/// The largest request target (path and query) in bytes. This is four times the
/// length that browsers and proxies support, and far below the size limit of the
/// request head.
const TARGET_BYTES_MAX: usize = 8 * 1024;

/// The largest number of header fields of a request. On HTTP/1, hyper itself rejects
/// a request with more fields.
const FIELDS_MAX: usize = 100;

/// Checks the head of a request.
///
/// # Errors
/// 400, 414, 417, 431 or 501, with the reason in the problem.
pub fn check(request: &Request<Incoming>) -> Result<(), Problem> {
    if request.headers().len() > FIELDS_MAX {
        return Err(problem::too_many_fields(FIELDS_MAX));
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > TARGET_BYTES_MAX {
        return Err(problem::uri_too_long(TARGET_BYTES_MAX));
    }
    check_host(request)?;
    check_transfer_coding(request)?;
    let is_supported = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"100-continue");
    if request.headers().get_all(EXPECT).iter().all(is_supported) {
        Ok(())
    } else {
        Err(problem::expectation())
    }
}

/// Checks that the body has no transfer coding except `chunked` (RFC 9112 §6.1). hyper
/// checks only that the last coding is `chunked`, and does not decode the others. The
/// gateway would store the coded bytes. HTTP/2 has no transfer codings.
fn check_transfer_coding(request: &Request<Incoming>) -> Result<(), Problem> {
    if request.version() != Version::HTTP_11 {
        return Ok(());
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(problem::transfer_coding()),
    }
}

/// Checks the host of a request. HTTP/1.1 requires `Host` (RFC 9112 §3.2). HTTP/2
/// requires `:authority`, or `Host` from an intermediary that translates HTTP/1 (RFC
/// 9113 §8.3.1). If both are present, they must name the same host: otherwise an
/// intermediary could route by one name, and the gateway by the other.
fn check_host(request: &Request<Incoming>) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => {
            return Err(problem::malformed("the request has two Host headers; send one"));
        }
        (host, None) => host,
    };
    if host.is_some_and(|host| !is_host(host.as_bytes())) {
        return Err(problem::malformed("Host must be a name or an address, with or without port"));
    }
    match (request.version(), host, request.uri().authority()) {
        (Version::HTTP_11, None, _) => {
            Err(problem::malformed("the request has no Host header; send one"))
        }
        (Version::HTTP_2, None, None) => {
            Err(problem::malformed("the request has neither :authority nor Host; send one of them"))
        }
        (Version::HTTP_2, _, Some(authority)) if !is_host(authority.as_str().as_bytes()) => {
            Err(problem::malformed(":authority must be a name or an address, with or without port"))
        }
        (Version::HTTP_2, Some(host), Some(authority)) if !is_same(host, authority) => {
            Err(problem::malformed("Host and :authority differ; send the same value in both"))
        }
        _ => Ok(()),
    }
}

/// Returns whether `host` and `authority` name the same host. A missing port matches
/// every port. It stands for the default port of the scheme, and the gateway does
/// not know the scheme of the client if a proxy terminates TLS.
fn is_same(host: &HeaderValue, authority: &Authority) -> bool {
    /// Returns the text after the colon, or an empty text. Does not check that the
    /// text is a port number.
    fn port(authority: &Authority) -> &str {
        let text = authority.as_str();
        text.strip_prefix(authority.host()).and_then(|rest| rest.strip_prefix(':')).unwrap_or("")
    }
    Authority::try_from(host.as_bytes()).is_ok_and(|host| {
        let (port, other) = (port(&host), port(authority));
        let is_same_port = port == other || port.is_empty() || other.is_empty();
        host.host().eq_ignore_ascii_case(authority.host()) && is_same_port
    })
}

fn is_host(value: &[u8]) -> bool {
    // Most `Host` values are a name or an IPv4 address, with or without a port. For
    // these values, this check is faster than the parser.
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let port = value.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let name = match value.split_at(value.len() - port) {
        ([name @ .., b':'], [_, ..]) if port <= 5 => name,
        _ => value,
    };
    if !name.is_empty() && name.iter().all(plain) {
        return true;
    }
    Authority::try_from(value)
        .is_ok_and(|authority| !authority.host().is_empty() && !value.contains(&b'@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for good in ["a", "a-b.example", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:80", "1"] {
            assert!(is_host(good.as_bytes()), "{good}");
        }
        for bad in ["", ":80", "a b", "a@b", "a/b", "a:8:0", "[::1"] {
            assert!(!is_host(bad.as_bytes()), "{bad}");
        }
    }
}
