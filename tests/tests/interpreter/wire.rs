//! A router between two interfaces, and raw sockets that put packets on either side of it.
//!
//! ```text
//!  probe namespace             router namespace
//!   left  ────── veth ──────── in0   10.1.0.0/16, fd00:1::/32
//!   right ────── veth ──────── out0  10.2.0.0/16, fd00:2::/32
//! ```
//!
//! Both ends of a pair have one MAC address and no ARP, so every packet is forwarded and nobody
//! answers; the probe sends the answers itself, with whatever source address they need.

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns};
use portcullis_interpreter::Family;
use socket2::{Domain, Protocol, Socket, Type};

/// `IPPROTO_RAW`: the packet brings its own IP header.
const RAW: i32 = 255;

/// Two namespaces, deleted on drop.
#[derive(Debug)]
pub(crate) struct Wire {
    router: Namespace,
    probe: Namespace,
}

#[derive(Debug)]
struct Namespace(String);

impl Namespace {
    fn add(name: String) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", &name]), "")?;
        Ok(Self(name))
    }

    fn run(&self, command: &str, input: &str) -> Result<String> {
        let mut words = vec!["netns", "exec", &self.0];
        words.extend(command.split(' '));
        run(Command::new("ip").args(words), input)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.0]).status();
    }
}

impl Wire {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let name = format!("interp-{}-{name}", std::process::id());
        let router = Namespace::add(format!("{name}-r"))?;
        let probe = Namespace::add(format!("{name}-p"))?;
        for setting in [
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv4.conf.all.rp_filter=0",
            "net.ipv4.conf.default.rp_filter=0",
            // Packets here carry no checksums.
            "net.netfilter.nf_conntrack_checksum=0",
        ] {
            router.run(&format!("sysctl -qw {setting}"), "")?;
        }
        for (number, inner, outer) in [(1, "in0", "left"), (2, "out0", "right")] {
            let mac = format!("02:00:00:00:00:0{number}");
            router.run(
                &format!(
                    "ip link add {inner} address {mac} type veth peer name {outer} \
                     address {mac} netns {}",
                    probe.0
                ),
                "",
            )?;
            router.run(&format!("ip link set {inner} arp off up"), "")?;
            probe.run(&format!("ip link set {outer} arp off up"), "")?;
            router.run(&format!("ip route add 10.{number}.0.0/16 dev {inner}"), "")?;
            router.run(&format!("ip -6 route add fd00:{number}::/32 dev {inner}"), "")?;
            probe.run(&format!("ip addr add 10.{number}.255.2/32 dev {outer}"), "")?;
            probe.run(&format!("ip -6 addr add fd00:{number}::ff/128 dev {outer} nodad"), "")?;
            for family in ["-4", "-6"] {
                let metric = number * 100;
                let route = format!("ip {family} route add default dev {outer} metric {metric}");
                probe.run(&route, "")?;
            }
        }
        Ok(Self { router, probe })
    }

    /// Runs a command in the router.
    pub(crate) fn run(&self, command: &str, input: &str) -> Result<String> {
        self.router.run(command, input)
    }

    /// A socket that sends whole packets out of one of the probe's interfaces.
    pub(crate) fn socket(&self, interface: &str, family: Family) -> Result<Socket> {
        let path = format!("/run/netns/{}", self.probe.0);
        let open = move || -> Result<Socket> {
            let namespace = File::open(path)?;
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            let domain = match family {
                Family::V4 => Domain::IPV4,
                Family::V6 => Domain::IPV6,
            };
            Ok(Socket::new(domain, Type::RAW, Some(Protocol::from(RAW)))?)
        };
        // A socket stays in the namespace of the thread that opened it.
        let socket = thread::spawn(open).join().expect("the thread does not panic")?;
        socket.bind_device(Some(interface.as_bytes()))?;
        Ok(socket)
    }
}

/// Puts a packet on the wire.
pub(crate) fn send(socket: &Socket, destination: IpAddr, packet: &[u8]) -> Result<()> {
    let sent = socket.send_to(packet, &SocketAddr::new(destination, 0).into())?;
    ensure!(sent == packet.len(), "sent {sent} of {} bytes", packet.len());
    Ok(())
}

fn run(command: &mut Command, input: &str) -> Result<String> {
    let what = format!("{command:?}");
    let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = pipes.spawn().with_context(|| what.clone())?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let Output { status, stdout, stderr } = child.wait_with_output()?;
    ensure!(status.success(), "{what}: {}", String::from_utf8_lossy(&stderr));
    Ok(String::from_utf8(stdout)?)
}
