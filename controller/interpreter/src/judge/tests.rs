//! Verdicts and paths of single packets, one rule text at a time.

use std::net::IpAddr;

use super::*;
use crate::error::Unanswerable;
use crate::packet::{ConntrackState, TcpFlags, Transport};

const SETS: &str = "create PODS hash:ip family inet hashsize 1024 maxelem 65536
create BLOCKS hash:net family inet
create NAMED hash:ip,port family inet
create DOORS hash:net,port family inet
create SIX hash:net family inet6
add PODS 10.1.0.1
add BLOCKS 10.0.0.0/8
add BLOCKS 10.1.0.0/16 nomatch
add BLOCKS 10.1.0.1
add NAMED 10.2.0.1,tcp:80-81
add NAMED 10.2.0.1,icmp:echo-request
add DOORS 10.2.0.0/24,tcp:80
add DOORS 10.2.0.2,tcp:80 nomatch
";

fn packet(source: &str, destination: &str, transport: Transport) -> Packet {
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    Packet::new(address(source), address(destination), transport)
}

/// From pod 10.1.0.1 port 1000 to pod 10.2.0.1 port 80.
fn syn() -> Packet {
    packet("10.1.0.1", "10.2.0.1", Transport::syn(1000, 80)).between("veth1", "eth0")
}

fn tables(rules: &str) -> Tables {
    let chains = ":FORWARD DROP [0:0]\n:A - [0:0]\n:B - [0:0]";
    Tables::parse(&format!("*filter\n{chains}\n{rules}\nCOMMIT\n")).unwrap()
}

fn judge(rules: &str, packet: &Packet) -> Judgement {
    tables(rules).judge(&Sets::parse(SETS).unwrap(), "FORWARD", packet).unwrap()
}

#[track_caller]
fn check(packet: &Packet, matching: &[&str], others: &[&str]) {
    for (conditions, want) in
        matching.iter().map(|&c| (c, true)).chain(others.iter().map(|&c| (c, false)))
    {
        let judgement = judge(&format!("-A FORWARD {conditions} -j ACCEPT"), packet);
        assert_eq!(judgement.verdict == Verdict::Accept, want, "{conditions} on {packet:?}");
    }
}

#[test]
fn headers_compare_addresses_interfaces_and_protocols() {
    check(
        &syn(),
        &[
            "",
            "-s 10.1.0.1/32",
            "-s 10.1.0.0/24",
            "-s 10.9.0.1/255.0.255.255",
            "-d 0.0.0.0/0",
            "! -d 10.1.0.0/16",
            "-i veth+",
            "-i veth1",
            "-o +",
            "! -o eth1",
            "-p tcp",
            "-p 6",
            "-p all",
            "! -p udp",
            "! -s 10.1.0.0/32 ! -i eth0 -p tcp",
        ],
        &[
            "-s 10.1.0.2/32",
            "! -s 10.0.0.0/8",
            "-d 10.1.0.0/16",
            "-i veth",
            "! -i veth+",
            "-o eth",
            "-p udp",
            "! -p tcp",
            "-p 132",
        ],
    );
    check(&packet("10.1.0.1", "10.2.0.1", Transport::Other(47)), &["-p gre", "-i +"], &["-i a"]);
}

#[test]
fn ports_flags_and_types_belong_to_their_protocol() {
    check(
        &syn(),
        &[
            "-p tcp -m tcp --dport 80",
            "-p tcp --dport 70:90 --sport 1000",
            "-p tcp --syn",
            "-p tcp -m tcp ! --sport 80",
            "-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN",
            "-p tcp -m tcp ! --tcp-flags ALL NONE",
            "-p tcp -m multiport --dports 1,79:81",
            "-p tcp -m multiport --ports 1000",
            "-p tcp -m multiport --ports 80",
            "-p tcp -m multiport ! --sports 1,80",
        ],
        &[
            "-p tcp -m tcp --dport 81:90",
            "-p udp -m udp --dport 80",
            "-p tcp ! --syn",
            "-p tcp -m tcp --tcp-flags SYN,ACK SYN,ACK",
            "-p tcp -m multiport --sports 80",
            "-p tcp -m multiport ! --ports 1000",
            "-p sctp --dport 80",
        ],
    );
    let reply = Transport::Tcp {
        source_port: 80,
        destination_port: 1000,
        flags: TcpFlags::SYN.with(TcpFlags::ACK),
    };
    check(&packet("10.2.0.1", "10.1.0.1", reply), &["-p tcp ! --syn"], &["-p tcp --syn"]);
    let sctp = Transport::Sctp { source_port: 5, destination_port: 6, init: false };
    check(
        &packet("10.1.0.1", "10.2.0.1", sctp),
        &["-p sctp -m sctp --sport 5 --dport 6", "-p sctp -m multiport --dports 6"],
        &["-p sctp -m sctp --dport 5"],
    );
    check(
        &packet("10.1.0.1", "10.2.0.1", Transport::Icmp { kind: 3, code: 4 }),
        &["-p icmp -m icmp --icmp-type 3", "-p icmp --icmp-type any", "-p icmp --icmp-type 3/4"],
        &["-p icmp -m icmp --icmp-type 3/1", "-p icmp ! --icmp-type 3", "-p ipv6-icmp"],
    );
}

#[test]
fn sets_take_each_dimension_from_the_side_that_is_named() {
    check(
        &syn(),
        &[
            "-m set --match-set PODS src",
            "-m set ! --match-set PODS dst",
            "-m set --match-set BLOCKS src",
            "-m set --match-set BLOCKS dst,src",
            "-m set --match-set NAMED dst,dst",
            "-m set ! --match-set NAMED dst,src",
            "-m set --match-set DOORS dst,dst -m set --match-set PODS src",
        ],
        &["-m set --match-set NAMED src,dst", "-m set ! --match-set BLOCKS dst"],
    );
    let from = |source| packet(source, "10.2.0.2", Transport::syn(1, 80));
    check(&from("10.1.0.2"), &[], &["-m set --match-set BLOCKS src"]);
    check(&from("10.3.0.2"), &["-m set --match-set BLOCKS src"], &[]);
    check(&from("10.3.0.2"), &[], &["-m set --match-set DOORS dst,dst"]);
    let to = |transport| packet("10.1.0.1", "10.2.0.1", transport);
    let named = "-m set --match-set NAMED dst,dst";
    check(&to(Transport::Icmp { kind: 8, code: 0 }), &[named], &[]);
    check(&to(Transport::Icmp { kind: 0, code: 80 }), &[], &[named]);
    check(&to(Transport::Other(47)), &[], &[named]);
    check(&to(Transport::Udp { source_port: 80, destination_port: 80 }), &[], &[named]);
    check(&to(Transport::syn(80, 82)), &[], &[named]);
}

#[test]
fn states_marks_comments_and_limits_are_compared() {
    let new = ["-m conntrack --ctstate INVALID,NEW", "-m conntrack ! --ctstate RELATED"];
    let comment = r#"-m comment --comment "it\'s -j \"DROP\"""#;
    let others = ["-m conntrack --ctstate ESTABLISHED,RELATED", "-m state ! --state NEW"];
    check(&syn(), &[new[0], new[1], comment, "-m limit --limit 10/sec"], &others);
    check(&syn().in_state(ConntrackState::Related), &others, &new);
    let marked = Packet { mark: 0x4001, ..syn() };
    check(&marked, &["-m mark --mark 0x4000/0x4000"], &["-m mark ! --mark 0x4001"]);
}

#[track_caller]
fn check_way(rules: &str, want: &str) {
    assert_eq!(judge(rules, &syn()).to_string(), want, "{rules}");
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    check_way("", "Drop after (0 rules, 0 sets)");
    check_way(
        "-A FORWARD -j RETURN\n-A FORWARD -j ACCEPT",
        "Drop after FORWARD:1 (1 rules, 0 sets)",
    );
    check_way(
        "-A FORWARD -j A\n-A FORWARD -j ACCEPT\n-A A -j RETURN\n-A A -j REJECT",
        "Accept after FORWARD:1 A:1 FORWARD:2 (3 rules, 0 sets)",
    );
    check_way(
        "-A FORWARD -g A\n-A FORWARD -j ACCEPT\n-A A",
        "Drop after FORWARD:1 A:1 (2 rules, 0 sets)",
    );
    check_way(
        "-A FORWARD -j A\n-A FORWARD -j ACCEPT\n-A A -g B\n-A A -j DROP\n-A B -j RETURN",
        "Accept after FORWARD:1 A:1 B:1 FORWARD:2 (4 rules, 0 sets)",
    );
    check_way(
        "-A FORWARD -p udp -j A\n-A FORWARD -j B\n-A B -j REJECT --reject-with icmp-port-unreachable",
        "Reject after FORWARD:2 B:1 (3 rules, 0 sets)",
    );
    check_way(
        "-A FORWARD -p udp -m set --match-set PODS src\n-A FORWARD -p tcp -m set ! --match-set PODS src",
        "Drop after (2 rules, 1 sets)",
    );
}

#[test]
fn logs_and_marks_let_the_packet_go_on() {
    let rules = "-A FORWARD -j MARK --set-xmark 0x3/0x1\n\
            -A FORWARD -m mark --mark 0x2 -m limit --limit 1/sec -j NFLOG --nflog-prefix \"a b\"\n\
            -A FORWARD -j LOG --log-prefix last";
    let marked = Packet { mark: 1, ..syn() };
    let judgement = judge(rules, &marked);
    assert_eq!((judgement.mark, judgement.verdict), (3, Verdict::Drop));
    assert_eq!(judgement.logged, ["last"]);
    let judgement = judge(rules, &Packet { mark: 0, ..syn() });
    assert_eq!((judgement.mark, judgement.logged), (3, vec!["last".to_owned()]));
    let two = rules.replace("0x2 ", "0x3 ");
    assert_eq!(judge(&two, &marked).logged, ["a b", "last"]);
    let spent = tables(&two).judge_limited(&Sets::default(), "FORWARD", &marked, RateLimit::Spent);
    assert_eq!(spent.unwrap().logged, ["last"]);
}

#[test]
fn each_limit_of_a_rule_must_have_room() {
    let limits = "-m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 --hashlimit-mode \
                  srcip,dstport --hashlimit-name x --hashlimit-htable-max 9 -m limit --limit 1/sec";
    let rules = format!("-A FORWARD {limits} -j NFLOG --nflog-prefix \"a 1\"\n-A FORWARD -j DROP");
    assert_eq!(judge(&rules, &syn()).logged, ["a 1"]);
    let spent = tables(&rules).judge_limited(&Sets::default(), "FORWARD", &syn(), RateLimit::Spent);
    assert!(spent.unwrap().logged.is_empty());
}

#[test]
fn filter_judges_what_mangle_lets_pass() {
    let judge = |mangle: &str, filter: &str| {
        let text = format!(
            "*mangle\n:FORWARD ACCEPT [0:0]\n:M - [0:0]\n{mangle}\nCOMMIT\n\
             *filter\n:FORWARD ACCEPT [0:0]\n:F - [0:0]\n{filter}\nCOMMIT\n"
        );
        let tables = Tables::parse(&text).unwrap();
        let sets = Sets::default();
        tables
            .judge(&sets, "FORWARD", &syn())
            .map(|found| (found.verdict, found.path.len()))
            .unwrap()
    };
    assert_eq!(judge("-A FORWARD -j DROP", "-A FORWARD -j ACCEPT"), (Verdict::Drop, 1));
    assert_eq!(judge("-A FORWARD -j ACCEPT", "-A FORWARD -j DROP"), (Verdict::Drop, 2));
    assert_eq!(judge("-A FORWARD -j M\n-A M -j RETURN", ""), (Verdict::Accept, 2));
    let marked = "-A FORWARD -m mark --mark 0x7 -j DROP";
    assert_eq!(judge("-A FORWARD -j MARK --set-xmark 0x7/0xff", marked), (Verdict::Drop, 2));
}

#[test]
fn a_mark_is_cut_by_the_mask_and_then_toggled() {
    // xt_MARK: mark = (mark & ~mask) ^ value.
    let mark = |rule: &str| judge(&format!("-A FORWARD -j MARK {rule}"), &marked(0x5)).mark;
    assert_eq!(mark("--set-xmark 0x6/0x1"), 0x2);
    assert_eq!(mark("--set-xmark 7"), 0x7);
    assert_eq!(mark("--set-mark 0x6/0x1"), 0x6);
}

fn marked(mark: u32) -> Packet {
    Packet { mark, ..syn() }
}

#[test]
fn the_policy_decides_what_no_rule_did() {
    let text = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD DROP [0:0]\nCOMMIT\n";
    let tables = Tables::parse(text).unwrap();
    let verdict = |chain| tables.judge(&Sets::default(), chain, &syn()).unwrap().verdict;
    assert_eq!((verdict("INPUT"), verdict("FORWARD")), (Verdict::Accept, Verdict::Drop));
}

#[test]
fn a_user_defined_chain_can_give_the_packet_back() {
    let tables = tables("-A A -p udp -j DROP\n-A A -g B\n-A B");
    let judgement = tables.judge(&Sets::default(), "A", &syn()).unwrap();
    assert_eq!(judgement.to_string(), "Return after A:2 B:1 (3 rules, 0 sets)");
}

#[track_caller]
fn check_refused(conditions: &str, packet: &Packet, want: Unanswerable) {
    let text = format!("-A FORWARD {conditions}");
    let error = tables(&text).judge(&Sets::parse(SETS).unwrap(), "FORWARD", packet);
    let chain = "FORWARD".to_owned();
    assert_eq!(error, Err(JudgeError::Rule { chain, rule: 1, text, reason: want }));
}

#[test]
fn questions_without_an_answer_are_errors() {
    let set = |name: &str| name.to_owned();
    check_refused("-m set --match-set X src", &syn(), Unanswerable::NoSet(set("X")));
    let (packet, dimensions) = (syn().family(), 2);
    check_refused(
        "-m set --match-set SIX src",
        &syn(),
        Unanswerable::SetFamily { set: set("SIX"), packet },
    );
    check_refused(
        "-m set --match-set NAMED dst",
        &syn(),
        Unanswerable::Dimensions { set: set("NAMED"), dimensions, given: 1 },
    );
    let judge =
        |packet| tables("-A FORWARD -s 10.0.0.0/8").judge(&Sets::default(), "FORWARD", &packet);
    let mixed = packet_of_two_families();
    assert_eq!(judge(mixed), Err(JudgeError::MixedPacket));
    let six = self::packet("fd00::1", "fd00::2", Transport::syn(1, 2));
    assert_eq!(judge(six), Err(JudgeError::MixedPacket));
    let absent = tables("").judge(&Sets::default(), "INPUT", &syn());
    assert_eq!(absent, Err(JudgeError::NoChain("INPUT".to_owned())));
}

fn packet_of_two_families() -> Packet {
    packet("10.0.0.1", "fd00::1", Transport::syn(1, 2))
}
