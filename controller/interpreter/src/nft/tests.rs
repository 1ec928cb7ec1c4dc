//! Single rules and elements, as `nft` 1.0.6 prints them for programs.

use std::net::IpAddr;

use super::*;
use crate::judge::{Judgement, RateLimit, Verdict};
use crate::packet::{ConntrackState, Packet, TcpFlags, Transport};

const SETS: &str = r#"{"set": {"family": "ip", "name": "pods", "table": "t", "type": "ipv4_addr",
     "handle": 1, "elem": ["10.1.0.1"]}},
    {"set": {"family": "ip", "name": "blocks", "table": "t", "type": "ipv4_addr", "handle": 2,
     "flags": ["interval"], "elem": [{"prefix": {"addr": "10.2.0.0", "len": 16}},
     {"range": ["10.1.0.1", "10.1.0.3"]}]}},
    {"set": {"family": "ip", "name": "named", "table": "t", "handle": 3,
     "type": ["ipv4_addr", "inet_proto", "inet_service"], "elem": [{"concat": ["10.2.0.1", "tcp", 80]}]}},
    {"set": {"family": "ip", "name": "rate-1", "table": "t", "type": "ipv4_addr", "handle": 4,
     "size": 16384, "flags": ["timeout"], "timeout": 60,
     "elem": [{"elem": {"val": "10.0.0.1", "expires": 3}}]}}"#;

fn listing(family: &str, objects: &str) -> String {
    format!(
        r#"{{"nftables": [{{"metainfo": {{"version": "1.0.6"}}}},
        {{"table": {{"family": "{family}", "name": "t", "handle": 1}}}},
        {{"counter": {{"family": "{family}", "name": "kind", "table": "t", "handle": 9, "packets": 7,
          "bytes": 420}}}}, {objects}]}}"#
    )
}

fn chain(name: &str) -> String {
    format!(r#"{{"chain": {{"family": "ip", "table": "t", "name": "{name}", "handle": 1}}}}"#)
}

fn base(name: &str, hook: &str) -> String {
    format!(
        r#"{{"chain": {{"family": "ip", "table": "t", "name": "{name}", "handle": 1, "type": "filter",
        "hook": "{hook}", "prio": -150, "policy": "accept"}}}}"#
    )
}

fn rule(chain: &str, expressions: &str) -> String {
    format!(
        r#"{{"rule": {{"family": "ip", "table": "t", "chain": "{chain}", "handle": 5, "comment": "x",
        "expr": [{expressions}]}}}}"#
    )
}

fn parse(family: &str, expressions: &str) -> Result<Tables, ParseError> {
    let objects =
        [base("forward", "forward"), chain("A"), rule("forward", expressions), rule("A", "")];
    Tables::parse_nftables(&[&listing(family, &objects.join(", "))])
}

fn sets() -> Sets {
    let mut sets = Sets::default();
    sets.add_nftables(&listing("ip", SETS)).unwrap();
    sets
}

fn packet(transport: Transport) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Packet::new(address("10.1.0.1"), address("10.2.0.1"), transport).between("veth1", "eth0")
}

fn judge(expressions: &str, packet: &Packet) -> Judgement {
    parse("ip", expressions).unwrap().judge(&sets(), "FORWARD", packet).unwrap()
}

/// Whether a rule with this condition matches the SYN of a connection to port 80, and its text.
#[track_caller]
fn check(condition: &str, is_matched: bool, text: &str) {
    check_packet(condition, &packet(Transport::syn(1000, 80)), is_matched);
    let tables = parse("ip", condition).unwrap();
    assert_eq!(tables.nft_rules()[&(Table::Nftables, "forward")][0].text, text);
}

#[track_caller]
fn check_packet(condition: &str, packet: &Packet, is_matched: bool) {
    let found = judge(&format!(r#"{condition}, {{"drop": null}}"#), packet);
    assert_eq!(found.verdict == Verdict::Drop, is_matched, "{condition}: {packet:?}");
}

fn compare(left: &str, op: &str, right: &str) -> String {
    format!(r#"{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}"#)
}

fn payload(protocol: &str, field: &str) -> String {
    format!(r#"{{"payload": {{"protocol": "{protocol}", "field": "{field}"}}}}"#)
}

#[test]
fn addresses_are_compared_with_addresses_networks_and_sets() {
    let source = payload("ip", "saddr");
    let prefix = r#"{"prefix": {"addr": "10.1.0.0", "len": 24}}"#;
    check(&compare(&source, "==", r#""10.1.0.1""#), true, "ip saddr 10.1.0.1");
    check(&compare(&source, "!=", r#""10.1.0.1""#), false, "ip saddr != 10.1.0.1");
    check(&compare(&source, "==", prefix), true, "ip saddr 10.1.0.0/24");
    check(&compare(&payload("ip", "daddr"), "==", prefix), false, "ip daddr 10.1.0.0/24");
    check(&compare(&source, "==", r#""@pods""#), true, "ip saddr @pods");
    check(&compare(&source, "!=", r#""@pods""#), false, "ip saddr != @pods");
    check(&compare(&source, "==", r#""@blocks""#), true, "ip saddr @blocks");
    let concat = format!(
        r#"{{"concat": [{}, {{"meta": {{"key": "l4proto"}}}}, {}]}}"#,
        payload("ip", "daddr"),
        payload("th", "dport")
    );
    let text = "ip daddr . meta l4proto . th dport @named";
    check(&compare(&concat, "==", r#""@named""#), true, text);
    let udp = Transport::Udp { source_port: 1, destination_port: 80 };
    check_packet(&compare(&concat, "==", r#""@named""#), &packet(udp), false);
}

#[test]
fn bits_of_headers_are_the_addresses_that_they_are() {
    let bits = |offset, len| {
        format!(r#"{{"payload": {{"base": "nh", "offset": {offset}, "len": {len}}}}}"#)
    };
    check(&compare(&bits(96, 32), "==", "167837697"), true, "ip saddr 10.1.0.1");
    check(&compare(&bits(128, 24), "==", "655872"), true, "ip daddr 10.2.0.0/24");
    let masked = format!(r#"{{"&": [{}, 4294967232]}}"#, bits(96, 32));
    check(&compare(&masked, "==", "167837696"), true, "ip saddr 10.1.0.0/26");
    let map = format!(
        r#"{{"vmap": {{"key": {}, "data": {{"set": [["10.1.0.1", {{"drop": null}}]]}}}}}}"#,
        bits(96, 32)
    );
    assert_eq!(judge(&map, &packet(Transport::syn(1, 2))).verdict, Verdict::Drop);
    let tables =
        parse("ip6", &compare(&bits(64, 128), "==", r#""0xfe800000000000000000000000000001""#));
    let tables = tables.unwrap();
    assert_eq!(tables.nft_rules()[&(Table::Nftables, "forward")][0].text, "ip6 saddr fe80::1");
    assert!(parse("ip", &compare(&bits(100, 8), "==", "1")).is_err());
}

#[test]
fn transport_headers_imply_their_protocol() {
    let port = payload("tcp", "dport");
    let set = r#"{"set": [443, {"range": [80, 90]}]}"#;
    check(&compare(&port, "==", "80"), true, "tcp dport 80");
    check(&compare(&port, "==", set), true, "tcp dport { 80-90, 443 }");
    check(&compare(&payload("udp", "dport"), "==", "80"), false, "udp dport 80");
    let flags = format!(r#"{{"&": [{}, ["fin", "syn"]]}}"#, payload("tcp", "flags"));
    check(&compare(&flags, "==", r#""syn""#), true, "tcp flags & (fin | syn) == syn");
    let ack = Transport::Tcp { source_port: 1, destination_port: 2, flags: TcpFlags::ACK };
    check_packet(&compare(&flags, "==", r#""syn""#), &packet(ack), false);
    let protocol = r#"{"meta": {"key": "l4proto"}}"#;
    check(&compare(protocol, "!=", r#""sctp""#), true, "meta l4proto != sctp");
    check(&compare(protocol, "==", "47"), false, "meta l4proto 47");
    let icmp = compare(&payload("icmp", "type"), "==", r#""echo-request""#);
    check(&icmp, false, "icmp type 8");
    check_packet(&icmp, &packet(Transport::Icmp { kind: 8, code: 0 }), true);
    let init =
        r#"{"match": {"op": "==", "left": {"sctp chunk": {"name": "init"}}, "right": true}}"#;
    check(init, false, "sctp chunk init exists");
    let with_protocol = format!("{}, {init}", compare(protocol, "==", r#""sctp""#));
    check(&with_protocol, false, "sctp chunk init exists");
    let sctp = Transport::Sctp { source_port: 1, destination_port: 2, init: true };
    check_packet(init, &packet(sctp), true);
}

#[test]
fn a_packet_without_a_connection_has_a_state_and_no_status() {
    let state = r#"{"ct": {"key": "state"}}"#;
    let status = r#"{"ct": {"key": "status"}}"#;
    let known = compare(state, "in", r#"["established", "related"]"#);
    let unrelated = compare(state, "!=", r#""related""#);
    let without = compare(state, "in", r#"["invalid", "untracked"]"#);
    let untranslated = compare(status, "!", r#""dnat""#);
    check(&known, false, "ct state established,related");
    check(&untranslated, true, "ct status ! dnat");
    for (state, matched) in [
        (ConntrackState::New, [false, true, false, true]),
        (ConntrackState::Related, [true, false, false, true]),
        (ConntrackState::Invalid, [false, true, true, false]),
        (ConntrackState::Untracked, [false, true, true, false]),
    ] {
        let packet = packet(Transport::syn(1, 2)).in_state(state);
        let conditions = [&known, &unrelated, &without, &untranslated];
        for (condition, matched) in conditions.into_iter().zip(matched) {
            check_packet(condition, &packet, matched);
        }
    }
    let mut translated = packet(Transport::syn(1, 2));
    translated.destination_translated = true;
    check_packet(&untranslated, &translated, false);
}

#[test]
fn a_map_is_a_rule_for_each_element_in_the_order_of_its_keys() {
    let map = format!(
        r#"{{"vmap": {{"key": {}, "data": {{"set": [["10.1.0.10", {{"drop": null}}],
        ["10.1.0.2", {{"goto": {{"target": "A"}}}}], ["10.1.0.1", {{"drop": null}}]]}}}}}}"#,
        payload("ip", "saddr")
    );
    let tables = parse("ip", &map).unwrap();
    let rules = &tables.nft_rules()[&(Table::Nftables, "forward")];
    let texts: Vec<&str> = rules.iter().map(|rule| rule.text.as_str()).collect();
    assert_eq!(
        texts,
        ["ip saddr 10.1.0.1 drop", "ip saddr 10.1.0.2 goto A", "ip saddr 10.1.0.10 drop"]
    );
    assert!(rules.iter().all(|rule| rule.handle == 5));
    assert_eq!(judge(&map, &packet(Transport::syn(1, 2))).verdict, Verdict::Drop);
}

#[test]
fn rates_counters_and_logs() {
    let limit = r#"{"limit": {"rate": 10, "burst": 20, "per": "second"}}"#;
    let update = format!(
        r#"{{"set": {{"op": "update", "elem": {}, "set": "@rate-1", "stmt": [{limit}]}}}}"#,
        payload("ip", "saddr")
    );
    let log = r#"{"log": {"prefix": "p 8", "group": 9, "snaplen": 128, "queue-threshold": 1}}"#;
    let tables =
        parse("ip", &format!(r#"{{"counter": "kind"}}, {update}, {limit}, {log}"#)).unwrap();
    let rule = &tables.nft_rules()[&(Table::Nftables, "forward")][0];
    assert_eq!(rule.packets, Some(7));
    assert_eq!(
        rule.text,
        "counter name \"kind\" update @rate-1 { ip saddr limit rate 10/second burst 20 packets } \
         limit rate 10/second burst 20 packets log prefix \"p 8\" group 9 snaplen 128 \
         queue-threshold 1"
    );
    for (rate, logged) in [(RateLimit::Fresh, vec!["p 8"]), (RateLimit::Spent, vec![])] {
        let packet = packet(Transport::syn(1, 2));
        assert_eq!(tables.judge_limited(&sets(), "FORWARD", &packet, rate).unwrap().logged, logged);
    }
}

#[test]
fn a_reset_answers_tcp_alone() {
    let reset = r#"{"reject": {"type": "tcp reset"}}"#;
    let other = r#"{"reject": {"type": "icmp", "expr": "port-unreachable"}}"#;
    let udp = packet(Transport::Udp { source_port: 1, destination_port: 2 });
    assert_eq!(judge(reset, &packet(Transport::syn(1, 2))).verdict, Verdict::Reject);
    assert_eq!(judge(reset, &udp).verdict, Verdict::Accept);
    assert_eq!(judge(other, &udp).verdict, Verdict::Reject);
}

/// In tables for bridges, ports are interfaces, and only packets of a bridge pass the chains.
#[test]
fn a_bridge_judges_what_comes_in_by_its_ports() {
    let drop = |hook: &str, key: &str, port: &str| {
        let left = format!(r#"{{"meta": {{"key": "{key}"}}}}"#);
        let objects = [
            base("b", hook),
            rule("b", &format!(r#"{}, {{"drop": null}}"#, compare(&left, "==", port))),
        ];
        Tables::parse_nftables(&[&listing("bridge", &objects.join(", "))]).unwrap()
    };
    let mut bridged = packet(Transport::syn(1, 2)).between("cni0", "cni0");
    bridged.in_port = Some("veth1".to_owned());
    let verdict = |tables: &Tables, packet: &Packet| {
        tables.judge(&sets(), "FORWARD", packet).unwrap().verdict
    };
    let input = drop("prerouting", "iifname", r#""veth1""#);
    let output = drop("forward", "oifname", r#""veth*""#);
    assert_eq!(verdict(&input, &bridged), Verdict::Drop);
    bridged.out_port = Some("veth2".to_owned());
    assert_eq!(verdict(&output, &bridged), Verdict::Drop);
    let routed = packet(Transport::syn(1, 2));
    assert!(input.judge(&sets(), "FORWARD", &routed).is_err(), "it enters no chain");
}

#[test]
fn what_is_not_understood_is_refused() {
    let source = payload("ip", "saddr");
    for expressions in [
        r#"{"quota": {"val": 1}}"#.to_owned(),
        r#"{"goto": {"target": "B"}}"#.to_owned(),
        r#"{"drop": null}, {"accept": null}"#.to_owned(),
        compare(&source, "<", r#""10.0.0.1""#),
        compare(&source, "==", r#""fd00::1""#),
        compare(&source, "in", r#""10.0.0.1""#),
        compare(&payload("tcp", "window"), "==", "1"),
        compare(&payload("th", "dport"), "==", "80"),
        compare(r#"{"meta": {"key": "mark"}}"#, "==", "1"),
        compare(r#"{"ct": {"key": "state"}}"#, "in", r#"["new", "snat"]"#),
        compare(r#"{"ct": {"key": "status"}}"#, "in", r#""snat""#),
        compare(r#"{"numgen": {"mode": "inc", "mod": 2}}"#, "==", "1"),
        r#"{"limit": {"rate": 1, "burst": 2, "per": "second", "inv": true}}"#.to_owned(),
    ] {
        parse("ip", &expressions).expect_err(&expressions);
    }
    assert!(parse("inet", "").is_err() && parse("arp", "").is_err());
    for object in [
        r#"{"set": {"family": "ip", "name": "m", "type": "mark", "handle": 1}}"#,
        r#"{"set": {"family": "ip", "name": "m", "type": "ipv6_addr", "handle": 1}}"#,
        r#"{"set": {"family": "ip", "name": "m", "type": "ipv4_addr", "handle": 1, "elem": [{"x": 1}]}}"#,
    ] {
        Sets::default().add_nftables(&listing("ip", object)).expect_err(object);
    }
    assert!(Tables::parse_nftables(&["{"]).is_err());
}
