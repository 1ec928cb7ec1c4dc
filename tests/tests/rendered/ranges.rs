//! Addresses that a pod may use beside its own are judged as the pod, at its interface only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use policy_engine::direction::Direction;
use policy_engine::flow::{Endpoint, Flow};
use portcullis_interpreter::Packet;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::places::{coming, leaving};
use super::{Case, Expected, packet};

/// The networks of the pod with this number.
pub(super) fn of_pod(number: usize) -> [IpNet; 2] {
    let host = 8 * u8::try_from(number).expect("few pods");
    let v4 = IpNet::new(Ipv4Addr::new(203, 0, 113, host).into(), 29);
    let v6 = IpNet::new(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()).into(), 125);
    [v4, v6].map(|network| network.expect("a length of a prefix"))
}

/// Checks what comes from such addresses, and what is sent to them from elsewhere.
pub(super) fn check(case: Case<'_>) -> Result<(), TestCaseError> {
    let Case { world, flows, places, options, .. } = case;
    let log = options.denial_log;
    let says = |packet: &Packet| case.says("FORWARD", packet);
    for ((source, _, traffic), (key, (place, own))) in flows.iter().zip(&places.pods) {
        let ranges = places.attachments.extra_ranges.get(place).into_iter().flatten();
        let mut ranges = ranges.filter(|range| range.addr().is_ipv6() == source.is_ipv6());
        let extra = ranges.next().expect("a network of each family").broadcast();
        let outside: IpAddr = if source.is_ipv6() {
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 8).into()
        } else {
            Ipv4Addr::new(192, 0, 2, 8).into()
        };
        let pod = Endpoint::Pod(key.clone(), own.first().copied());

        let sent = leaving(packet(extra, outside, *traffic), None);
        let sent = coming(sent, Some(place));
        let (source, destination) = (pod.clone(), Endpoint::External(outside));
        let flow = Flow { source, destination, traffic: *traffic };
        let expected = Expected::by_policies(world, &[(Direction::Egress, flow)], log);
        prop_assert_eq!(says(&sent)?, expected, "{:?} of {}", sent, key);

        let received = coming(leaving(packet(outside, extra, *traffic), Some(place)), None);
        let flow =
            Flow { source: Endpoint::External(outside), destination: pod, traffic: *traffic };
        let expected = Expected::by_policies(world, &[(Direction::Ingress, flow)], log);
        prop_assert_eq!(says(&received)?, expected, "{:?} to {}", received, key);

        if let Some((_, (other, _))) = places.pods.iter().find(|(other, _)| *other != key) {
            let stolen = coming(sent, Some(other));
            let denied = Expected::denied_by_address(Direction::Egress, log);
            prop_assert_eq!(says(&stolen)?, denied, "{:?} is of {}", stolen, key);
        }
    }
    Ok(())
}
