//! Tests of command lines and their exit codes.

use clap::CommandFactory as _;

use super::*;

fn code(arguments: &[&str]) -> u8 {
    run(["streamgate"].iter().chain(arguments).map(OsString::from))
}

fn usage(arguments: &[&str]) -> String {
    let arguments = ["streamgate"].iter().chain(arguments).map(OsString::from);
    let failure = parse(arguments).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(failure.lines.len(), 1);
    failure.lines[0].clone()
}

#[test]
fn the_definition_of_the_command_line_is_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn the_help_of_every_command_has_an_example() {
    let mut command = Arguments::command();
    for verb in command.get_subcommands_mut().filter(|verb| verb.get_name() != "help") {
        let help = verb.render_help().to_string();
        assert!(help.contains("Example"), "{help}");
    }
}

#[test]
fn an_invalid_command_line_is_reported_in_one_line() {
    assert_eq!(usage(&["--nope"]), "unexpected argument '--nope' found; see --help");
    assert_eq!(
        usage(&["tail"]),
        "the following required arguments were not provided: <STREAM>; see --help"
    );
    assert_eq!(
        usage(&["import", "--topic", "alerts"]),
        "the following required arguments were not provided: <FILE>; see --help"
    );
    let one = Arguments::try_parse_from(["streamgate", "import", "orders"]).unwrap();
    let failure = execute(one).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(
        failure.lines,
        ["orders: COLLECTION or FILE is missing; write streamgate import COLLECTION FILE"]
    );
    assert_eq!(code(&["import", "orders", "-", "--topic", "x"]), 2);
    assert_eq!(code(&["tail", "orders", "--url", "https://127.0.0.1"]), 2);
    assert_eq!(code(&["man", "nothing"]), 2);
}

#[test]
fn a_url_with_an_invalid_port_is_a_usage_error() {
    for (url, port) in [
        ("http://127.0.0.1:99999", Some("99999")),
        ("http://127.0.0.1:65536/prefix", Some("65536")),
        ("http://[::1]:0", Some("0")),
        ("http://[::1]:65535", None),
        ("http://localhost:", None),
        ("http://localhost", None),
    ] {
        let expected = port.map(|port| {
            format!("{url}: the port {port:?} is invalid; write a port from 1 to 65535")
        });
        let failure = client::GatewayUrl::parse(url).err();
        assert_eq!(failure.map(|failure| failure.lines.concat()), expected);
    }
    let url = "http://127.0.0.1:99999";
    assert_eq!(code(&["tail", "orders", "--url", url]), 2);
    assert_eq!(code(&["import", "orders", "/no/such/file", "--url", url]), 2);
    assert_eq!(code(&["healthcheck", "--admin-url", url]), 2);
}

#[test]
fn an_invalid_configuration_ends_with_code_78() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, "[server]\ndrain = \"1s\"\n").unwrap();
    assert_eq!(code(&["check", "--config", path]), 0);
    assert_eq!(code(&["check", "--config", path, "--set", "server.drain=soon"]), 78);
    std::fs::write(&file, "[server]\ndrain = \"soon\"\n").unwrap();
    assert_eq!(code(&["check", "-c", path]), 78);
    assert_eq!(code(&["serve", "-c", path]), 78);
    assert_eq!(code(&["-c", path]), 78);
    assert_eq!(code(&["check", "-c", "/no/such/file.toml"]), 78);
}

#[test]
fn client_commands_fail_if_no_gateway_listens() {
    // The listener is closed again, so no process listens on this port.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let url = format!("http://127.0.0.1:{port}");
    assert_eq!(code(&["healthcheck", "--admin-url", &url]), 1);
    assert_eq!(code(&["tail", "orders", "--url", &url, "--retries", "0"]), 1);
    assert_eq!(code(&["import", "orders", "/no/such/file", "--url", &url]), 1);
}

#[test]
fn healthcheck_fails_if_and_only_if_the_status_is_an_error() {
    use client::script::{Peer, Script};
    let script = Script::start(vec![
        Box::new(|peer: &mut Peer| {
            assert!(peer.head().starts_with("get /readyz http/1.1\r\n"));
            peer.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }),
        Box::new(|peer: &mut Peer| {
            assert!(peer.head().starts_with("get /livez http/1.1\r\n"));
            peer.send("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n");
        }),
    ]);
    let admin = script.url.strip_prefix("http://").unwrap();
    let set = format!("server.admin_listen={admin}");
    assert_eq!(code(&["healthcheck", "--set", &set]), 0);
    assert_eq!(code(&["healthcheck", "--admin-url", &script.url, "--live"]), 1);
    script.finish();
}

#[test]
fn the_completions_and_the_manual_have_every_command() {
    let script = String::from_utf8(completions::script(clap_complete::Shell::Bash)).unwrap();
    let page = String::from_utf8(man::page(None).unwrap()).unwrap();
    for verb in Arguments::command().get_subcommands() {
        assert!(script.contains(&format!("streamgate__subcmd__{}", verb.get_name())), "{script}");
        assert!(page.contains(&format!("streamgate\\-{}(1)", verb.get_name())), "{page}");
    }
    let page = String::from_utf8(man::page(Some("import")).unwrap()).unwrap();
    assert!(page.contains(".TH STREAMGATE-IMPORT 1"), "{page}");
    assert!(page.contains("zcat orders.ndjson.gz"), "{page}");
}
