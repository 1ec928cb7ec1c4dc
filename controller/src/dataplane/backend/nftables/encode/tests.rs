//! Rules in the form of nftables, one of each kind.

use policy_engine::port::PortRange;

use super::*;

const CHAIN: ChainName = ChainName::short("TEST");

fn goto(chain: &'static str) -> Verdict {
    Verdict::Goto(ChainName::short(chain))
}

fn to(address: &str, chain: &'static str) -> Rule {
    let network = Is::Within(address.parse().unwrap());
    Rule::new([Match::Address(Side::Destination, network)], goto(chain))
}

/// How many rules each rule of the kernel stands for.
fn check(rules: &[Rule], expected: &[usize]) {
    let lines = lines(Family::V4, CHAIN, rules);
    assert_eq!(lines.iter().map(|line| line.rules.len()).collect::<Vec<_>>(), expected);
}

#[test]
fn rules_for_one_address_each_are_one_map() {
    let host = |n: u8| to(&format!("10.0.0.{n}/32"), "P");
    let hosts: Vec<Rule> = (1..=100).map(host).collect();
    check(&hosts, &[100]);
    check(&hosts[..2], &[1, 1]);
    // The first rule of an address decides, and so does one for a network in front of it.
    let repeated = [host(1), host(2), host(3), host(1), host(4)];
    check(&repeated, &[3, 1, 1]);
    let network = to("10.0.0.0/8", "N");
    check(&[host(1), network, host(2), host(3), host(4)], &[1, 1, 3]);
}

#[test]
fn a_packet_without_a_connection_is_not_translated() {
    let rules = [Rule::new([Match::NotTranslated], goto("R"))];
    let lines = lines(Family::V4, CHAIN, &rules);
    assert_eq!(lines[0].kernel.len(), 2, "one for its status, one for packets that have none");
}

#[test]
fn a_rule_that_does_something_else_has_another_comment() {
    let ports = |ports: &[(u16, u16)]| {
        let ranges = ports.iter().map(|(a, b)| PortRange::new(*a, *b).unwrap()).collect();
        Rule::new([Match::Ports(Protocol::Tcp, ranges)], Verdict::Return)
    };
    let rules = [
        ports(&[]),
        ports(&[(1, 1)]),
        ports(&[(1, 2)]),
        ports(&[(1, 1), (3, 3)]),
        ports(&[(1, 1), (4, 4)]),
        ports(&[(1, 1), (4, 5)]),
        to("10.0.0.1/32", "A"),
        to("10.0.0.1/32", "B"),
        to("10.0.0.0/31", "B"),
        Rule::all(Verdict::Return),
    ];
    let comments = |rules: &[Rule]| -> Vec<String> {
        let lines = lines(Family::V4, CHAIN, rules);
        lines.iter().flat_map(|line| &line.kernel).map(|rule| rule.comment.clone()).collect()
    };
    let distinct: BTreeSet<String> = comments(&rules).into_iter().collect();
    assert_eq!(distinct.len(), rules.len());
    assert_eq!(comments(&rules), comments(&rules), "and the same one each time");
}
