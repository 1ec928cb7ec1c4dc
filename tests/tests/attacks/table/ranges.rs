//! Addresses that pods use beside their own, as their annotations ask for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use portcullis_lab::{Family, Lab, Topology};

use crate::attack::{Attack, Shot, WEB, Who};
use crate::world::NAMESPACE;

/// Whose extra address it is.
#[derive(Clone, Copy)]
pub(crate) enum Extra {
    Caged,
    Victim,
    Bystander,
    /// Mallory asks for it, and it is not in the networks that the agents grant.
    Refused,
}

impl Extra {
    pub(crate) fn address(self, family: Family) -> IpAddr {
        let host: u8 = match self {
            Self::Caged => 7,
            Self::Victim => 8,
            Self::Bystander => 9,
            Self::Refused => 99,
        };
        match (family, self) {
            (Family::V4, _) => Ipv4Addr::new(203, 0, 113, host).into(),
            (Family::V6, Self::Refused) => {
                Ipv6Addr::new(0x2001, 0xdb8, 0x114, 0, 0, 0, 0, host.into()).into()
            }
            (Family::V6, _) => Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// Gives the address to a pod of n1, and lets both nodes route it there.
    pub(crate) fn route(self, lab: &Lab, topology: Topology, pod: &str) -> Result<()> {
        let pod = lab.pod(&format!("{NAMESPACE}/{pod}"))?;
        let device = match topology {
            Topology::Bridge => "cni0",
            Topology::Routed => pod.host_link().context("a pod with a network of its own")?,
        };
        for &family in lab.families().each() {
            let (address, n1) = (self.address(family), lab.node("n1")?.address(family)?);
            // No packet of the pod has it as its source unless it says so.
            let flags = if family == Family::V6 { "nodad preferred_lft 0" } else { "" };
            pod.netns().shell(&format!("ip address add {address} dev eth0 {flags}"))?;
            lab.node("n1")?.netns().shell(&format!("ip route add {address} dev {device}"))?;
            lab.node("n2")?.netns().shell(&format!("ip route add {address} via {n1}"))?;
        }
        Ok(())
    }
}

/// A datagram from an extra address.
fn from(extra: Extra, between: (Who, Who)) -> Attack {
    Attack::raw("extra addresses: as the source", move |shot| {
        let source = extra.address(shot.family);
        shot.send(&[shot.datagram(source, shot.target())?.bytes()?])
    })
    .between(between.0, between.1)
}

/// A datagram to an extra address.
fn to(extra: Extra, between: (Who, Who)) -> Attack {
    Attack::raw("extra addresses: as the target", move |shot: &Shot<'_>| {
        let target = extra.address(shot.family);
        shot.send(&[shot.datagram_to(shot.source(), target, WEB, 4)?.bytes()?])
    })
    .between(between.0, between.1)
}

pub(super) fn attacks() -> Vec<Attack> {
    vec![
        from(Extra::Caged, (Who::Caged, Who::Friend)).passes(),
        from(Extra::Caged, (Who::Caged, Who::Bystander)),
        from(Extra::Caged, (Who::Caged, Who::Stranger)),
        from(Extra::Caged, (Who::Mallory, Who::Bystander)),
        from(Extra::Refused, (Who::Mallory, Who::Bystander)),
        to(Extra::Victim, (Who::Friend, Who::Victim)).passes(),
        to(Extra::Victim, (Who::Mallory, Who::Victim)),
        to(Extra::Victim, (Who::Stranger, Who::Victim)),
        to(Extra::Bystander, (Who::Stranger, Who::Bystander)).passes(),
    ]
}
