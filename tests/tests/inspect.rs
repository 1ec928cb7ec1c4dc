//! `portcullis inspect`, `trace` and `verify` beside running agents: they agree with packets, and name what
//! was changed by hand in the kernel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use portcullis_lab::{DEFAULT_TIMEOUT, Family, IptablesVariant, Topology};
use portcullis_tests::cluster::{Asked, Cluster};
use portcullis_tests::shop::{ADMIN, PATIENCE, WEB, allow, lab, probes, shop};
use serde_json::Value;

fn guarded(variant: IptablesVariant, topology: Topology) -> Result<Cluster> {
    guarded_with(variant, topology, "--backend=iptables")
}

fn guarded_with(variant: IptablesVariant, topology: Topology, backend: &str) -> Result<Cluster> {
    // The agents do not repair what the test changes before it has asked.
    let flags = ["--verify-period=3600", backend];
    let mut cluster = shop(lab(variant).topology(topology), &flags)?;
    cluster.write("api.yaml", &allow("api", &["web", "near"], &[WEB]))?;
    cluster.write_cni_results()?;
    cluster.start_agents()?;
    cluster.settle_on(cluster.agents(), PATIENCE)?;
    Ok(cluster)
}

fn expect(cluster: &Cluster, node: &str, line: &str, code: i32, words: &[&str]) -> Result<Asked> {
    let arguments: Vec<&str> = line.split(' ').collect();
    let asked = cluster.ask(node, &arguments)?;
    let all = format!("{}{}", asked.out, asked.said);
    ensure!(asked.code == Some(code), "{line}: {:?}\n{all}", asked.code);
    for word in words {
        ensure!(all.contains(word), "{line}: no {word:?} in\n{all}");
    }
    Ok(asked)
}

/// The rule in the kernel that decides about a connection of IPv4: its chain and number.
fn decisive(cluster: &Cluster, node: &str, line: &str, code: i32) -> Result<(String, u64)> {
    let asked = expect(cluster, node, &format!("{line} -o json"), code, &[])?;
    let answer: Value = serde_json::from_str(&asked.out)?;
    let step = &answer["ways"][0]["decidedBy"];
    let chain = step["chain"].as_str().context("no chain")?;
    Ok((chain.to_owned(), step["number"].as_u64().context("no number")?))
}

fn inspected(variant: IptablesVariant, topology: Topology) -> Result<()> {
    let cluster = guarded(variant, topology)?;
    shown_and_traced(&cluster)?;
    if variant == IptablesVariant::Nft {
        // The kernel announces changes, and the agent repairs them before anybody can ask.
        return Ok(());
    }
    // A rule that is removed by hand.
    let (chain, number) = decisive(&cluster, "n2", "trace shop/stranger shop/api 80", 1)?;
    let iptables = format!("{} -w -t mangle", variant.program(Family::V4));
    cluster.lab.node("n2")?.shell(&format!("{iptables} -D {chain} {number}"))?;
    let traced = expect(&cluster, "n2", "trace shop/stranger shop/api 80", 3, &["DIFFERS"])?;
    print!("{}", traced.out);
    let lacks = ["DIFFERS: missing in the kernel", "The kernel DIFFERS"];
    expect(&cluster, "n2", "inspect pod shop/api", 1, &lacks)?;
    let named = [&format!("DIFFERS: IPv4 {chain} lacks the rule `"), "; pods: shop/api"];
    let verified = expect(&cluster, "n2", "verify", 1, &named)?;
    print!("{}", verified.out);
    // The agent on the other node holds what it wants.
    expect(&cluster, "n1", "verify", 0, &[])?;
    Ok(())
}

/// What is shown of a pod is complete, and what a trace says is what packets do.
fn shown_and_traced(cluster: &Cluster) -> Result<()> {
    let pod = [
        "shop/api on node n2",
        "shop/api  (tier NetworkPolicy, Ingress)",
        "from pods with app in (near,web) in namespace shop: allow",
        "deny: Ingress, tier NetworkPolicy",
        "The kernel holds these rules and sets",
    ];
    let shown = expect(cluster, "n2", "inspect pod shop/api", 0, &pod)?;
    print!("{}", shown.out);
    let interface = "at an interface that is not known";
    ensure!(!shown.out.contains(interface), "{}", shown.out);
    let nothing = ["No policy selects it: all its connections are allowed."];
    expect(cluster, "n1", "inspect pod shop/web", 0, &nothing)?;
    expect(cluster, "n1", "inspect pod shop/api", 2, &["shop/api runs on node n2"])?;
    expect(cluster, "n1", "inspect pod shop/none", 2, &["there is no pod shop/none"])?;
    expect(cluster, "n2", "verify", 0, &["The kernel holds what the agent wants."])?;

    // What a trace says is what packets do, on either node.
    for (client, port) in [
        ("web", WEB),
        ("near", WEB),
        ("stranger", WEB),
        ("lurker", WEB),
        ("web", ADMIN),
        ("near", ADMIN),
    ] {
        let is_open = ["web", "near"].contains(&client) && port == WEB;
        let line = format!("trace shop/{client} shop/api {port}");
        let (code, words) = if is_open {
            (0, ["kernel: Allowed by rule", "policies, ingress: Allowed"])
        } else {
            (
                1,
                [
                    "kernel: Denied by rule",
                    "policies, ingress: Denied: denied: isolated by shop/api",
                ],
            )
        };
        let traced = expect(cluster, "n2", &line, code, &words)?;
        print!("{}", traced.out);
        for probe in probes(&cluster.lab, &[(client, "api", port)])? {
            let outcome = cluster.lab.probe(&probe, DEFAULT_TIMEOUT)?;
            ensure!(outcome.is_open() == is_open, "{line}: {outcome:?}");
        }
    }
    expect(cluster, "n1", "trace shop/web shop/api 80", 0, &["n1", "kernel: Allowed"])?;
    let own_node =
        ["kernel: Allowed", "policies, ingress: Allowed: the peer is the pod's own node"];
    expect(cluster, "n2", "trace node/n2 shop/api 80", 0, &own_node)?;
    expect(cluster, "n2", "trace shop/api node/n2 80", 0, &["policies, egress: Allowed"])?;
    expect(cluster, "n2", "trace shop/stranger shop/api --proto icmp", 1, &["ICMP", "Denied"])?;
    expect(cluster, "n2", "trace shop/api shop/other 80", 0, &["policies, ingress: Allowed"])?;
    let neither = ["is a pod of node n1", "ask the agents of n2"];
    expect(cluster, "n1", "trace shop/near shop/api 80", 2, &neither)?;
    expect(cluster, "n1", "trace web shop/api 80", 2, &["web is not NAMESPACE/POD"])?;
    Ok(())
}

#[test]
fn what_is_in_the_kernel_is_shown_traced_and_compared_with_nft() -> Result<()> {
    inspected(IptablesVariant::Nft, Topology::Bridge)
}

#[test]
fn what_is_in_the_kernel_is_shown_traced_and_compared_with_legacy() -> Result<()> {
    inspected(IptablesVariant::Legacy, Topology::Routed)
}

/// The kernel announces changes of others, and the agent repairs them before anybody can ask.
#[test]
fn what_is_in_the_kernel_is_shown_traced_and_compared_with_nftables() -> Result<()> {
    for topology in [Topology::Bridge, Topology::Routed] {
        let cluster = guarded_with(IptablesVariant::Nft, topology, "--backend=nftables")?;
        shown_and_traced(&cluster)?;
        let pod =
            ["rules (nftables, table portcullis)", "TCP 80, from pods with app in (near,web)"];
        expect(&cluster, "n2", "inspect pod shop/api", 0, &pod)?;
        let handle = [" goto PORTCULLIS-DENY-IN-POLICY", "kernel: Denied by rule"];
        expect(&cluster, "n2", "trace shop/stranger shop/api 80", 1, &handle)?;
        // The chains that compare frames with ports of bridges, of which the port of this pod alone. IPv4 has these
        // chains in a table of this name, and each family one rule for frames that come in by the port.
        let shown = expect(&cluster, "n2", "inspect pod shop/api", 0, &[])?.out;
        let ports = shown.matches("(table bridge portcullis-ip)").count();
        let rules = shown.matches("in by bridge port").count();
        let expected = if topology == Topology::Bridge { (7, 2) } else { (0, 0) };
        ensure!((ports, rules) == expected, "{topology:?}: {ports} chains, {rules} rules: {shown}");
    }
    Ok(())
}

/// Runs `nft CHANGE` on n2 again and again while `work` runs. The agent repairs such changes less often, so that
/// they can be seen.
fn while_changed(cluster: &Cluster, change: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let (node, ended) = (cluster.lab.node("n2")?, AtomicBool::new(false));
    thread::scope(|scope| {
        let changing = scope.spawn(|| -> Result<()> {
            while !ended.load(Ordering::Relaxed) {
                // What was not repaired yet cannot be deleted again.
                node.shell(&format!("nft '{change}' || true"))?;
                thread::sleep(Duration::from_millis(10));
            }
            Ok(())
        });
        let worked = work();
        ended.store(true, Ordering::Relaxed);
        let changed = changing.join().map_err(|_| anyhow!("the thread panicked"))?;
        worked.and(changed)
    })
}

/// Asks until the answer is as expected.
fn expect_soon(cluster: &Cluster, line: &str, code: i32, words: &[&str]) -> Result<Asked> {
    let begin = Instant::now();
    loop {
        match expect(cluster, "n2", line, code, words) {
            Err(error) if begin.elapsed() > PATIENCE => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
            found => return found,
        }
    }
}

/// The IPv4 set of the clients of `api`, and one of its members.
fn set_of_clients(cluster: &Cluster) -> Result<(String, String)> {
    let answer: Value =
        serde_json::from_str(&expect(cluster, "n2", "verify -o json", 0, &[])?.out)?;
    let sets = answer["sets"].as_array().context("no sets")?;
    let of_clients = |set: &&Value| {
        set["family"] == "IPv4"
            && set["words"].as_str().is_some_and(|words| words.contains("app in"))
    };
    let set = sets.iter().find(of_clients).context("no set of clients")?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let (name, member) = (text(&set["name"]), text(&set["first"][0]));
    Ok((name.context("no name")?, member.context("no member")?))
}

#[test]
fn rules_of_nftables_that_were_changed_by_hand_are_named_and_repaired() -> Result<()> {
    let cluster = guarded_with(IptablesVariant::Nft, Topology::Bridge, "--backend=nftables")?;
    let (chain, _) = decisive(&cluster, "n2", "trace shop/stranger shop/api 80", 1)?;
    let (set, member) = set_of_clients(&cluster)?;
    for (change, verified, inspected) in [
        (
            "insert rule ip portcullis PORTCULLIS-JUDGE accept".to_owned(),
            "IPv4 PORTCULLIS-JUDGE has the rule `accept`, which is not the agent's; pods: "
                .to_owned(),
            None,
        ),
        (
            format!("flush chain ip portcullis {chain}"),
            format!("IPv4 {chain} lacks the rule `goto PORTCULLIS-DENY-IN-POLICY` (deny: "),
            Some("DIFFERS: missing in the kernel"),
        ),
        (
            "flush chain bridge portcullis-ip PORTCULLIS-BRIDGE-IN".to_owned(),
            "IPv4 PORTCULLIS-BRIDGE-IN lacks the rule `iifname ".to_owned(),
            Some("DIFFERS: missing in the kernel"),
        ),
        (
            format!("delete element ip portcullis {set} {{ {member} }}"),
            format!("{set} (pods with app in (near,web) in namespace shop) has other members"),
            Some("DIFFERS: the kernel has 1 members, or others"),
        ),
    ] {
        while_changed(&cluster, &change, || {
            let found = expect_soon(&cluster, "verify", 1, &["DIFFERS: ", &verified])?;
            print!("{change}\n{}", found.out);
            let words = inspected.map(|words| [words, "The kernel DIFFERS"]);
            words.map_or(Ok(()), |words| {
                expect_soon(&cluster, "inspect pod shop/api", 1, &words).map(drop)
            })
        })?;
        let begin = Instant::now();
        expect_soon(&cluster, "verify", 0, &["The kernel holds what the agent wants."])?;
        println!("repaired after {:?}", begin.elapsed());
    }
    shown_and_traced(&cluster)
}

#[test]
fn members_and_rules_that_were_changed_by_hand_are_named() -> Result<()> {
    let cluster = guarded(IptablesVariant::Legacy, Topology::Bridge)?;
    let node = cluster.lab.node("n2")?;
    let (name, member) = set_of_clients(&cluster)?;
    node.shell(&format!("ipset del {name} {member}"))?;
    let members =
        [&format!("DIFFERS: {name} ("), "has other members in the kernel: 1 instead of 2"];
    expect(&cluster, "n2", "verify", 1, &members)?;
    expect(&cluster, "n2", "inspect pod shop/api", 1, &["the kernel has 1 members, or others"])?;
    node.shell(&format!("ipset add {name} {member}"))?;
    expect(&cluster, "n2", "verify", 0, &[])?;

    node.shell("iptables-legacy -w -t mangle -I PORTCULLIS-JUDGE -j ACCEPT")?;
    let extra = ["PORTCULLIS-JUDGE has the rule `-j ACCEPT`, which is not the agent's", "shop/api"];
    expect(&cluster, "n2", "verify", 1, &extra)?;
    let traced = ["PORTCULLIS-JUDGE 1: not a rule of the agent", "DIFFERS: the kernel does other"];
    expect(&cluster, "n2", "trace shop/stranger shop/api 80", 3, &traced)?;
    Ok(())
}

#[test]
fn without_an_agent_the_answer_names_its_socket() -> Result<()> {
    let cluster = shop(lab(IptablesVariant::Nft), &[])?;
    let words = ["no agent of this node answers at", "--lock-dir"];
    expect(&cluster, "n2", "verify", 2, &words)?;
    Ok(())
}
