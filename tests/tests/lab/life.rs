//! Pods come and go; labs do too, and leave nothing.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use portcullis_lab::{
    DEFAULT_TIMEOUT, Endpoint, Lab, Listener, Outcome, PodSpec, Protocol, Topology, Underlay,
    sweep, sweep_stale,
};

use super::{PORT, between, check, check_between, open, small};

fn namespaces(prefix: &str) -> Result<Vec<String>> {
    let listed = Command::new("ip").args(["netns", "list"]).output()?;
    let listed = String::from_utf8(listed.stdout)?;
    Ok(listed.lines().filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
}

#[test]
fn a_lab_with_three_nodes_and_twelve_pods_is_built_in_two_seconds() -> Result<()> {
    // Once before: the first lab of a process also checks the machine.
    drop(small().build()?);
    let start = Instant::now();
    let lab = super::cluster().topology(Topology::Bridge).underlay(Underlay::Vxlan).build()?;
    let took = start.elapsed();
    println!("built in {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?} on a machine shared with other tests");
    drop(lab);
    Ok(())
}

#[test]
fn another_pod_answers_at_a_reused_address() -> Result<()> {
    for topology in [Topology::Bridge, Topology::Routed] {
        let mut lab = small().topology(topology).build()?;
        for from in ["a/two", "a/far"] {
            check_between(&lab, from, "a/one", Protocol::Tcp, &open("a/one"))?;
        }
        let addresses = lab.pod("a/one")?.addresses().to_vec();
        lab.remove_pod("a/one")?;
        assert!(lab.pod("a/one").is_err());
        let heir = PodSpec::new("b", "heir", "n1").listen(Listener::tcp(PORT));
        lab.add_pod(addresses.iter().fold(heir, |pod, address| pod.address(*address)))?;
        assert_eq!(lab.pod("b/heir")?.addresses(), addresses);
        for from in ["a/two", "a/far"] {
            check_between(&lab, from, "b/heir", Protocol::Tcp, &open("b/heir"))?;
        }
    }
    Ok(())
}

#[test]
fn a_removed_pod_no_longer_answers_and_a_replaced_one_does() -> Result<()> {
    for topology in [Topology::Bridge, Topology::Routed] {
        let mut lab = small().topology(topology).build()?;
        let probes = between(&lab, "a/far", "a/one", Protocol::Tcp)?;
        let before = lab.pod("a/one")?.addresses().to_vec();
        let again = PodSpec::new("a", "one", "n1").listen(Listener::tcp(PORT));
        lab.replace_pod(again)?;
        assert_ne!(lab.pod("a/one")?.addresses(), before, "addresses are used again last");
        check_between(&lab, "a/far", "a/one", Protocol::Tcp, &open("a/one"))?;
        let old = lab.probe_all(&probes, DEFAULT_TIMEOUT)?;
        assert!(!old.iter().any(Outcome::is_open), "{old:?}");
    }
    Ok(())
}

#[test]
fn a_pod_that_cannot_be_added_leaves_the_lab_as_it_was() -> Result<()> {
    let mut lab = small().build()?;
    let before = namespaces(lab.prefix())?;
    let taken = lab.pod("a/two")?.addresses().to_vec();
    let check = |lab: &mut Lab, spec: PodSpec, complaint: &str| -> Result<()> {
        let error = lab.add_pod(spec).err().context("the pod was added")?;
        assert!(format!("{error:#}").contains(complaint), "{error:#}");
        assert_eq!(namespaces(lab.prefix())?, before);
        Ok(())
    };
    let new = |name: &str, node: &str| PodSpec::new("a", name, node);
    check(&mut lab, new("one", "n1"), "there is a pod of that name")?;
    check(&mut lab, new("new", "n9"), "no node n9")?;
    check(&mut lab, new("New", "n1"), "not a DNS label")?;
    for address in taken {
        check(&mut lab, new("new", "n1").address(address), "taken")?;
    }
    check(&mut lab, new("new", "n1").address("10.244.2.99".parse()?), "outside")?;
    let host = new("new", "n1").host_network();
    check(&mut lab, host.clone().listen(Listener::tcp(10250)), "TCP port 10250")?;
    check(&mut lab, host.listen(Listener::sctp(1)), "SCTP")?;
    check_between(&lab, "a/far", "a/one", Protocol::Tcp, &open("a/one"))
}

#[test]
fn a_host_network_pod_comes_and_goes() -> Result<()> {
    let mut lab = small().build()?;
    for _ in 0..2 {
        let pod = PodSpec::new("a", "host", "n2").host_network().listen(Listener::tcp(9100));
        let pod = lab.add_pod(pod)?;
        assert_eq!(pod.host_link(), None);
        let mut probes = between(&lab, "a/one", "a/host", Protocol::Tcp)?;
        for probe in &mut probes {
            probe.port = 9100;
        }
        check(&lab, &probes.iter().map(|p| (p.clone(), open("a/host"))).collect::<Vec<_>>())?;
        lab.remove_pod("a/host")?;
        check(&lab, &probes.iter().map(|p| (p.clone(), Outcome::Refused)).collect::<Vec<_>>())?;
    }
    Ok(())
}

#[test]
fn commands_run_inside_and_die_with_the_lab() -> Result<()> {
    let lab = small().build()?;
    let address = lab.node("n1")?.addresses()[0].to_string();
    let node = lab.node("n1")?;
    assert!(node.shell("ip -o addr show dev eth0")?.contains(&address));
    let output = node.command("ip").args(["-o", "addr", "show", "dev", "eth0"]).output()?;
    assert!(String::from_utf8(output.stdout)?.contains(&address));
    assert_eq!(
        lab.netns(&Endpoint::pod("a/one"))?.shell("ls /proc/sys/net/ipv4/conf | wc -l")?.trim(),
        "4"
    );
    assert!(node.shell("echo broken >&2; exit 3").is_err_and(|e| e.to_string().contains("broken")));
    let mut spawned = node.netns().spawn(Command::new("sleep").arg("20"))?;
    let mut commanded = node.command("sleep").arg("20").spawn()?;
    drop(lab);
    for child in [&mut spawned, &mut commanded] {
        assert!(!child.wait()?.success());
    }
    Ok(())
}

#[test]
fn nothing_is_left_by_a_dropped_lab_or_a_panic() -> Result<()> {
    let lab = small().build()?;
    let prefix = lab.prefix().to_owned();
    assert_eq!(namespaces(&prefix)?.len(), 2 + 2 + 3);
    drop(lab);
    assert_eq!(namespaces(&prefix)?, Vec::<String>::new());
    let prefix = std::thread::spawn(|| {
        let lab = small().build().expect("a lab");
        std::panic::panic_any(lab.prefix().to_owned());
    });
    let prefix = prefix.join().err().and_then(|panic| panic.downcast::<String>().ok());
    let prefix = prefix.context("the thread panics with a prefix")?;
    assert_eq!(namespaces(&prefix)?, Vec::<String>::new());
    Ok(())
}

#[test]
fn a_stale_lab_is_swept_and_others_are_not() -> Result<()> {
    let living = small().build()?;
    let before = namespaces(living.prefix())?;
    // No process has this pid: it is above the kernel's highest.
    let stale = ["pcl-4194305-1-0-fabric", "pcl-4194305-1-0-node.n1"];
    for name in stale {
        ensure!(Command::new("ip").args(["netns", "add", name]).status()?.success());
    }
    // Labs of parallel tests sweep too, so the count may be theirs.
    sweep_stale()?;
    assert_eq!(namespaces("pcl-4194305-")?, Vec::<String>::new());
    assert_eq!(namespaces(living.prefix())?, before);
    assert_eq!(sweep(living.prefix())?, before.len());
    Ok(())
}

/// Not a test by itself: the process that the next test kills.
#[test]
fn abandoned_lab() -> Result<()> {
    if std::env::var_os("LAB_ABANDON").is_none() {
        return Ok(());
    }
    let lab = small().build()?;
    lab.node("n1")?.netns().spawn(Command::new("sleep").arg("20"))?;
    println!("prefix {}", lab.prefix());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_leaves_nothing() -> Result<()> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "life::abandoned_lab", "--nocapture"])
        .env("LAB_ABANDON", "1")
        .stdout(Stdio::piped())
        .spawn()?;
    let stdout = BufReader::new(child.stdout.take().context("piped")?);
    let prefix = stdout
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("prefix ").map(|(_, prefix)| prefix.to_owned()));
    let prefix = prefix.context("the child says its prefix")?;
    assert_eq!(namespaces(&prefix)?.len(), 2 + 2 + 3);
    child.kill()?;
    child.wait()?;
    let start = Instant::now();
    while !namespaces(&prefix)?.is_empty() {
        ensure!(start.elapsed() < Duration::from_secs(5), "{:?}", namespaces(&prefix)?);
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
