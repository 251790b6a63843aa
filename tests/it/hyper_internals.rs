//! What the gateway relies on in hyper and h2 beyond their documentation. A
//! test that fails here means that a new version behaves otherwise: look at
//! what its comment names before the version is taken.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http_body_util::Empty;
use hyper::body::{Body, Frame, Incoming};
use hyper::rt::{Executor, Read, ReadBufCursor, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::support::client::PATIENCE;
use crate::support::http2::{
    Connection, DATA, END_HEADERS, END_STREAM, HEADERS, INITIAL_WINDOW_SIZE, head,
};
use crate::support::until;

/// What is seen of hyper, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// It gave a task to its executor, while it polled the task of this number.
    Execute(Option<usize>),
    /// It polled the service's future, the body, or what follows an upgrade,
    /// within the task of this number.
    Service(Option<usize>),
    Body(Option<usize>),
    /// It wrote these bytes of HTTP/1.
    Wrote(Vec<u8>),
    Flushed,
}

type Log = Arc<Mutex<Vec<Seen>>>;

fn see(log: &Log, seen: Seen) {
    log.lock().unwrap().push(seen);
}

thread_local! {
    /// The number of the task that is polled on this thread.
    static TASK: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Numbers hyper's tasks, and tells which of them have ended.
#[derive(Clone)]
struct Tasks {
    log: Log,
    count: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
}

impl Tasks {
    fn new(log: &Log) -> Tasks {
        Tasks { log: log.clone(), count: Arc::default(), ended: Arc::default() }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, task: F) {
        see(&self.log, Seen::Execute(TASK.get()));
        let number = self.count.fetch_add(1, Ordering::SeqCst);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            let mut task = pin!(task);
            poll_fn(|cx| {
                let before = TASK.replace(Some(number));
                let polled = task.as_mut().poll(cx);
                TASK.set(before);
                polled
            })
            .await;
            ended.fetch_add(1, Ordering::SeqCst);
        });
    }
}

/// Bytes that count what of them was taken.
struct Counted(Bytes, Arc<AtomicUsize>);

impl Buf for Counted {
    fn remaining(&self) -> usize {
        self.0.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.0
    }

    fn advance(&mut self, count: usize) {
        self.0.advance(count);
        self.1.fetch_add(count, Ordering::SeqCst);
    }
}

/// A body of frames of these lengths, which comes to its end with the last.
struct Frames {
    log: Log,
    lengths: Vec<usize>,
    taken: Arc<AtomicUsize>,
}

impl Body for Frames {
    type Data = Counted;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Counted>, Infallible>>> {
        see(&self.log, Seen::Body(TASK.get()));
        if self.lengths.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.lengths.remove(0);
        let bytes = Counted(vec![b'x'; length].into(), self.taken.clone());
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.lengths.is_empty()
    }
}

/// What a server of HTTP/2 has shown.
struct Server {
    log: Log,
    tasks: Tasks,
    /// Bytes of the body that h2 has taken.
    taken: Arc<AtomicUsize>,
    upgraded: UnboundedReceiver<Upgraded>,
}

/// Answers each request of one connection with a body of frames of `lengths`,
/// and each CONNECT with a session.
async fn serve(window: u32, lengths: &[usize]) -> (Server, Connection) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (log, taken) = (Log::default(), Arc::<AtomicUsize>::default());
    let tasks = Tasks::new(&log);
    let (sessions, upgraded) = unbounded_channel();
    let service = {
        let (log, taken, lengths) = (log.clone(), taken.clone(), lengths.to_vec());
        service_fn(move |request: Request<Incoming>| {
            let (log, sessions) = (log.clone(), sessions.clone());
            let body = Frames { log: log.clone(), lengths: lengths.clone(), taken: taken.clone() };
            async move {
                see(&log, Seen::Service(TASK.get()));
                Ok::<_, Infallible>(answer(request, body, sessions))
            }
        })
    };
    let executor = tasks.clone();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut builder = http2::Builder::new(executor);
        let serving = builder.enable_connect_protocol();
        let _ = serving.serve_connection(TokioIo::new(socket), service).await;
    });
    let connection = Connection::open(address, &[(INITIAL_WINDOW_SIZE, window)]).await;
    (Server { log, tasks, taken, upgraded }, connection)
}

fn answer(
    mut request: Request<Incoming>,
    mut body: Frames,
    sessions: UnboundedSender<Upgraded>,
) -> Response<Frames> {
    if request.method() == hyper::Method::CONNECT {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move { sessions.send(upgrade.await.unwrap()).unwrap() });
        body.lengths.clear();
    }
    Response::new(body)
}

async fn connect(connection: &mut Connection) {
    let block = head("CONNECT", "/", &[(":protocol", "websocket")]);
    connection.send(HEADERS, END_HEADERS, 1, &block).await;
    connection.find(HEADERS, 1).await;
}

/// The stall guard of an HTTP/2 stream (`server::stream`) finds the flow of an
/// answer while it polls the task of its stream.
#[tokio::test]
async fn hyper_polls_a_service_and_its_body_within_the_task_of_the_stream() {
    let (server, mut connection) = serve(65_535, &[10, 10]).await;
    for (number, stream) in [(0, 1), (1, 3)] {
        connection.get(stream, "/", "*/*").await;
        while connection.find(DATA, stream).await.flags & END_STREAM == 0 {}
        let log = std::mem::take(&mut *server.log.lock().unwrap());
        let within = Some(number);
        let [Seen::Execute(None), Seen::Service(service), bodies @ ..] = &log[..] else {
            panic!("{log:?}")
        };
        assert_eq!(*service, within, "{log:?}");
        assert!(!bodies.is_empty() && bodies.iter().all(|seen| *seen == Seen::Body(within)));
    }
}

/// The guard of a session's writer (`server::stream`) takes the task that hyper
/// starts within the poll in which the service's future has ended.
#[tokio::test]
async fn hyper_starts_a_sessions_writer_within_the_poll_that_answers_its_connect() {
    let (server, mut connection) = serve(65_535, &[]).await;
    connect(&mut connection).await;
    let log = server.log.lock().unwrap().clone();
    assert_eq!(log, [Seen::Execute(None), Seen::Service(Some(0)), Seen::Execute(Some(0))]);
}

/// `deliver::H2SendTracker` counts what h2 takes of a frame, and takes it for written.
/// `server::stream::TrackedBody` gives the last byte as a frame of its own, so
/// that hyper's task is there as long as anything waits for window.
#[tokio::test]
async fn hyper_keeps_the_task_of_a_stream_until_the_last_frame_has_window() {
    let (server, mut connection) = serve(1, &[99, 1]).await;
    connection.get(1, "/", "*/*").await;
    assert_eq!(connection.find(DATA, 1).await.payload.len(), 1);
    for (window, came) in [(50, 51), (48, 99)] {
        connection.allow(1, window).await;
        assert_eq!(connection.find(DATA, 1).await.payload.len(), window as usize);
        assert_eq!(server.taken.load(Ordering::SeqCst), came, "h2 takes what has window");
        assert_eq!(server.tasks.ended.load(Ordering::SeqCst), 0, "a byte has no window");
    }
    connection.allow(1, 1).await;
    let last = connection.find(DATA, 1).await;
    assert_eq!((last.payload.len(), last.flags & END_STREAM), (1, END_STREAM));
    until(async || server.tasks.ended.load(Ordering::SeqCst) == 1).await;
}

/// `deliver::Transport` takes the flush of an HTTP/2 session for the question
/// whether it would take a write. With a flush that is always ready, the hub
/// would believe that a client without window reads, and never end it.
#[tokio::test]
async fn hyper_flushes_a_session_once_it_would_take_a_write() {
    let (mut server, mut connection) = serve(0, &[]).await;
    connect(&mut connection).await;
    let mut session = timeout(PATIENCE, server.upgraded.recv()).await.unwrap().unwrap();
    let mut writes = 0;
    loop {
        let flushed = timeout(
            PATIENCE,
            poll_fn(|cx| {
                let flushed = Pin::new(&mut session).poll_flush(cx);
                Poll::Ready(flushed.map(Result::unwrap).is_ready())
            }),
        );
        if !flushed.await.unwrap() {
            break;
        }
        let write = poll_fn(|cx| {
            let wrote = Pin::new(&mut session).poll_write(cx, &[b'x'; 100]);
            assert!(wrote.is_ready(), "a session that is flushed takes a write");
            wrote
        });
        assert_eq!(write.await.unwrap(), 100, "a write is taken whole");
        writes += 1;
        assert!(writes < 100, "the flush waits for window");
        tokio::task::yield_now().await;
    }
    connection.allow(1, 10_000).await;
    let flushed = poll_fn(|cx| Pin::new(&mut session).poll_flush(cx));
    timeout(PATIENCE, flushed).await.expect("a flush in time").unwrap();
    let mut came = 0;
    while came < writes * 100 {
        came += connection.find(DATA, 1).await.payload.len();
    }
}

/// A socket that takes a few bytes at a time, and pauses behind each.
struct Narrow {
    inner: TokioIo<TcpStream>,
    log: Log,
    pauses: bool,
}

impl Read for Narrow {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl Write for Narrow {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pauses = !self.pauses;
        if self.pauses {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let few = &bytes[..bytes.len().min(7)];
        let wrote = Pin::new(&mut self.inner).poll_write(cx, few);
        if let Poll::Ready(Ok(count)) = wrote {
            see(&self.log, Seen::Wrote(few[..count].to_vec()));
        }
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        see(&self.log, Seen::Flushed);
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A body that never comes.
struct Pending(Log);

impl Body for Pending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        see(&self.0, Seen::Body(None));
        Poll::Pending
    }
}

/// `deliver::takeover` takes the socket of a stream out of hyper at the first
/// flush behind the first poll of the body. Bytes that hyper holds to write are
/// lost then.
#[tokio::test]
async fn hyper_flushes_an_http1_head_once_all_of_it_is_written() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let log = Log::default();
    let service = {
        let log = log.clone();
        service_fn(move |_: Request<Incoming>| {
            let answer = Response::builder().header("x-long", "x".repeat(500));
            let answer = answer.body(Pending(log.clone())).unwrap();
            async move { Ok::<_, Infallible>(answer) }
        })
    };
    let narrow = Narrow { inner: TokioIo::new(socket), log: log.clone(), pauses: false };
    let mut serving = http1::Builder::new().serve_connection(narrow, service);
    client.write_all(b"GET / HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    let flushed = poll_fn(|cx| {
        let polled = Pin::new(&mut serving).poll(cx);
        assert!(polled.is_pending(), "{polled:?}");
        let log = log.lock().unwrap();
        let asked = log.iter().position(|seen| matches!(seen, Seen::Body(_)));
        let behind = asked.map_or(&[][..], |asked| &log[asked..]);
        if behind.contains(&Seen::Flushed) { Poll::Ready(()) } else { Poll::Pending }
    });
    timeout(PATIENCE, flushed).await.expect("hyper flushes a head while its body is pending");
    let log = std::mem::take(&mut *log.lock().unwrap());
    let asked = log.iter().position(|seen| matches!(seen, Seen::Body(_))).unwrap();
    let flushed = asked + log[asked..].iter().position(|seen| *seen == Seen::Flushed).unwrap();
    let wrote = |log: &[Seen]| -> Vec<u8> {
        let wrote = log.iter().filter_map(|seen| match seen {
            Seen::Wrote(bytes) => Some(&bytes[..]),
            _ => None,
        });
        wrote.collect::<Vec<_>>().concat()
    };
    let head = String::from_utf8(wrote(&log[..flushed])).unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("x-long"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "all of the head is out at the flush: {head}");
    assert_eq!(wrote(&log[flushed..]), b"", "nothing follows it");
    assert!(serving.into_parts().read_buf.is_empty());
    let mut came = vec![0; head.len()];
    timeout(PATIENCE, client.read_exact(&mut came)).await.unwrap().unwrap();
    assert_eq!(came, head.as_bytes());
}

/// `server::connection` takes the transport of a WebSocket out of hyper when the
/// connection ends with a 101. hyper has not shut its I/O down then, and the
/// bytes that hyper has read behind the handshake are in `read_buf`.
#[tokio::test]
async fn hyper_ends_a_connection_with_a_101_and_keeps_the_bytes_behind_its_request() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let service = service_fn(|_: Request<Incoming>| async {
        let answer = Response::builder().status(101).header("upgrade", "websocket");
        Ok::<_, Infallible>(answer.header("date", "x").body(Empty::<Bytes>::new()).unwrap())
    });
    let request = b"GET / HTTP/1.1\r\nhost: g\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(&[&request[..], b"early"].concat()).await.unwrap();
    let mut serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    timeout(PATIENCE, poll_fn(|cx| Pin::new(&mut serving).poll(cx))).await.unwrap().unwrap();
    let parts = serving.into_parts();
    assert_eq!(&parts.read_buf[..], b"early");
    let mut socket = parts.io.into_inner();
    socket.write_all(b"behind").await.expect("the socket is open for writing");
    drop(socket);
    let expected =
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\ndate: x\r\n\r\nbehind";
    let mut came = String::new();
    timeout(PATIENCE, client.read_to_string(&mut came)).await.unwrap().unwrap();
    assert_eq!(came, expected);
}

/// The first request of a connection, whose head is watched (`server::io`):
/// the service is called in the poll that reads the head's last byte.
#[tokio::test]
async fn hyper_calls_the_service_in_the_poll_that_completes_an_http1_head() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _) = listener.accept().await.unwrap();
    let called = Arc::new(AtomicUsize::new(0));
    let service = {
        let called = called.clone();
        service_fn(move |_: Request<Incoming>| {
            called.fetch_add(1, Ordering::SeqCst);
            pending::<Result<Response<Empty<Bytes>>, Infallible>>()
        })
    };
    client.write_all(b"GET / HTTP/1.1\r\nhost: g\r\n\r\n").await.unwrap();
    timeout(PATIENCE, socket.readable()).await.unwrap().unwrap();
    let mut serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service);
    poll_fn(|cx| Poll::Ready(Pin::new(&mut serving).poll(cx).is_pending())).await;
    assert_eq!(called.load(Ordering::SeqCst), 1);
}
