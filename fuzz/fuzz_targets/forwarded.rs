//! The fields `Forwarded` and `X-Forwarded-For`: no input panics, and no value
//! from a client is trusted if a proxy has appended its own. The input is the
//! lines of a field, separated by 0.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use streamgate::event::parse_network;
use streamgate::wire::forwarded::{ForwardedHeader, client};

const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fuzz_target!(|input: &[u8]| {
    let parse = |text: &str| parse_network(text).expect("the network is valid");
    let (everybody, proxies) = ([parse("0.0.0.0/0"), parse("::/0")], [parse("10.0.0.0/8")]);
    let lines = || input.split(|&byte| byte == 0);
    let words: [(ForwardedHeader, &[u8]); 3] = [
        (ForwardedHeader::XForwardedFor, b"192.0.2.1"),
        (ForwardedHeader::Forwarded, b"for=192.0.2.1"),
        (ForwardedHeader::Forwarded, b"by=\"_a,\\\"\\\\\";for=\"192.0.2.1:_b\";host=\"c\""),
    ];
    for (field, word) in words {
        client(field, lines(), PROXY, &everybody);
        assert_eq!(client(field, lines(), CLIENT, &proxies), CLIENT);
        let behind = lines().chain([word]);
        assert_eq!(client(field, behind, PROXY, &proxies), CLIENT, "a line appended");
        let joined = [input, b",", word].concat();
        let behind = joined.split(|&byte| byte == 0);
        assert_eq!(client(field, behind, PROXY, &proxies), CLIENT, "appended to the last line");
    }
});
