//! API servers that are away, refuse, lie, or are behind a bad network.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::api::Mode;
use super::row::{Exception, Fault};
use super::stage::{Stage, pod_object};
use crate::cluster::AgentSetup;

/// How long the answers of the API server are wrong.
const HOLD: Duration = Duration::from_secs(3);
/// Retries are 0.2 to 30 s apart, and those after 3 s of failures up to 4 s.
const RETRY: u64 = 12;
/// Requests of one row at most: six watches, their lists, reports, and what tries again.
const REQUESTS_MAX: usize = 150;

/// All faults of the API server.
pub(super) fn faults() -> Vec<Fault> {
    let mut all = vec![
        mode("the API server is gone", Mode::Gone),
        mode("the API server answers 500", Mode::Refuse(500)),
        mode("the API server answers 503", Mode::Refuse(503)),
        mode("the API server answers 429", Mode::Refuse(429)),
        mode("the API server answers 403", Mode::Refuse(403)),
        mode("the API server answers 404", Mode::Refuse(404)),
        mode("the API server answers with a page of HTML", Mode::Say("<html>not here</html>")),
        mode("the API server answers with an empty object", Mode::Say("{}")),
        mode("the API server cuts its answers off", Mode::CutOff),
        mode("the API server ends each watch with 410", Mode::Expire),
        mode("the API server accepts connections, and does not answer", Mode::Silent),
    ];
    // An agent that starts has to list.
    all.push(Fault::new(
        "the API server answers 500 to streaming lists",
        |stage| {
            stage.api.set(Mode::NoStreaming);
            stage.restart(AgentSetup::default())
        },
        |_| Ok(()),
    ));
    // It is late, and changes arrive.
    let slow = |stage: &Stage| {
        stage.api.set(Mode::Slow(Duration::from_millis(300)));
        Ok(())
    };
    all.push(Fault::new("the API server is slow (0.3 s for each object)", slow, |_| Ok(())));
    all.push(
        unaware(Fault::new(
            "the API server is gone, and its history too",
            |stage| {
                stage.api.set(Mode::Gone);
                Ok(())
            },
            |stage| {
                stage.api.compact();
                Ok(())
            },
        ))
        .within(RETRY),
    );
    all.push(
        unaware(Fault::new(
            "etcd is restored: resourceVersions go back, and are given again",
            |stage| {
                stage.api.back_up();
                // Enforced, and then lost: versions that later changes do not reach.
                (0..6).for_each(|turn| stage.churn(turn));
                std::thread::sleep(Duration::from_millis(500));
                stage.api.set(Mode::Gone);
                stage.api.restore();
                Ok(())
            },
            |_| Ok(()),
        ))
        .within(RETRY),
    );
    all.push(packets(
        "half of the packets to the API server are lost",
        "-m statistic --mode random --probability 0.5",
        45,
    ));
    all.push(half_dead());
    all.push(many_pods());
    all
}

fn unaware(fault: Fault) -> Fault {
    fault.lasting(HOLD).except(Exception::Unaware)
}

fn mode(name: &'static str, mode: Mode) -> Fault {
    let before = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let at_begin = std::sync::Arc::clone(&before);
    let fault = Fault::new(
        name,
        move |stage| {
            at_begin.store(stage.api.peers().len(), std::sync::atomic::Ordering::Relaxed);
            stage.api.set(mode);
            Ok(())
        },
        move |stage| {
            let requests =
                stage.api.peers().len() - before.load(std::sync::atomic::Ordering::Relaxed);
            ensure!(requests <= REQUESTS_MAX, "{requests} requests: it is not left in peace");
            Ok(())
        },
    );
    unaware(fault).within(RETRY)
}

/// Rules of the namespace of the API server.
fn firewall(stage: &Stage, rules: &str) -> Result<()> {
    let script = format!("*filter\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n{rules}COMMIT\n");
    let restore = format!("iptables-nft-restore <<'END'\n{script}END");
    stage.lab().fabric().shell(&restore).map(drop)
}

fn packets(name: &'static str, matches: &'static str, bound: u64) -> Fault {
    let begin = move |stage: &Stage| {
        let port = stage.api.port();
        firewall(
            stage,
            &format!(
                "-A INPUT -p tcp --dport {port} {matches} -j DROP\n\
                 -A OUTPUT -p tcp --sport {port} {matches} -j DROP\n"
            ),
        )
    };
    let fault = Fault::new(name, begin, |stage| firewall(stage, ""));
    fault.lasting(HOLD).except(Exception::Unaware).within(bound)
}

/// The packets of all connections that are open are lost for ever, as after a failover of a load balancer.
fn half_dead() -> Fault {
    let begin = |stage: &Stage| {
        let rules = stage.api.peers().into_iter().map(|peer| {
            let port = peer.port();
            format!(
                "-A INPUT -p tcp --sport {port} -j DROP\n-A OUTPUT -p tcp --dport {port} -j DROP\n"
            )
        });
        firewall(stage, &rules.collect::<String>())
    };
    let fault =
        Fault::new("all connections to the API server are half-dead, and stay so", begin, |_| {
            Ok(())
        });
    // The kernel notices after 30 s.
    fault.lasting(HOLD).except(Exception::Unaware).within(60)
}

/// All of them match a peer of a policy of this node.
fn many_pods() -> Fault {
    const PODS: usize = 10_000;
    let name = |number: usize| format!("many-{number}");
    let object = move |number: usize| -> Value {
        let address = std::net::Ipv4Addr::from(0x0a63_0000 + u32::try_from(number).unwrap_or(0));
        pod_object(&name(number), "n9", &[address.into()], "web")
    };
    Fault::new(
        "10,000 pods at once",
        move |stage| {
            stage.api.put((0..PODS).map(object));
            Ok(())
        },
        move |stage| {
            stage.api.delete("Pod", (0..PODS).map(|number| format!("shop/{}", name(number))));
            Ok(())
        },
    )
    .within(30)
}
