//! Texts that are read, and those that are refused.

use super::*;

fn parse_rules(rules: &str) -> Result<Tables, ParseError> {
    Tables::parse(&format!("*filter\n:INPUT ACCEPT [0:0]\n:A - [0:0]\n{rules}\nCOMMIT\n"))
}

#[track_caller]
fn check_refused(rule: &str, want: &str) {
    let error = parse_rules(&format!("-A INPUT\n{rule}")).expect_err(rule);
    assert_eq!(error.problem.to_string(), want, "{rule}");
    assert_eq!((error.line, error.text.as_str()), (5, rule));
}

#[test]
fn what_is_not_understood_names_its_line() {
    for (conditions, want) in [
        ("-m owner --uid-owner 0", "unknown match `owner`"),
        ("-m addrtype --dst-type LOCAL", "unknown match `addrtype`"),
        ("-m statistic --mode random", "unknown match `statistic`"),
        ("--dport 80", "unknown option `--dport`"),
        ("-f", "unknown option `-f`"),
        ("-p tcp -m tcp --tcp-option 5", "unknown option `--tcp-option`"),
        ("-p tcp -m tcp --tcp-flags SYN,FOO SYN", "unknown flag `FOO`"),
        ("-m set --match-set X src --return-nomatch", "unknown option `--return-nomatch`"),
        ("-m set --match-set X both", "`both` is not src or dst"),
        ("-m set -j A", "a match needs --match-set"),
        ("-m comment", "a match needs --comment"),
        ("-m conntrack --ctstate NEW,SNAT", "unknown state `NEW,SNAT`"),
        ("-m conntrack --ctstate NEW --ctdir REPLY", "unknown option `--ctdir`"),
        ("-m tcp --dport 80", "-m tcp needs -p tcp"),
        ("! -p tcp -m tcp --dport 80", "-m tcp needs -p tcp"),
        ("-p gre -m multiport --dports 80", "-m multiport needs -p tcp, udp or sctp"),
        ("-p tcp -m multiport --dports 90:80", "`90:80` is not a port or a range of ports"),
        ("-p foo", "`foo` is not a protocol"),
        ("! -p all", "`-p` cannot be inverted"),
        ("! -j A", "`-j` cannot be inverted"),
        ("-m limit ! --limit 1/sec", "`--limit` cannot be inverted"),
        ("-m limit --limit 1/week", "`1/week` is not a rate"),
        ("-m hashlimit", "a match needs --hashlimit-upto"),
        ("-m hashlimit --hashlimit-above 1/sec", "unknown option `--hashlimit-above`"),
        ("-m hashlimit --hashlimit-upto 0/sec", "`0/sec` is not a rate"),
        (
            "-m hashlimit --hashlimit-mode src",
            "`src` is not a list of srcip, dstip, srcport and dstport",
        ),
        ("-s 10.0.0.0/33", "`10.0.0.0/33` is not an address with a mask"),
        ("-s 10.0.0.1,10.0.0.2", "`10.0.0.1,10.0.0.2` is not an address with a mask"),
        ("-s 10.0.0.1 -d fd00::1", "`fd00::1` is an address of the other family"),
        ("-s 10.0.0.1 -s 10.0.0.2", "option `-s` is there already"),
        ("-j A -g A", "option `-j or -g` is there already"),
        ("-j NFQUEUE", "no user-defined chain `NFQUEUE`"),
        ("-g ACCEPT", "no user-defined chain `ACCEPT`"),
        ("-j INPUT", "no user-defined chain `INPUT`"),
        ("-j ACCEPT now", "unknown option `now`"),
        ("-j REJECT --reject-with tcp-reset", "tcp-reset needs -p tcp"),
        ("-j MARK", "a match needs --set-xmark"),
        ("-j", "missing the target's name"),
        ("!", "missing an option after `!`"),
        ("-m comment --comment \"a", "unfinished quote"),
    ] {
        check_refused(&format!("-A INPUT {conditions}"), want);
    }
    check_refused("-I INPUT", "unknown command `-I`");
    check_refused("-A B", "no chain `B`");
    check_refused(":A - [0:0]", "chain `A` is there already");
    check_refused(":B DROP [0:0]", "`DROP` is not a policy of this chain");
    check_refused("*nat", "missing COMMIT");
    check_refused("[1:2 -A INPUT", "`[1:2` is not a pair of counters");
    check_refused("-A A -g A", "chain `A` leads back to itself");
}

#[test]
fn limits_of_the_kernel_are_kept() {
    let ports = |count: usize| vec!["1"; count].join(",");
    let multiport = |list: String| format!("-A INPUT -p tcp -m multiport --dports {list}");
    assert!(parse_rules(&multiport(ports(15))).is_ok());
    assert!(parse_rules(&multiport(ports(16))).is_err());
    assert!(parse_rules(&multiport(ports(14) + ",1:2")).is_err());
    assert!(parse_rules(&format!(":{} - [0:0]", "a".repeat(28))).is_ok());
    assert!(parse_rules(&format!(":{} - [0:0]", "a".repeat(29))).is_err());
    let comment = |length| format!("-A A -m comment --comment {}", "a".repeat(length));
    assert!(parse_rules(&comment(255)).is_ok());
    assert!(parse_rules(&comment(256)).is_err());
}

fn parse_stairs(command: &str, depth: usize) -> Result<Tables, ParseError> {
    let chains: Vec<_> = (0..depth).map(|step| format!(":C{step} - [0:0]")).collect();
    let steps: Vec<_> =
        (1..depth).map(|step| format!("-A C{} {command} C{step}", step - 1)).collect();
    let (chains, steps) = (chains.join("\n"), steps.join("\n"));
    parse_rules(&format!("{chains}\n-A INPUT {command} C0\n{steps}"))
}

#[test]
fn chains_that_lead_back_or_too_deep_are_refused() {
    for command in ["-j", "-g"] {
        assert!(parse_stairs(command, CHAIN_DEPTH_MAX).is_ok());
        assert!(parse_stairs(command, CHAIN_DEPTH_MAX + 1).is_err());
    }
    let error = parse_rules(":B - [0:0]\n-A A -g B\n-A B -p udp -j A").unwrap_err();
    assert!(matches!(error.problem, Problem::Loop(_)), "{error}");
}

#[test]
fn the_frame_of_the_text_is_checked() {
    let refused = |text| Tables::parse(text).unwrap_err().problem.to_string();
    assert_eq!(refused("-A INPUT"), "unknown line outside a table `-A INPUT`");
    assert_eq!(refused("*filter\n:INPUT ACCEPT [0:0]"), "missing COMMIT");
    let mangle = "*mangle\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT\nCOMMIT\n";
    assert_eq!(refused(mangle), "REJECT needs the filter table");
    assert_eq!(refused("*mangle\nCOMMIT\n*mangle\nCOMMIT\n"), "table `Mangle` is there already");
    let six = "# Generated by ip6tables-nft-save v1.8.9\n*filter\n:INPUT ACCEPT [0:0]\n";
    assert_eq!(
        refused(&format!("{six}-A INPUT -s 10.0.0.1\nCOMMIT")),
        "`-A INPUT -s 10.0.0.1` is an address of the other family"
    );
}

#[test]
fn other_tables_are_skipped_and_counters_kept() {
    let text = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -m what -j CT --notrack\nCOMMIT\n\
        # Generated by iptables-save v1.8.9 on Sat\n*filter\n:INPUT ACCEPT [1:2]\n:A - [0:0]\n\
        [7:420] -A INPUT -j A\n-A A -m comment --comment x\nCOMMIT\n# Completed on Sat\n";
    let tables = Tables::parse(text).unwrap();
    assert_eq!(tables.family(), Some(Family::V4));
    assert_eq!(tables.sizes("A"), ChainSizes { chains: 1, rules: 1 });
    assert_eq!(tables.sizes(""), ChainSizes { chains: 2, rules: 2 });
    let filter = |chain| (Table::Filter, chain);
    assert_eq!(
        tables.packet_counts(),
        BTreeMap::from([(filter("A"), vec![0]), (filter("INPUT"), vec![7])])
    );
}
