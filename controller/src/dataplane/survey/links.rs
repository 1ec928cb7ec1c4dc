//! The node's interfaces, what is attached to them, and which of them lead to pods: by rtnetlink.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{
    InfoBridge, InfoData, LinkAttribute, LinkExtentMask, LinkInfo, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use netlink_packet_route::tc::{
    TcAttribute, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use policy_engine::cidr::Family;

use crate::dataplane::conflict::facts::{Link, PodRoute};
use crate::dataplane::netlink::Socket;
use crate::dataplane::netlink::request::Scope;

/// Both hooks of an interface where tc filters run.
const FILTER_PLACES: [u16; 2] = [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS];

/// The interfaces of this network namespace; of those in `with_addresses`, whether they have
/// addresses. Also returns how many answers of the kernel could not be parsed.
///
/// # Errors
/// When the kernel does not list them.
pub(super) fn links(with_addresses: &[&str]) -> io::Result<(Vec<Link>, usize)> {
    let mut netlink = Socket::open(NETLINK_ROUTE)?;
    let mut links: Vec<Link> = Vec::new();
    let mut request = LinkMessage::default();
    request.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    for answer in netlink.request(Scope::All, RouteNetlinkMessage::GetLink(request))? {
        if let RouteNetlinkMessage::NewLink(message) = answer {
            links.push(link(message));
        }
    }
    add_filters(&mut netlink, &mut links)?;
    if links.iter().any(|link| with_addresses.contains(&link.name.as_str())) {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = netlink.request(Scope::All, request)?;
        let indexes = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewAddress(message) => Some(message.header.index),
            _ => None,
        });
        let indexes: BTreeSet<u32> = indexes.collect();
        links.iter_mut().for_each(|link| link.has_addresses = indexes.contains(&link.index));
    }
    Ok((links, netlink.unreadable))
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link { index: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::LinkNetNsId(_) => link.leads_elsewhere = true,
            LinkAttribute::Xdp(attributes) => {
                let is_program = |attribute: &LinkXdp| matches!(attribute, LinkXdp::Attached(how) if *how != XdpAttached::None);
                link.xdp = attributes.iter().any(is_program);
            }
            LinkAttribute::LinkInfo(infos) => infos.into_iter().for_each(|info| match info {
                LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                LinkInfo::Data(InfoData::Bridge(settings)) => {
                    link.calls_iptables = settings.iter().filter_map(calls_iptables).collect();
                }
                _ => {}
            }),
            _ => {}
        }
    }
    link
}

fn calls_iptables(setting: &InfoBridge) -> Option<Family> {
    match setting {
        InfoBridge::NfCallIpTables(true) => Some(Family::V4),
        InfoBridge::NfCallIp6Tables(true) => Some(Family::V6),
        _ => None,
    }
}

/// Adds the BPF programs of tc filters to their interfaces.
fn add_filters(netlink: &mut Socket, links: &mut [Link]) -> io::Result<()> {
    let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let mut filtered: BTreeSet<i32> = BTreeSet::new();
    for answer in netlink.request(Scope::All, request)? {
        let RouteNetlinkMessage::NewQueueDiscipline(message) = answer else { continue };
        let is_hook = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact" || kind == "ingress");
        if message.attributes.iter().any(is_hook) {
            filtered.insert(message.header.index);
        }
    }
    for index in filtered {
        let Some(link) = links.iter_mut().find(|link| i32::try_from(link.index) == Ok(index))
        else {
            continue;
        };
        for place in FILTER_PLACES {
            let mut request = TcMessage::with_index(index);
            request.header.parent = TcHandle { major: u16::MAX, minor: place };
            let request = RouteNetlinkMessage::GetTrafficFilter(request);
            // An interface that does not exist any more has no filters.
            let answers = netlink.request(Scope::All, request).unwrap_or_default();
            link.tc_programs.extend(answers.iter().filter_map(program));
        }
    }
    Ok(())
}

/// The name of the BPF program that a filter runs; `None` for other filters, and for the head of a
/// list of filters.
fn program(answer: &RouteNetlinkMessage) -> Option<String> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return None };
    let is_bpf = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Kind(kind) if kind == TcFilterBpf::KIND);
    if !message.attributes.iter().any(is_bpf) {
        return None;
    }
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let name = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    Some(name.unwrap_or_default())
}

/// How this node reaches `addresses`. Addresses without a route are left out.
///
/// # Errors
/// When no netlink socket can be opened.
pub(super) fn routes(addresses: &[IpAddr]) -> io::Result<Vec<PodRoute>> {
    if addresses.is_empty() {
        return Ok(Vec::new());
    }
    let mut netlink = Socket::open(NETLINK_ROUTE)?;
    let route = |address: &IpAddr| {
        let mut request = RouteMessage::default();
        let (family, bits, destination) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(*address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(*address)),
        };
        request.header.address_family = family;
        request.header.destination_prefix_length = bits;
        request.attributes.push(RouteAttribute::Destination(destination));
        // The kernel answers with an error if there is no route.
        let answers = netlink.request(Scope::One, RouteNetlinkMessage::GetRoute(request)).ok()?;
        answers.into_iter().find_map(|answer| pod_route(*address, answer))
    };
    Ok(addresses.iter().filter_map(route).collect())
}

fn pod_route(address: IpAddr, answer: RouteNetlinkMessage) -> Option<PodRoute> {
    let RouteNetlinkMessage::NewRoute(message) = answer else { return None };
    let (mut link, mut has_gateway) = (None, false);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => link = Some(index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
            _ => {}
        }
    }
    Some(PodRoute { address, link: link?, has_gateway })
}
