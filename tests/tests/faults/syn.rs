//! A client that was allowed, whose connection ended in any way, and who is forbidden now, does
//! not come back from the same source port: conntrack may still call its SYN ESTABLISHED.

use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use portcullis_lab::{Connection, ConnectionSpec, End, Endpoint, IptablesVariant, Lab};
use portcullis_tests::cluster::Cluster;

use crate::shop::{
    CLOSE_ON_DATA, ECHO, HALF_CLOSE, HOLD_OPEN, PATIENCE, RESET_ON_DATA, allow, enforced, lab, shop,
};

/// One way in which a connection ends.
struct Way {
    name: &'static str,
    port: u16,
    end: fn(Connection) -> Result<()>,
}

const WAYS: [Way; 6] = [
    Way {
        name: "reset by the server",
        port: RESET_ON_DATA,
        end: |connection| told(connection, End::Reset),
    },
    Way { name: "reset by the client", port: ECHO, end: Connection::reset },
    Way {
        name: "closed by the server first",
        port: CLOSE_ON_DATA,
        end: |connection| told(connection, End::Closed),
    },
    Way {
        name: "closed by the client first",
        port: ECHO,
        end: |mut connection| {
            connection.half_close()?;
            expect_end(&mut connection, End::Closed)
        },
    },
    Way {
        name: "half-closed by the server, then reset",
        port: HALF_CLOSE,
        end: |mut connection| {
            expect_end(&mut connection, End::Closed)?;
            connection.reset()
        },
    },
    Way {
        name: "half-closed by the client, then reset",
        port: HOLD_OPEN,
        end: |mut connection| {
            connection.half_close()?;
            connection.reset()
        },
    },
];

fn told(mut connection: Connection, end: End) -> Result<()> {
    connection.send(b"x")?;
    expect_end(&mut connection, end)
}

fn expect_end(connection: &mut Connection, expected: End) -> Result<()> {
    let end = connection.wait_end()?;
    ensure!(end == expected, "ended with {end:?} and not {expected:?}");
    Ok(())
}

/// Each way in each family, from a source port of its own.
fn each_way(lab: &Lab, timeout: Duration) -> Result<Vec<(&'static Way, ConnectionSpec)>> {
    let mut all = Vec::new();
    for address in lab.pod("shop/api")?.addresses() {
        for (way, source_port) in WAYS.iter().zip(21_000..) {
            let from = Endpoint::pod("shop/web");
            let to = SocketAddr::new(*address, way.port);
            all.push((way, ConnectionSpec { from, to, source_port: Some(source_port), timeout }));
        }
    }
    Ok(all)
}

/// Tries all ways again at the same time; the names of those that get through.
fn come_back(lab: &Lab) -> Result<Vec<String>> {
    // Long enough for a second SYN.
    let ways = each_way(lab, Duration::from_millis(1_500))?;
    thread::scope(|scope| {
        let tries: Vec<_> =
            ways.iter().map(|(_, spec)| scope.spawn(|| lab.connect(spec))).collect();
        let mut passed = Vec::new();
        for ((way, spec), tried) in ways.iter().zip(tries) {
            let Ok(outcome) = tried.join() else { bail!("a try panicked") };
            match outcome {
                Ok(connection) => {
                    // As it ended before, for the next one who comes back.
                    (way.end)(connection)?;
                    passed.push(format!("{} ({})", way.name, spec.to));
                }
                Err(error) => {
                    let cause = error.root_cause().downcast_ref::<io::Error>().map(io::Error::kind);
                    let timed_out = cause == Some(io::ErrorKind::TimedOut);
                    ensure!(timed_out, "{}: not dropped, but {error:#}", way.name);
                }
            }
        }
        Ok(passed)
    })
}

fn forbidden_clients_stay_away(variant: IptablesVariant) -> Result<()> {
    let mut cluster = shop(lab(variant), &[])?;
    let ports: Vec<u16> = WAYS.iter().map(|way| way.port).collect();
    cluster.write("api.yaml", &allow("api", &["web"], &ports))?;
    cluster.start_agents()?;
    // What conntrack knows of a reset connection must outlast a busy machine.
    cluster
        .lab
        .node("n2")?
        .shell("echo 600 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close")?;
    for (way, spec) in each_way(&cluster.lab, Duration::from_secs(10))? {
        // Twice: while it is allowed, the same port works again.
        for _ in 0..2 {
            let connected = cluster.lab.connect(&spec);
            connected.and_then(way.end).with_context(|| format!("{} to {}", way.name, spec.to))?;
        }
    }
    enforced(&cluster, cluster.agents(), || cluster.write("api.yaml", &allow("api", &[], &[])))?;
    let passed = come_back(&cluster.lab)?;
    ensure!(passed.is_empty(), "got through: {passed:?}");

    // The same without the rule shows that this could have failed.
    cluster.take_agent("n2")?.terminate()?;
    delete_syn_rules(&cluster)?;
    let passed = come_back(&cluster.lab)?;
    let resets = passed.iter().filter(|name| name.starts_with("reset by the server"));
    ensure!(resets.count() == 2, "without the SYN rule a reset one gets through, not {passed:?}");
    println!("{variant:?}: without the SYN rule these get through: {passed:?}");

    // The next agent puts it back.
    let agent = cluster.spawn_agent("n2")?;
    agent.wait_for("policies are enforced", PATIENCE)?;
    let passed = come_back(&cluster.lab)?;
    ensure!(passed.is_empty(), "got through the repaired rules: {passed:?}");
    Ok(())
}

fn delete_syn_rules(cluster: &Cluster) -> Result<()> {
    for family in cluster.lab.families().each() {
        let iptables = cluster.lab.iptables().program(*family);
        let node = cluster.lab.node("n2")?;
        let rule = node.shell(&format!("{iptables} -w -t mangle -S PORTCULLIS-FORWARD 1"))?;
        ensure!(rule.contains("FIN,SYN,RST,ACK SYN"), "not the SYN rule: {rule}");
        node.shell(&format!("{iptables} -w -t mangle -D PORTCULLIS-FORWARD 1"))?;
    }
    Ok(())
}

#[test]
fn a_forbidden_client_does_not_come_back_from_its_old_port_nft() -> Result<()> {
    forbidden_clients_stay_away(IptablesVariant::Nft)
}

#[test]
fn a_forbidden_client_does_not_come_back_from_its_old_port_legacy() -> Result<()> {
    forbidden_clients_stay_away(IptablesVariant::Legacy)
}
