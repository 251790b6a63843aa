//! The commands of a WebSocket session (`docs/protocol.md#websocket`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::message::{Message, missing, wrong};
use crate::api::answer::problem;
use crate::api::authorize::{Action, Permit, Target, authorize};
use crate::api::context::Caller;
use crate::api::handlers::{stream::StreamTarget, write::append};
use crate::api::request::start::{StartPosition, StreamParams, chosen_overflow, parse_from};
use crate::api::state::{Api, InFlightGuard};
use crate::deliver::{CommandFuture, CommandHandler, CommandReply};
use crate::event::{EventType, LogId, ResourceId};
use crate::hub::{OnGap, Subscriber, SubscriptionId};
use crate::log::{Log, Write};
use crate::wire::json::{self, Json};
use crate::wire::problem::{Code, Problem};
use crate::wire::{Filter, LogKind, WireFormat};

/// The largest number of subscriptions of one WebSocket.
const SUBSCRIPTIONS_MAX: usize = 1024;

/// The kinds of commands that a client can send over a WebSocket.
#[derive(Clone, Copy)]
enum Verb {
    Status,
    Subscribe,
    Unsubscribe,
    Request,
    Publish,
    Ping,
}

/// The names of the fields that select the target of a command: a topic, a
/// collection or a resource.
const TARGET: &[&str] = &["topic", "collection", "resource"];

/// All commands: the name of each command, its kind, and its allowed fields.
const COMMANDS: [(&str, Verb, [&[&str]; 2]); 6] = [
    ("get-status", Verb::Status, [TARGET, &[]]),
    (
        "subscribe",
        Verb::Subscribe,
        [TARGET, &["from", "types", "onGap", "overflow", "snapshot", "window"]],
    ),
    ("unsubscribe", Verb::Unsubscribe, [TARGET, &[]]),
    ("request", Verb::Request, [TARGET, &["n"]]),
    ("publish", Verb::Publish, [TARGET, &["type", "data", "merge"]]),
    ("ping", Verb::Ping, [&[], &[]]),
];

/// Executes the commands that a client sends over a WebSocket.
#[derive(Clone)]
pub struct CommandDispatcher(Arc<State>);

struct State {
    api: Arc<Api>,
    subscriber: Arc<Subscriber>,
    /// The caller that sent the WebSocket handshake.
    caller: Caller,
    /// The topic, collection or resource in the path of the handshake. `None` for
    /// the path `/ws`, which names none.
    path: Option<StreamTarget>,
    subscriptions: Mutex<Vec<ActiveSubscription>>,
    bare: AtomicBool,
    /// Whether the client has sent a command. The first command decides the message
    /// format of the session: with an envelope, or bare (without one).
    has_format: AtomicBool,
}

/// The replies to a command, and the permit that authorization returned for the
/// command. Because of the permit, the code of a command without authorization does
/// not compile.
struct Done(Permit, Vec<CommandReply>);

/// A subscription of the session, and the log, topic and resource to which the
/// client subscribed.
#[derive(Clone)]
struct ActiveSubscription {
    log: LogId,
    topic: Option<String>,
    scope: Option<ResourceId>,
    id: SubscriptionId,
}

impl ActiveSubscription {
    /// Returns whether one event could match both this subscription and a new
    /// subscription to `target`.
    fn overlaps(&self, target: &StreamTarget) -> bool {
        self.log == target.log.id()
            && (self.scope.is_none() || target.scope.is_none() || self.scope == target.scope)
    }

    fn is(&self, target: &StreamTarget) -> bool {
        self.log == target.log.id() && self.scope == target.scope && self.topic == target.topic
    }
}

impl CommandHandler for CommandDispatcher {
    fn command(&mut self, text: String) -> CommandFuture {
        let dispatcher = self.clone();
        Box::pin(async move { dispatcher.execute(&text).await })
    }
}

impl CommandDispatcher {
    pub(super) fn new(
        api: Arc<Api>,
        subscriber: Arc<Subscriber>,
        caller: Caller,
        path: Option<StreamTarget>,
    ) -> CommandDispatcher {
        CommandDispatcher(Arc::new(State {
            api,
            subscriber,
            caller,
            path,
            subscriptions: Mutex::default(),
            bare: AtomicBool::new(false),
            has_format: AtomicBool::new(false),
        }))
    }

    /// Adds the subscription `id` to `target` to the list of the session's
    /// subscriptions.
    pub(super) fn add(&self, target: &StreamTarget, id: SubscriptionId) {
        let mut subscriptions = self.0.subscriptions.lock();
        if subscriptions.is_empty() {
            // Most sessions have one subscription. Without this call, the Vec would
            // allocate space for four.
            subscriptions.reserve_exact(1);
        }
        subscriptions.push(ActiveSubscription {
            log: target.log.id(),
            topic: target.topic.clone(),
            scope: target.scope.clone(),
            id,
        });
    }

    async fn execute(&self, text: &str) -> Vec<CommandReply> {
        let message = match Message::parse(text) {
            Ok(message) => message,
            Err((id, problem)) => return vec![CommandReply::Error(id, problem)],
        };
        let mut replies = Vec::new();
        if !self.0.has_format.swap(true, Ordering::Relaxed) && message.bare {
            self.0.bare.store(true, Ordering::Relaxed);
            replies.push(CommandReply::Bare);
        }
        let id = message.id.clone();
        match self.dispatch(&message).await {
            Ok(Done(_, more)) => replies.extend(more),
            Err(problem) => replies.push(CommandReply::Error(id, problem)),
        }
        replies
    }

    async fn dispatch(&self, message: &Message) -> Result<Done, Problem> {
        let known = COMMANDS.iter().find(|(name, ..)| *name == message.command);
        let Some((_, verb, fields)) = known else {
            let (other, known) = (&message.command, COMMANDS.map(|(name, ..)| name).join(", "));
            let detail = format!("no command named {other:?}; use one of {known}");
            return Err(Problem::new(Code::UnknownCommand, detail).with("command", other.as_str()));
        };
        message.only(&fields.concat())?;
        // Each command reads the settings once. A reload of the configuration during
        // the command does not change them.
        let api = &self.0.api.newest();
        match verb {
            Verb::Status => self.status(api, message).await,
            Verb::Subscribe => self.subscribe(api, message).await,
            Verb::Unsubscribe => self.unsubscribe(api, message),
            Verb::Request => self.request(api, message),
            Verb::Publish => self.publish(api, message).await,
            Verb::Ping => {
                let permit = authorize(&self.0.caller, Action::Session, Target::Gateway)?;
                Ok(Done(permit, vec![respond(message, br#"{"command":"ping"}"#.to_vec())]))
            }
        }
    }

    /// Finds the target that a command names, and authorizes `action` on this
    /// target.
    fn authorized(
        &self,
        api: &Api,
        message: &Message,
        action: Action,
    ) -> Result<(StreamTarget, Permit), Problem> {
        let found = self.target(api, message)?;
        let StreamTarget { log, topic, scope, .. } = &found;
        let target = Target::Log { log, topic: topic.as_deref(), resource: scope.as_ref() };
        let permit = authorize(&self.0.caller, action, target)?;
        Ok((found, permit))
    }

    /// Returns the target that a command names: a topic, a collection, or a resource
    /// of a collection. If only the field `resource` is present, the resource
    /// belongs to the collection in the path. If none of the fields is present,
    /// returns the target of the path. The filter and the overflow policy of this
    /// target do not change after the handshake.
    fn target(&self, api: &Api, message: &Message) -> Result<StreamTarget, Problem> {
        let catalog = &api.catalog;
        let topic = message.text("topic")?;
        let collection = message.text("collection")?;
        let resource = message.text("resource")?;
        let scope = resource.as_deref().map(|id| {
            ResourceId::new(id).map_err(|why| problem::bad_name("the field \"resource\"", why))
        });
        let scope = scope.transpose()?;
        let (log, topic, types, overflow) = match (topic, collection, &self.0.path) {
            (Some(_), Some(_), _) => {
                return Err(wrong("topic", "omitted if the field \"collection\" is present"));
            }
            (Some(name), None, _) => {
                let topic = catalog.topic(&name)?;
                (topic.log, Some(name), topic.types.to_vec(), topic.overflow)
            }
            (None, Some(name), _) => {
                let found = catalog.collection(&name)?;
                (found.log, None, Vec::new(), found.overflow)
            }
            (None, None, Some(path)) => {
                let scope = scope.or_else(|| path.scope.clone());
                return Ok(StreamTarget { scope, ..path.clone() });
            }
            (None, None, None) => {
                return Err(missing(
                    "collection",
                    "name a topic, a collection, or a resource of one",
                ));
            }
        };
        let filter = Filter::shared(types, Vec::new());
        Ok(StreamTarget { log, topic, scope, filter, overflow, params: StreamParams::default() })
    }

    async fn status(&self, api: &Api, message: &Message) -> Result<Done, Problem> {
        let (target, permit) = self.authorized(api, message, Action::Read)?;
        let LogKind::Collection(names) = &target.log.identity().kind else {
            return Err(wrong("topic", "omitted: a topic has no resources"));
        };
        let id = target.scope.ok_or_else(|| missing("resource", "name the resource"))?;
        let found = target.log.resource(&id).await.map_err(|error| problem::unavailable(&error))?;
        let found = found.ok_or_else(|| problem::not_found("the resource does not exist"))?;
        let mut name = Vec::new();
        json::quote(id.as_str(), &mut name);
        let mut document = Vec::with_capacity(found.document.len() + 64);
        json::with_first(&found.document, &names.key, &name, &["id"], &mut document);
        if self.0.bare.load(Ordering::Relaxed) {
            return Ok(Done(permit, vec![CommandReply::Status(document.into())]));
        }
        let revision = target.log.identity().id(found.revision);
        let mut data =
            format!(r#"{{"command":"get-status","id":"{revision}","data":"#).into_bytes();
        data.extend_from_slice(&document);
        data.push(b'}');
        Ok(Done(permit, vec![respond(message, data)]))
    }

    async fn subscribe(&self, api: &Api, message: &Message) -> Result<Done, Problem> {
        let (mut target, permit) = self.authorized(api, message, Action::Read)?;
        let mut types = Vec::new();
        for name in message.list("types")? {
            types.push(
                EventType::new(&name)
                    .map_err(|why| problem::bad_name("the field \"types\"", why))?,
            );
        }
        if !types.is_empty() {
            let narrowed = target.filter.with_types(types);
            target.filter =
                Arc::new(narrowed.ok_or_else(|| wrong("types", "event types of the view"))?);
        }
        let from = message.text("from")?.map(|text| parse_from(&text)).transpose()?;
        let on_gap = on_gap(message)?;
        if let Some(name) = message.text("overflow")? {
            let choices = &api.settings.overflow_choices;
            let chosen = chosen_overflow(&name, target.overflow, choices);
            target.overflow = chosen.map_err(|all| wrong("overflow", &all))?;
        }
        let resumed = matches!(from, Some(StartPosition::After(_)));
        target.params = StreamParams { from, resumed, on_gap, batch_size: None };
        let window = message.count("window")?;
        let snapshot = message.flag("snapshot")?.unwrap_or(false);
        if snapshot && matches!(target.log.identity().kind, LogKind::Topic) {
            return Err(wrong("snapshot", "omitted: a topic has no resources"));
        }
        if snapshot && from.is_some() && !resumed {
            return Err(wrong("from", "omitted, or an event id, because \"snapshot\" is true"));
        }
        let (overlaps, count) = {
            let subscriptions = self.0.subscriptions.lock();
            (subscriptions.iter().any(|other| other.overlaps(&target)), subscriptions.len())
        };
        if overlaps {
            return Err(Problem::new(
                Code::OverlappingSubscription,
                "a subscription of this socket overlaps with this target; unsubscribe first",
            ));
        }
        if count >= SUBSCRIPTIONS_MAX {
            let detail = format!(
                "a socket has at most {SUBSCRIPTIONS_MAX} subscriptions; open another socket"
            );
            return Err(Problem::new(Code::TooManyRequests, detail));
        }
        let start = target.resolve_start(snapshot).await?;
        let format = if self.0.bare.load(Ordering::Relaxed) {
            WireFormat::Bare
        } else {
            WireFormat::Envelope
        };
        let (id, cursor) = target.subscribe(&self.0.subscriber, format, window, &start);
        self.add(&target, id);
        let data = match cursor {
            None => r#"{"command":"subscribe","cursor":null}"#.to_owned(),
            Some(cursor) => format!(r#"{{"command":"subscribe","cursor":"{cursor}"}}"#),
        };
        let mut replies = vec![respond(message, data.into_bytes())];
        replies.extend(start.gap.map(|gap| CommandReply::Gap(gap, id)));
        Ok(Done(permit, replies))
    }

    /// Returns the session's subscription to the target that a command names.
    fn find(&self, api: &Api, message: &Message) -> Result<(ActiveSubscription, Permit), Problem> {
        let (target, permit) = self.authorized(api, message, Action::Session)?;
        let subscriptions = self.0.subscriptions.lock();
        let found = subscriptions.iter().find(|subscription| subscription.is(&target)).cloned();
        let found = found.ok_or_else(|| {
            problem::not_found("this socket has no subscription to the target; subscribe first")
        });
        Ok((found?, permit))
    }

    fn unsubscribe(&self, api: &Api, message: &Message) -> Result<Done, Problem> {
        let (found, permit) = self.find(api, message)?;
        self.0.subscriptions.lock().retain(|other| other.id != found.id);
        self.0.subscriber.unsubscribe(found.id);
        Ok(Done(permit, vec![respond(message, br#"{"command":"unsubscribe"}"#.to_vec())]))
    }

    fn request(&self, api: &Api, message: &Message) -> Result<Done, Problem> {
        let n =
            message.count("n")?.ok_or_else(|| missing("n", "give the number of further events"))?;
        let (found, permit) = self.find(api, message)?;
        if !self.0.subscriber.request(found.id, n) {
            return Err(wrong("n", "omitted: the subscription has no window"));
        }
        Ok(Done(
            permit,
            vec![respond(message, format!(r#"{{"command":"request","n":{n}}}"#).into_bytes())],
        ))
    }

    async fn publish(&self, api: &Arc<Api>, message: &Message) -> Result<Done, Problem> {
        let (target, permit) = self.authorized(api, message, Action::Publish)?;
        let event_type =
            message.text("type")?.ok_or_else(|| missing("type", "name the type of the event"))?;
        let event_type = EventType::new(&event_type)
            .map_err(|why| problem::bad_name("the field \"type\"", why))?;
        let data =
            message.raw("data").ok_or_else(|| missing("data", "give the data of the event"))?;
        let data = Json::from_trusted(Bytes::copy_from_slice(data));
        let merge = message.flag("merge")?;
        if merge.is_some() && matches!(target.log.identity().kind, LogKind::Topic) {
            return Err(wrong("merge", "omitted: a topic has no resources"));
        }
        let write = write(&target, event_type, data, merge.unwrap_or(true))?;
        let _in_flight = InFlightGuard::new(api);
        let written = append(api, &self.0.caller, &permit, &target.log, write).await?;
        let identity = target.log.identity();
        let id = identity.id(written.offset);
        Ok(Done(
            permit,
            vec![respond(message, format!(r#"{{"command":"publish","id":"{id}"}}"#).into_bytes())],
        ))
    }
}

/// Returns the value of the field `onGap` of a `subscribe` command.
fn on_gap(message: &Message) -> Result<OnGap, Problem> {
    match message.text("onGap")?.as_deref() {
        None | Some("event") => Ok(OnGap::Event),
        Some("snapshot") => Ok(OnGap::Snapshot),
        Some("error") => Ok(OnGap::Error),
        Some(_) => Err(wrong("onGap", "event, snapshot or error")),
    }
}

/// Returns the write that a `publish` command requests.
fn write(
    target: &StreamTarget,
    event_type: EventType,
    data: Json,
    merge: bool,
) -> Result<Write, Problem> {
    let log: &Log = &target.log;
    match (&log.identity().kind, &target.scope, &target.topic) {
        (LogKind::Topic, subject, _) => Ok(Write::publish(subject.clone(), event_type, data)),
        (LogKind::Collection { .. }, _, Some(_)) => Err(Problem::new(
            Code::MethodNotAllowed,
            "the topic is a view; publish to its collection",
        )),
        (LogKind::Collection { .. }, Some(id), None) => {
            Write::event(log.identity(), id.clone(), event_type, &data, merge)
                .map_err(|bad| problem::bad_write(&bad))
        }
        (LogKind::Collection { .. }, None, None) => {
            Err(missing("resource", "name the resource of the event"))
        }
    }
}

fn respond(message: &Message, data: Vec<u8>) -> CommandReply {
    CommandReply::Response(message.id.clone(), data)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;
    use crate::api::authorize::CALLS;
    use crate::api::request::address::Client;
    use crate::api::tests::Gateway;
    use crate::metrics::Protocol;

    #[tokio::test]
    async fn every_command_is_authorized() {
        let Gateway { api, .. } = &Gateway::start().await;
        let subscriber = api.hub.join(Protocol::WebSocket, &api.rings, 0).unwrap();
        let client = Client { address: IpAddr::V4(Ipv4Addr::LOCALHOST), via_proxy: false };
        let caller = Caller::anonymous(client);
        let dispatcher = CommandDispatcher::new(api.clone(), subscriber, caller, None);
        for (name, ..) in COMMANDS {
            let (fields, action, target) = match name {
                "get-status" => {
                    (r#","collection":"orders","resource":"1""#, Action::Read, "orders/1")
                }
                "subscribe" => (r#","collection":"orders""#, Action::Read, "orders"),
                "unsubscribe" => (r#","topic":"news""#, Action::Session, "news"),
                "request" => (r#","topic":"news","n":1"#, Action::Session, "news"),
                "publish" => (r#","topic":"news","type":"a","data":1"#, Action::Publish, "news"),
                "ping" => ("", Action::Session, "gateway"),
                other => panic!("add the command {other} to this test"),
            };
            dispatcher.execute(&format!(r#"{{"command":"{name}"{fields}}}"#)).await;
            assert_eq!(CALLS.take(), [(action, target.to_owned())], "{name}");
        }
    }
}
