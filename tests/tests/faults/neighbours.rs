//! What other software has in the same tables stays as it is, to the byte and the last counter.

use std::time::Instant;

use anyhow::{Result, ensure};
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Family, ForwardPolicy, IptablesVariant, Node, Probe, ServiceSpec,
    Transport,
};
use portcullis_tests::cluster::{Agent, Cluster};

use crate::VARIANTS;
use crate::shop::{ADMIN, PATIENCE, WEB, allow, check, enforced, lab, shop, start};

/// The service's address, IPv4.
const VIP: &str = "10.96.0.10";

/// Sets and chains of others, some with names that look almost like ours.
fn populate(node: &Node, variant: IptablesVariant) -> Result<()> {
    for (family, inet, host) in
        [(Family::V4, "inet", "10.244.1.0/24"), (Family::V6, "inet6", "fd44:0:0:1::/64")]
    {
        let iptables = variant.program(family);
        let digit = if family == Family::V4 { 4 } else { 6 };
        node.shell(&format!(
            "ipset create portcullis-{digit} hash:net family {inet} counters comment
             ipset add portcullis-{digit} {host} comment 'PORTCULLIS-4a of others'
             ipset create PORTCULLISX{digit} hash:ip family {inet} timeout 0
             ipset create KUBE-{digit} list:set
             ipset add KUBE-{digit} portcullis-{digit}
             {iptables}-restore --noflush -w 20 <<'END'\n\
             *filter\n:PORTCULLIS - [0:0]\n:portcullis-forward - [0:0]\n:CNI-LOCAL - [0:0]\n\
             -I FORWARD 1 -m set --match-set portcullis-{digit} src -j portcullis-forward\n\
             -A FORWARD -m comment --comment \"-j PORTCULLIS-FORWARD of others\" -j PORTCULLIS\n\
             -A PORTCULLIS -m set --match-set KUBE-{digit} src -j RETURN\n\
             -A PORTCULLIS -m set --match-set PORTCULLISX{digit} src,dst -j DROP\n\
             -A portcullis-forward -p tcp -m tcp --dport {WEB} -m comment --comment \"PORTCULLIS-\" \
             -j RETURN\n\
             -A INPUT -j CNI-LOCAL\n-A CNI-LOCAL -m mark --mark 0x1/0x1 -j ACCEPT\nCOMMIT\n\
             *mangle\n:CNI-MARK - [0:0]\n-A FORWARD -j CNI-MARK\n-A CNI-MARK -j RETURN\nCOMMIT\n\
             *raw\n:PORTCULLIS-LOOKALIKE - [0:0]\n\
             -A PREROUTING -m comment --comment \"not where ours can be, so not ours\" \
             -j PORTCULLIS-LOOKALIKE\nCOMMIT\nEND"
        ))?;
    }
    Ok(())
}

/// No packet comes or goes any more, neighbour discovery included: counters stand still.
fn freeze(node: &Node) -> Result<()> {
    node.shell("for link in $(ls /proc/sys/net/ipv4/conf); do ip link set $link down || true; done 2>/dev/null")?;
    Ok(())
}

/// Everything of both variants and all sets, without what is ours.
fn foreign(node: &Node) -> Result<String> {
    let mut all = String::new();
    for variant in VARIANTS {
        for family in Family::BOTH {
            let saved = node.shell(&format!("{}-save -c", variant.program(family)))?;
            let mut table = "";
            for line in saved.lines().filter(|line| !line.starts_with('#')) {
                table = line.strip_prefix('*').unwrap_or(table);
                if ["mangle", "filter"].contains(&table) && is_ours(line) {
                    continue;
                }
                // Each write by iptables-legacy, whoever makes it, starts these anew.
                let policy = line.starts_with(':') && variant == IptablesVariant::Legacy;
                let line = line.split_once(" [").filter(|_| policy).map_or(line, |(name, _)| name);
                all += line;
                all.push('\n');
            }
        }
    }
    let sets = node.shell("ipset save")?;
    let others = sets
        .lines()
        .filter(|line| !line.split(' ').nth(1).is_some_and(|name| name.starts_with("PORTCULLIS-")));
    all.extend(others.flat_map(|line| [line, "\n"]));
    Ok(all)
}

/// Whether a line of `iptables-save` is a chain of ours, a rule in one, or a hook.
fn is_ours(line: &str) -> bool {
    let line =
        line.split_once("] ").filter(|_| line.starts_with('[')).map_or(line, |(_, rule)| rule);
    line.starts_with(":PORTCULLIS-")
        || line.starts_with("-A PORTCULLIS-")
        || line == "-A FORWARD -j PORTCULLIS-FORWARD"
        || line == "-A INPUT -j PORTCULLIS-INPUT"
}

/// Real packets through the chains of kube-proxy, the CNI and all others.
fn count_something(cluster: &Cluster) -> Result<()> {
    let mut probes =
        crate::shop::probes(&cluster.lab, &[("web", "api", WEB), ("web", "api", ADMIN)])?;
    probes.push(Probe::tcp(Endpoint::pod("shop/web"), VIP.parse()?, WEB));
    let outcomes = cluster.lab.probe_all(&probes, DEFAULT_TIMEOUT * 4)?;
    ensure!(outcomes.iter().all(portcullis_lab::Outcome::is_open), "{outcomes:?}");
    Ok(())
}

fn neighbours_stay(variant: IptablesVariant) -> Result<()> {
    let mut cluster = shop(lab(variant).forward_policy(ForwardPolicy::DropButPods), &[])?;
    let backend = cluster.lab.pod("shop/api")?.address(Family::V4)?;
    cluster.lab.add_service(ServiceSpec {
        name: "shop/api".to_owned(),
        cluster_ips: vec![VIP.parse()?],
        port: WEB,
        target_port: WEB,
        protocol: Transport::Tcp,
        node_port: None,
        backends: vec![backend],
    })?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let node = cluster.lab.node("n1")?;
    populate(node, variant)?;
    count_something(&cluster)?;
    // First with traffic and agents, which says that they get along.
    let agents = [start(&cluster, "n1")?, start(&cluster, "n2")?];
    check(&cluster.lab, "beside others", &[("web", "api", WEB)], &[("web", "api", ADMIN)])?;
    agents.into_iter().try_for_each(Agent::terminate)?;
    for node in ["n1", "n2"] {
        cluster.portcullis(node, &["cleanup"])?;
    }
    count_something(&cluster)?;

    freeze(node)?;
    let before = foreign(node)?;
    for rule in ["portcullis-forward", "-j KUBE-SERVICES", "-j FLANNEL-FWD", "-s 10.244.0.0/16"] {
        let counted = |line: &&str| {
            line.contains(rule) && !line.starts_with("[0:0]") && line.starts_with('[')
        };
        ensure!(before.lines().any(|line| counted(&line)), "no traffic met {rule}:\n{before}");
    }
    ensure!(
        before.contains(":FORWARD DROP") && before.contains("PORTCULLIS-LOOKALIKE"),
        "{before}"
    );
    let same = |when: &str| -> Result<()> {
        let now = foreign(node)?;
        let difference = before.lines().zip(now.lines()).find(|(before, now)| before != now);
        ensure!(now == before, "{variant:?}, {when}: {difference:?}\n{before}\n---\n{now}");
        Ok(())
    };
    let agent = start(&cluster, "n1")?;
    same("after the first apply")?;
    let egress = allow("web", &[], &[]).replace("Ingress", "Egress");
    enforced(&cluster, [&agent], || cluster.write("web.yaml", &egress))?;
    same("after an update that makes chains and sets")?;
    let more = allow("stranger", &["web", "near"], &[WEB, ADMIN]);
    enforced(&cluster, [&agent], || cluster.write("more.yaml", &more))?;
    enforced(&cluster, [&agent], || cluster.remove("web.yaml"))?;
    same("after an update that removes some")?;
    let saved = node.shell(&format!("{}-save", variant.program(Family::V4)))?;
    ensure!(saved.contains("-A PORTCULLIS-R"), "nothing was programmed:\n{saved}");
    agent.terminate()?;
    same("after the end of the agent")?;
    cluster.portcullis("n1", &["cleanup"])?;
    same("after cleanup")?;
    nothing_of_ours(node)
}

/// No chain, rule or set of ours, in either variant.
fn nothing_of_ours(node: &Node) -> Result<()> {
    for variant in VARIANTS {
        for family in Family::BOTH {
            let saved = node.shell(&format!("{}-save", variant.program(family)))?;
            for table in ["*mangle", "*filter"] {
                let rules = saved.split(table).nth(1).unwrap_or_default();
                let rules = rules.split("COMMIT").next().unwrap_or_default();
                let left: Vec<&str> = rules.lines().filter(|line| is_ours(line)).collect();
                ensure!(left.is_empty(), "{variant:?} {family:?} {table}: {left:?}");
            }
        }
    }
    let names = node.shell("ipset list -name")?;
    ensure!(!names.contains("PORTCULLIS-"), "{names}");
    Ok(())
}

#[test]
fn everything_of_others_stays_to_the_byte_and_cleanup_leaves_nothing_nft() -> Result<()> {
    neighbours_stay(IptablesVariant::Nft)
}

#[test]
fn everything_of_others_stays_to_the_byte_and_cleanup_leaves_nothing_legacy() -> Result<()> {
    neighbours_stay(IptablesVariant::Legacy)
}

/// A node's bridge, or what others set for it, can come after the agent.
#[test]
fn a_bridge_that_gets_past_all_rules_is_told_and_mended() -> Result<()> {
    // They are looked at in between.
    let flags = ["--conflict-period=3600"];
    let cluster = shop(lab(IptablesVariant::Nft), &flags)?;
    cluster.write("api.yaml", &allow("api", &["web"], &[WEB]))?;
    let agent = start(&cluster, "n2")?;
    let near: &[_] = &[("near", "api", WEB)];
    check(&cluster.lab, "with the bridge's packets judged", &[], near)?;
    let node = cluster.lab.node("n2")?;
    let logged = agent.logged();
    for name in ["call-iptables", "call-ip6tables", "filter-vlan-tagged"] {
        let switch = format!("bridge-nf-{name}");
        let start = Instant::now();
        node.shell(&format!("echo 0 > /proc/sys/net/bridge/{switch}"))?;
        agent.wait_for_after(logged, &format!("net.bridge.{switch} was 0"), PATIENCE)?;
        println!("{switch} was turned on after {:?}", start.elapsed());
        ensure!(node.shell(&format!("cat /proc/sys/net/bridge/{switch}"))?.trim() == "1");
    }
    check(&cluster.lab, "after the switch was turned off", &[], near)?;
    ensure!(agent.terminate().is_ok());
    Ok(())
}
