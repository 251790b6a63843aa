//! Tests of a session that ends while a command is in progress.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::deliver::{
    CommandFuture, CommandHandler, CommandReply, Session, TcpTransport, Transport,
};
use crate::hub::{EndReason, Subscriber};

/// The longest wait for a frame or an end that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A command that the test answers.
type PendingCommand = (String, oneshot::Sender<Vec<CommandReply>>);

/// A handler that sends each command to the test, which answers it.
struct TestAnswers(mpsc::UnboundedSender<PendingCommand>);

impl CommandHandler for TestAnswers {
    fn command(&mut self, text: String) -> CommandFuture {
        let (answer, answered) = oneshot::channel();
        let _ = self.0.send((text, answer));
        Box::pin(async move { answered.await.unwrap_or_default() })
    }
}

/// A session on a real socket, and its client.
struct Case {
    client: TcpStream,
    subscriber: Arc<Subscriber>,
    commands: mpsc::UnboundedReceiver<PendingCommand>,
    session: JoinHandle<()>,
}

impl Case {
    /// Starts a session whose client has sent the commands `first` and
    /// `second`.
    async fn start(bench: &Bench) -> Case {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let ConnectionTask { source, .. } = bench.connect();
        let subscriber = source.subscriber().clone();
        let (sender, commands) = mpsc::unbounded_channel();
        let (transport, handler) = (Transport::Tcp(TcpTransport::new(socket)), TestAnswers(sender));
        let session = Session::new(transport, source, handler, &settings(), &[], None);
        let session = tokio::spawn(session);
        let frames: Vec<u8> = ["first", "second"].into_iter().flat_map(frame).collect();
        client.write_all(&frames).await.unwrap();
        Case { client, subscriber, commands, session }
    }

    async fn command(&mut self) -> PendingCommand {
        timeout(PATIENCE, self.commands.recv()).await.expect("a command in time").unwrap()
    }

    /// Waits for two ticks of the hub. Everything that was due is done then.
    async fn ticks(&self) {
        for _ in 0..2 {
            let before = self.subscriber.now();
            while self.subscriber.now() == before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Reads until the gateway closes the socket. Returns the type of each message, and
    /// the code of each close frame.
    async fn rest(mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        let reading = async {
            // The client's end of the socket stays open until the close frame.
            while kinds(&bytes).last().is_none_or(|kind| kind.parse::<u16>().is_err()) {
                assert!(self.client.read_buf(&mut bytes).await.unwrap() > 0, "{:?}", kinds(&bytes));
            }
        };
        timeout(PATIENCE, reading).await.expect("a close frame in time");
        self.client.shutdown().await.unwrap();
        let reading = self.client.read_to_end(&mut bytes);
        timeout(PATIENCE, reading).await.expect("an end in time").unwrap();
        timeout(PATIENCE, self.session).await.expect("an end in time").unwrap();
        assert!(self.commands.try_recv().is_err(), "no command starts after the end");
        kinds(&bytes)
    }
}

/// A client's text frame (RFC 6455 §5.2), masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = 0x80 | text.len() as u8;
    [&[0x81, length, 0, 0, 0, 0], text.as_bytes()].concat()
}

/// Returns the kind of each complete frame: the type of a control message or of a
/// message, or the code of a close frame.
fn kinds(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let (length, rest) = match (*second, rest) {
            (126, [a, b, rest @ ..]) => (usize::from(u16::from_be_bytes([*a, *b])), rest),
            (126, _) => break,
            (length, rest) => (usize::from(length), rest),
        };
        let Some((payload, behind)) = rest.split_at_checked(length) else { break };
        bytes = behind;
        if *first == 0x88 {
            found.push(u16::from_be_bytes([payload[0], payload[1]]).to_string());
            continue;
        }
        assert_eq!(*first, 0x81);
        let message: serde_json::Value = serde_json::from_slice(payload).unwrap();
        let kind = match &message["type"] {
            kind if kind == "control" => &message["data"]["type"],
            kind => kind,
        };
        found.push(kind.as_str().unwrap().to_owned());
    }
    found
}

/// The reasons for which the gateway ends a session in order, with their close codes.
const ORDERLY: [(EndReason, &str); 4] = [
    (EndReason::Drained, "1012"),
    (EndReason::Lifetime, "1012"),
    (EndReason::Overflow, "1013"),
    (EndReason::Idle, "4408"),
];

#[tokio::test]
async fn an_end_waits_for_the_answer_to_the_command_in_progress() {
    for (ending, code) in ORDERLY {
        let bench = Bench::start();
        let mut case = Case::start(&bench).await;
        let (text, answer) = case.command().await;
        assert_eq!(text, "first");
        case.subscriber.end(ending);
        case.ticks().await;
        let early = case.client.try_read(&mut [0; 64]);
        assert!(early.is_err(), "{ending:?}: no byte is sent before the answer: {early:?}");
        answer
            .send(vec![CommandReply::Response(None, b"{}".to_vec())])
            .expect("the end waits for the answer");
        assert_eq!(case.rest().await, ["response", "stream-close", code], "{ending:?}");
    }
}

#[tokio::test]
async fn an_end_waits_for_an_answer_no_longer_than_the_stall_timeout() {
    for (ending, code) in ORDERLY {
        let bench = Bench::start();
        let stall_timeout = Duration::from_millis(100);
        bench.hub.reconfigure(&hub::Settings { stall_timeout, ..bench.rings.clone() });
        let mut case = Case::start(&bench).await;
        let (_, answer) = case.command().await;
        case.subscriber.end(ending);
        assert_eq!(case.rest().await, ["stream-close", code], "{ending:?}");
        assert!(answer.is_closed(), "{ending:?}: the end no longer waits for the answer");
    }
}

#[tokio::test]
async fn an_end_waits_for_an_answer_no_longer_than_the_drain() {
    let bench = Bench::start();
    let mut case = Case::start(&bench).await;
    let (_, answer) = case.command().await;
    case.subscriber.end(EndReason::Lifetime);
    case.ticks().await;
    assert!(!answer.is_closed(), "the stall timeout is an hour");
    bench.hub.drain(Duration::ZERO, Duration::from_millis(100));
    assert_eq!(case.rest().await, ["stream-close", "1012"]);
    assert!(answer.is_closed());
}

/// A stalled socket accepts no bytes, so its end does not wait for an answer.
#[tokio::test]
async fn a_stalled_socket_is_closed_while_its_command_is_in_progress() {
    let bench = Bench::start();
    let mut case = Case::start(&bench).await;
    let (_, answer) = case.command().await;
    case.subscriber.end(EndReason::Stalled);
    timeout(PATIENCE, &mut case.session).await.expect("an end in time").unwrap();
    assert!(answer.is_closed());
}

#[tokio::test]
async fn no_command_starts_after_a_close_that_is_partly_written() {
    let bench = Bench::start();
    let mut writer = bench.connect();
    assert!(writer.source.note_received());
    writer.source.subscriber().end(EndReason::Drained);
    writer.socket.give(20);
    writer.poll();
    assert_eq!(writer.socket.taken().len(), 20, "a part of the close");
    assert!(!writer.source.note_received());
}
