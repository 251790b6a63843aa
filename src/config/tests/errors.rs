//! Tests of the errors of each key in a file.

use super::errors;

/// Files and their errors.
const ERRORS_OF_KEYS: &[(&str, &[&str])] = &[
    (
        "[streams]\n\nretry = [\"5s\", \"2s\"]\n",
        &[
            "config.toml:3: streams.retry: the first duration, \"5s\", must not be longer than the second, \"2s\"",
        ],
    ),
    (
        "[streams]\nretry = \"5s\"\n",
        &[
            "config.toml:2: streams.retry: must be a list of two durations such as [\"2s\", \"5s\"], not the string \"5s\"",
        ],
    ),
    (
        "[streams]\nheartbeet = \"5s\"\n",
        &["config.toml:2: streams.heartbeet: unknown key; did you mean streams.heartbeat?"],
    ),
    (
        "[server]\nheartbeat = \"5s\"\n",
        &["config.toml:2: server.heartbeat: unknown key; did you mean streams.heartbeat?"],
    ),
    (
        "[server]\ncolour = 1\n",
        &[
            "config.toml:2: server.colour: unknown key; the known keys are admin_listen, drain, forwarded, listen, proxies, proxy_protocol",
        ],
    ),
    (
        "[[webhooks]]\nname = \"a\"\n",
        &[
            "config.toml:1: webhooks: unknown key; the known keys are auth, collections, engine, limits, server, storage, streams, topics",
        ],
    ),
    (
        "[streams]\nheartbeat = \"0s\"\n",
        &["config.toml:2: streams.heartbeat: must be greater than zero"],
    ),
    (
        "[streams]\nring_events = 0\n",
        &["config.toml:2: streams.ring_events: must be greater than zero"],
    ),
    (
        "[streams]\nring_bytes = \"0\"\n",
        &["config.toml:2: streams.ring_bytes: must be greater than zero"],
    ),
    (
        "[streams]\nring_events = \"1024\"\n",
        &["config.toml:2: streams.ring_events: must be an integer, not the string \"1024\""],
    ),
    (
        "[limits]\nbody_bytes = -1\nhead_timeout = 10\nmax_connections = 4294967296\n",
        &[
            "config.toml:2: limits.body_bytes: must not be negative",
            "config.toml:3: limits.head_timeout: must be a duration such as \"15s\", not the number 10",
            "config.toml:4: limits.max_connections: must be between 1 and 4294967295",
        ],
    ),
    (
        "[limits]\ncontrol_rate = -1\nbody_rate = \"256 B/s\"\n",
        &[
            "config.toml:2: limits.control_rate: must be between 0 and 4294967295",
            "config.toml:3: limits.body_rate: \"256 B/s\" is not a size; write an integer and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, for example \"64KiB\"",
        ],
    ),
    (
        "[limits]\nbody_bytes = \"1mb\"\n",
        &[
            "config.toml:2: limits.body_bytes: \"1mb\" is not a size; write an integer and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, for example \"64KiB\"",
        ],
    ),
    (
        "[streams]\noverflow = \"drop\"\n",
        &[
            "config.toml:2: streams.overflow: must be one of \"log\", \"conflate\", \"drop-oldest\", \"drop-newest\", \"disconnect\", not \"drop\"",
        ],
    ),
    (
        "[streams]\noverflow_choices = [\"log\",\n\"all\"]\n[[collections]]\nname = \"a\"\noverflow = 1\n",
        &[
            "config.toml:3: streams.overflow_choices: must be one of \"log\", \"conflate\", \"drop-oldest\", \"drop-newest\", \"disconnect\", not \"all\"",
            "config.toml:6: collections.overflow: must be a string in quotes, not the number 1",
        ],
    ),
    (
        "[streams]\npace_events = -1\npace_bytes = \"fast\"\n",
        &[
            "config.toml:2: streams.pace_events: must be between 0 and 4294967295",
            "config.toml:3: streams.pace_bytes: \"fast\" is not a size; write an integer and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, for example \"64KiB\"",
        ],
    ),
    (
        "[streams]\noverflow = \"lag\"\n",
        &[
            "config.toml:2: streams.overflow: must be one of \"log\", \"conflate\", \"drop-oldest\", \"drop-newest\", \"disconnect\", not \"lag\"",
        ],
    ),
    (
        "[storage]\nsync = \"sometimes\"\n",
        &[
            "config.toml:2: storage.sync: must be one of \"always\", \"interval\", \"never\", not \"sometimes\"",
        ],
    ),
    (
        "[engine]\nkind = \"nats\"\n",
        &["config.toml:2: engine.kind: \"nats\" is not implemented yet; use \"embedded\""],
    ),
    (
        "[auth]\nmode = \"jwt\"\n",
        &["config.toml:2: auth.mode: \"jwt\" is not implemented yet; use \"none\""],
    ),
    (
        "[server]\nlisten = \"localhost:80\"\n",
        &[
            "config.toml:2: server.listen: must be an IP address and a port such as \"127.0.0.1:8080\" or \"[::1]:8080\", not the string \"localhost:80\"",
        ],
    ),
    (
        "[server]\nlisten = \"127.0.0.1:9090\"\n",
        &[
            "config.toml:2: server.listen: server.listen and server.admin_listen must be different; both are \"127.0.0.1:9090\"",
        ],
    ),
    (
        "[server]\nproxies = [\n  \"10.0.0.0/8\",\n  \"10.1.2.3/8\",\n  \"proxy.internal\",\n  \"::1/129\"]\n",
        &[
            "config.toml:4: server.proxies: \"10.1.2.3/8\" is not a network: bits after the prefix are set; write \"10.0.0.0/8\", or the address without a prefix",
            "config.toml:5: server.proxies: \"proxy.internal\" is not a network: write an address with or without a prefix, for example \"10.0.0.0/8\" or \"::1\"",
            "config.toml:6: server.proxies: \"::1/129\" is not a network: the prefix length must be a number from 0 to 128",
        ],
    ),
    (
        "[server]\nproxies = \"10.0.0.0/8\"\nforwarded = \"via\"\nproxy_protocol = \"optional\"\n",
        &[
            "config.toml:2: server.proxies: must be a list of strings, not the string \"10.0.0.0/8\"",
            "config.toml:3: server.forwarded: must be one of \"x-forwarded-for\", \"forwarded\", \"none\", not \"via\"",
            "config.toml:4: server.proxy_protocol: must be one of \"off\", \"required\", not \"optional\"",
        ],
    ),
    (
        "[server]\nlisten = \"127.0.0.1:80\"\nproxy_protocol = \"required\"\n",
        &[
            "config.toml:3: server.proxy_protocol: needs trusted proxies in server.proxies, because all other connections are closed; set, for example, proxies = [\"10.0.0.0/8\"]",
        ],
    ),
    ("server = 5\n", &["config.toml:1: server: must be a table, not the number 5"]),
    ("[storage]\npath = \"\"\n", &["config.toml:2: storage.path: must not be empty"]),
];

#[test]
fn each_error_is_reported_with_its_line_and_key() {
    for (text, expected) in ERRORS_OF_KEYS {
        assert_eq!(errors(text, &[], &[]), *expected, "{text}");
    }
}

/// Files with errors in names, and these errors.
const ERRORS_OF_NAMES: &[(&str, &[&str])] = &[
    ("[[collections]]\n", &["config.toml:1: collections.name: a collection needs a name"]),
    (
        "[[collections]]\nname = \"a:b\"\n",
        &[
            "config.toml:2: collections.name: \"a:b\" is not a valid name of a collection: the character ':' is not allowed; use A-Z a-z 0-9 . _ ~ -",
        ],
    ),
    (
        "[[collections]]\nname = \"events\"\n\n[[topics]]\nname = \"ws\"\n",
        &[
            "config.toml:2: collections.name: \"events\" is not a valid name of a collection: the name is reserved; use another name",
            "config.toml:5: topics.name: \"ws\" is not a valid name of a topic: the name is reserved; use another name",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\n[[collections]]\nname = \"a\"\n[[topics]]\nname = \"a\"\n",
        &[
            "config.toml:4: collections.name: \"a\" is already the name of a collection; use another name",
            "config.toml:6: topics.name: \"a\" is already the name of a collection; use another name",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\n[[topics]]\nname = \"t\"\n",
        &["config.toml:4: topics.name: \"t\" is already the name of a topic; use another name"],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"carts\"\n",
        &["config.toml:3: topics.collection: no collection named \"carts\""],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"orders\"\ntypes = [\n  \"a\",\n  \"gap\",\n  \"b c\",\n]\n",
        &[
            "config.toml:6: topics.types: \"gap\" is not an event type: the name is reserved; use another name",
            "config.toml:7: topics.types: \"b c\" is not an event type: the character ' ' is not allowed; use A-Z a-z 0-9 . _ ~ : -",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\ntypes = [\"a\"]\n",
        &[
            "config.toml:3: topics.types: only a view can have types; set the key `collection` too, or remove this key",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"orders\"\nretention = { events = 1 }\n",
        &[
            "config.toml:4: topics.retention: a view uses the log of its collection; set the retention there",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\ncollection = \"orders\"\ndurability = \"disk\"\n",
        &[
            "config.toml:4: topics.durability: a view uses the log of its collection, which is on disk; remove the key",
        ],
    ),
    (
        "[[topics]]\nname = \"t\"\ndurability = \"ram\"\n[[topics]]\nname = \"u\"\ndurability = 1\n",
        &[
            "config.toml:3: topics.durability: must be one of \"disk\", \"memory\", not \"ram\"",
            "config.toml:6: topics.durability: must be a string in quotes, not the number 1",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\ndurability = \"memory\"\n",
        &[
            "config.toml:3: collections.durability: unknown key; the known keys are name, overflow, resource, retention",
        ],
    ),
    (
        "[[collections]]\nname = \"shots\"\nresource = \"snapshot\"\n",
        &[
            "config.toml:3: collections.resource: \"snapshot\" cannot be a resource name, because the names of event types begin with it: the name is reserved; use another name",
        ],
    ),
    (
        "[[collections]]\nname = \"shots\"\nresource = \"a shot\"\ncreate = \"async\"\n",
        &[
            "config.toml:3: collections.resource: \"a shot\" cannot be a resource name, because the names of event types begin with it: the character ' ' is not allowed; use A-Z a-z 0-9 . _ ~ : -",
            "config.toml:4: collections.create: unknown key; the known keys are name, overflow, resource, retention",
        ],
    ),
    (
        "collections = 1\ntopics = [2]\n",
        &[
            "config.toml:1: collections: must be a list of tables, not the number 1",
            "config.toml:2: topics: must be a list of tables; the number 2 is not a table",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\nretention = { events = \"10MiB\" }\n",
        &[
            "config.toml:3: collections.retention.events: must be an integer, not the string \"10MiB\"",
        ],
    ),
    (
        "[[collections]]\nname = \"a\"\nretention = { events = -1, bytes = \"x\", age = \"1\" , size = 1}\n",
        &[
            "config.toml:3: collections.retention.events: must not be negative",
            "config.toml:3: collections.retention.bytes: \"x\" is not a size; write an integer and B, kB, KiB, MB, MiB, GB, GiB, TB or TiB, for example \"64KiB\"",
            "config.toml:3: collections.retention.age: \"1\" is not a duration; write an integer and ms, s, m, h or d, for example \"15s\"",
            "config.toml:3: collections.retention.size: unknown key; the known keys are age, bytes, events",
        ],
    ),
];

#[test]
fn each_error_of_a_name_is_reported_with_its_line_and_key() {
    for (text, expected) in ERRORS_OF_NAMES {
        assert_eq!(errors(text, &[], &[]), *expected, "{text}");
    }
}
