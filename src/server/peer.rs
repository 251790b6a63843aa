//! Determines the client address of a new connection: the peer address of the
//! socket, or the address in a PROXY header (`server.proxy_protocol`).

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::time::{Instant, timeout_at};

use super::listener::Listener;
use super::{ProxyProtocol, Reloadable};
use crate::api::Peer;
use crate::deliver::TcpTransport;
use crate::wire::proxy::{self, ParseOutcome};

/// Returns the client address of a new connection, and whether its forwarding fields
/// are trusted. If client connections must begin with a PROXY header, the function
/// reads this header and no byte after it. Returns `None` if the gateway must close
/// the connection. In this case the function has already counted the refusal in the
/// metrics.
///
/// # Cancel safety
/// Not safe: a part of the header may already be read from the socket.
pub(super) async fn identify(
    listener: &Listener,
    socket: &mut TcpTransport,
    address: IpAddr,
    due: Instant,
) -> Option<Peer> {
    if listener.is_admin() {
        return Some(Peer { address, believed: false });
    }
    let shared = &listener.shared;
    let Reloadable { settings, api } = &*shared.reloadable.load_full();
    let proxies = &api.settings.proxies;
    let believed = proxies.contain(address);
    if settings.proxy_protocol == ProxyProtocol::Off {
        return Some(Peer { address, believed });
    }
    if !believed {
        tracing::debug!(%address, "the connection is closed: its address is not in server.proxies");
        shared.services.metrics.refused("proxy-untrusted");
        return None;
    }
    let header = timeout_at(due, header(socket)).await.unwrap_or_else(|late| Err(late.into()));
    match header {
        Ok(Some(source)) => {
            let address = source.ip().to_canonical();
            Some(Peer { address, believed: proxies.contain(address) })
        }
        // The header contains no client address, so the connection counts for the
        // address of the proxy. The forwarding fields of its requests come from the
        // client and are ignored.
        Ok(None) => Some(Peer { address, believed: false }),
        Err(error) => {
            tracing::debug!(%address, %error, "the connection is closed: it has no valid PROXY header");
            shared.services.metrics.refused("proxy-header");
            None
        }
    }
}

/// Reads a PROXY header and no byte after it. Returns the client address in the
/// header, if there is one. While the header is incomplete, all received bytes
/// belong to the header. The function removes them from the socket at once, so that
/// the next wait is for new bytes.
async fn header(socket: &mut TcpTransport) -> io::Result<Option<SocketAddr>> {
    // Allocate the buffer only after the connection has sent bytes.
    socket.readable().await?;
    let mut start = vec![0; proxy::HEADER_BYTES_MAX];
    let mut read = 0;
    loop {
        let seen = read + socket.peek(&mut start[read..]).await?;
        if seen == read {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (length, header) = match proxy::decode(&start[..seen]) {
            ParseOutcome::Incomplete => (seen, None),
            ParseOutcome::Header { length, source } => (length, Some(source)),
            ParseOutcome::Invalid(why) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        };
        socket.read_exact(&mut start[read..length]).await?;
        read = length;
        if let Some(source) = header {
            return Ok(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future as _, poll_fn};
    use std::pin::pin;
    use std::time::Duration;

    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn the_wait_for_the_rest_does_not_spin() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut proxy = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut socket = TcpTransport::new(listener.accept().await.unwrap().0);
        proxy.write_all(b"PROXY TCP4 192.0.2.1").await.unwrap();
        {
            let mut reading = pin!(header(&mut socket));
            let mut polls = 0;
            let counted = poll_fn(|cx| {
                polls += 1;
                reading.as_mut().poll(cx)
            });
            assert!(timeout(Duration::from_millis(300), counted).await.is_err(), "half a header");
            assert!(polls < 10, "it was polled {polls} times");
            proxy.write_all(b" 127.0.0.1 1 80\r\nGET").await.unwrap();
            let source = timeout(PATIENCE, reading).await.unwrap().unwrap();
            assert_eq!(source, Some("192.0.2.1:1".parse().unwrap()));
        }
        let mut behind = [0; 3];
        timeout(PATIENCE, socket.read_exact(&mut behind)).await.unwrap().unwrap();
        assert_eq!(&behind, b"GET");
    }
}
