//! What is wrong with a file, key by key.

use super::faults;

/// Files and what is said of them.
const FAULTS_OF_KEYS: &[(&str, &[&str])] = &[
    (
        "[streams]\n\nretry = [\"5s\", \"2s\"]\n",
        &["config.toml:3: streams.retry: the range ends before it starts (\"5s\" > \"2s\")"],
    ),
    (
        "[streams]\nretry = \"5s\"\n",
        &[
            "config.toml:2: streams.retry: is a list of two durations, as in [\"2s\", \"5s\"], not the text \"5s\"",
        ],
    ),
    (
        "[streams]\nheartbeet = \"5s\"\n",
        &[
            "config.toml:2: streams.heartbeet: unknown key; the nearest known one is streams.heartbeat",
        ],
    ),
    (
        "[server]\nheartbeat = \"5s\"\n",
        &[
            "config.toml:2: server.heartbeat: unknown key; the nearest known one is streams.heartbeat",
        ],
    ),
    (
        "[server]\ncolour = 1\n",
        &[
            "config.toml:2: server.colour: unknown key; known here: admin_listen, drain, forwarded, listen, proxies, proxy_protocol",
        ],
    ),
    (
        "[[webhooks]]\nname = \"a\"\n",
        &[
            "config.toml:1: webhooks: unknown key; known here: auth, collections, engine, limits, server, storage, streams, topics",
        ],
    ),
    (
        "[streams]\nheartbeat = \"0s\"\n",
        &["config.toml:2: streams.heartbeat: must be more than zero"],
    ),
    (
        "[streams]\nring_events = 0\n",
        &["config.toml:2: streams.ring_events: must be more than zero"],
    ),
    (
        "[streams]\nring_bytes = \"0\"\n",
        &["config.toml:2: streams.ring_bytes: must be more than zero"],
    ),
    (
        "[streams]\nring_events = \"1024\"\n",
        &["config.toml:2: streams.ring_events: is a whole number, not the text \"1024\""],
    ),
    (
        "[limits]\nbody_bytes = -1\nhead_timeout = 10\nmax_connections = 4294967296\n",
        &[
            "config.toml:2: limits.body_bytes: -1 is less than zero",
            "config.toml:3: limits.head_timeout: is a duration such as \"15s\", not the number 10",
            "config.toml:4: limits.max_connections: 4294967296 is not within 0 and 4294967295",
        ],
    ),
    (
        "[limits]\ncontrol_rate = -1\nbody_rate = \"256 B/s\"\n",
        &[
            "config.toml:2: limits.control_rate: -1 is not within 0 and 4294967295",
            "config.toml:3: limits.body_rate: \"256 B/s\" is no size; write a whole number and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, as in \"64KiB\"",
        ],
    ),
    (
        "[limits]\nbody_bytes = \"1mb\"\n",
        &[
            "config.toml:2: limits.body_bytes: \"1mb\" is no size; write a whole number and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, as in \"64KiB\"",
        ],
    ),
    (
        "[streams]\noverflow = \"drop\"\n",
        &[
            "config.toml:2: streams.overflow: \"drop\" is not one of \"log\", \"conflate\", \"drop-oldest\", \"drop-newest\", \"disconnect\"",
        ],
    ),
    (
        "[streams]\noverflow_choices = [\"log\",\n\"all\"]\n[[collections]]\nname = \"a\"\noverflow = 1\n",
        &[
            "config.toml:3: streams.overflow_choices: \"all\" is not one of \"log\", \"conflate\", \"drop-oldest\", \"drop-newest\", \"disconnect\"",
            "config.toml:6: collections.overflow: is a text in quotes, not the number 1",
        ],
    ),
    (
        "[streams]\npace_events = -1\npace_bytes = \"fast\"\n",
        &[
            "config.toml:2: streams.pace_events: -1 is not within 0 and 4294967295",
            "config.toml:3: streams.pace_bytes: \"fast\" is no size; write a whole number and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, as in \"64KiB\"",
        ],
    ),
    (
        "[streams]\noverflow = \"lag\"\n",
        &[
            "config.toml:2: streams.overflow: \"lag\" is not one of \"log\", \"conflate\", \"drop-oldest\", \"drop-newest\", \"disconnect\"",
        ],
    ),
    (
        "[storage]\nsync = \"sometimes\"\n",
        &[
            "config.toml:2: storage.sync: \"sometimes\" is not one of \"always\", \"interval\", \"never\"",
        ],
    ),
    (
        "[engine]\nkind = \"nats\"\n",
        &["config.toml:2: engine.kind: this build has no \"nats\"; it has \"embedded\""],
    ),
    (
        "[auth]\nmode = \"jwt\"\n",
        &["config.toml:2: auth.mode: this build has no \"jwt\"; it has \"none\""],
    ),
    (
        "[server]\nlisten = \"localhost:80\"\n",
        &[
            "config.toml:2: server.listen: the text \"localhost:80\" is no address and port, as in \"127.0.0.1:8080\" or \"[::1]:8080\"",
        ],
    ),
    (
        "[server]\nlisten = \"127.0.0.1:9090\"\n",
        &[
            "config.toml:2: server.listen: server.listen and server.admin_listen are both \"127.0.0.1:9090\"",
        ],
    ),
    (
        "[server]\nproxies = [\n  \"10.0.0.0/8\",\n  \"10.1.2.3/8\",\n  \"proxy.internal\",\n  \"::1/129\"]\n",
        &[
            "config.toml:4: server.proxies: \"10.1.2.3/8\" is no network: bits after the prefix are set; write \"10.0.0.0/8\", or the address without a prefix",
            "config.toml:5: server.proxies: \"proxy.internal\" is no network: write an address with or without a prefix, for example \"10.0.0.0/8\" or \"::1\"",
            "config.toml:6: server.proxies: \"::1/129\" is no network: the prefix length must be a number from 0 to 128",
        ],
    ),
    (
        "[server]\nproxies = \"10.0.0.0/8\"\nforwarded = \"via\"\nproxy_protocol = \"optional\"\n",
        &[
            "config.toml:2: server.proxies: is a list of texts, not the text \"10.0.0.0/8\"",
            "config.toml:3: server.forwarded: \"via\" is not one of \"x-forwarded-for\", \"forwarded\", \"none\"",
            "config.toml:4: server.proxy_protocol: \"optional\" is not one of \"off\", \"required\"",
        ],
    ),
    (
        "[server]\nlisten = \"127.0.0.1:80\"\nproxy_protocol = \"required\"\n",
        &[
            "config.toml:3: server.proxy_protocol: every connection would be closed, since only the proxies in server.proxies are believed; list them, as in proxies = [\"10.0.0.0/8\"]",
        ],
    ),
    ("server = 5\n", &["config.toml:1: server: is a table, not the number 5"]),
    ("[storage]\npath = \"\"\n", &["config.toml:2: storage.path: is empty"]),
];

#[test]
fn each_fault_is_named_with_its_line_and_key() {
    for (text, expected) in FAULTS_OF_KEYS {
        assert_eq!(faults(text, &[], &[]), *expected, "{text}");
    }
}

/// Files and what is said of them.
const FAULTS_OF_NAMES: &[(&str, &[&str])] = &[
    ("[[collections]]\n", &["config.toml:1: collections.name: a collection needs a name"]),
    (
        "[[collections]]\nname = \"a:b\"\n",
        &[
            "config.toml:2: collections.name: \"a:b\" is no name of a collection: ':' is not one of A-Z a-z 0-9 . _ ~ -",
        ],
    ),
    (
        "[[collections]]\nname = \"events\"\n\n[[topics]]\nname = \"ws\"\n",
        &[
            "config.toml:2: collections.name: \"events\" is no name of a collection: the name is reserved; use another name",
            "config.toml:5: topics.name: \"ws\" is no name of a topic: the name is reserved; use another name",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\n[[collections]]\nname = \"a\"\n[[topics]]\nname = \"a\"\n",
        &[
            "config.toml:4: collections.name: \"a\" is already the name of a collection",
            "config.toml:6: topics.name: \"a\" is already the name of a collection",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\n[[topics]]\nname = \"t\"\n",
        &["config.toml:4: topics.name: \"t\" is already the name of a topic"],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"carts\"\n",
        &["config.toml:3: topics.collection: there is no collection \"carts\""],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"orders\"\ntypes = [\n  \"a\",\n  \"gap\",\n  \"b c\",\n]\n",
        &[
            "config.toml:6: topics.types: \"gap\" is no event type: the name is reserved; use another name",
            "config.toml:7: topics.types: \"b c\" is no event type: ' ' is not one of A-Z a-z 0-9 . _ ~ : -",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\ntypes = [\"a\"]\n",
        &["config.toml:3: topics.types: only a view has types; a topic of its own shows all"],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"orders\"\nretention = { events = 1 }\n",
        &["config.toml:4: topics.retention: a view keeps nothing itself; set its collection's"],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"orders\"\ndurability = \"disk\"\n",
        &[
            "config.toml:4: topics.durability: a view keeps nothing itself; its collection is on disk",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\ndurability = \"ram\"\n[[topics]]\nname = \"u\"\ndurability = 1\n",
        &[
            "config.toml:3: topics.durability: \"ram\" is not one of \"disk\", \"memory\"",
            "config.toml:6: topics.durability: is a text in quotes, not the number 1",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\ndurability = \"memory\"\n",
        &[
            "config.toml:3: collections.durability: unknown key; known here: name, overflow, resource, retention",
        ],
    ),
    (
        "[[collections]]\nname = \"shots\"\nresource = \"snapshot\"\n",
        &[
            "config.toml:3: collections.resource: \"snapshot\" makes no event types such as \"order-created\": the name is reserved; use another name",
        ],
    ),
    (
        "[[collections]]\nname = \"shots\"\nresource = \"a shot\"\ncreate = \"async\"\n",
        &[
            "config.toml:3: collections.resource: \"a shot\" makes no event types such as \"order-created\": ' ' is not one of A-Z a-z 0-9 . _ ~ : -",
            "config.toml:4: collections.create: unknown key; known here: name, overflow, resource, retention",
        ],
    ),
    (
        "collections = 1\ntopics = [2]\n",
        &[
            "config.toml:1: collections: is a list of tables, not the number 1",
            "config.toml:2: topics: is a list of tables, not of the number 2",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\nretention = { events = \"10MiB\" }\n",
        &["config.toml:3: collections.retention.events: is a whole number, not the text \"10MiB\""],
    ),
    (
        "[[collections]]\nname = \"a\"\nretention = { events = -1, bytes = \"x\", age = \"1\" , size = 1}\n",
        &[
            "config.toml:3: collections.retention.events: -1 is less than zero",
            "config.toml:3: collections.retention.bytes: \"x\" is no size; write a whole number and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, as in \"64KiB\"",
            "config.toml:3: collections.retention.age: \"1\" is no duration; write a whole number and ms, s, m, h or d, as in \"15s\"",
            "config.toml:3: collections.retention.size: unknown key; known here: age, bytes, events",
        ],
    ),
];

#[test]
fn names_are_checked_across_collections_and_topics() {
    for (text, expected) in FAULTS_OF_NAMES {
        assert_eq!(faults(text, &[], &[]), *expected, "{text}");
    }
}
