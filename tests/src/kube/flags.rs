//! The flags of kube-apiserver, and the addresses of Services that they set.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::pki::Pki;
use portcullis_lab::Family;

/// Those that do not depend on what runs beside it.
pub(super) fn arguments(
    directory: &Path,
    pki: &Pki,
    address: SocketAddr,
    addresses: &[IpAddr],
) -> Vec<String> {
    let file = |name: &str| pki.file(name).display().to_string();
    let services: Vec<&str> = families(addresses).map(service_range).collect();
    vec![
        format!("--etcd-servers=unix://{}/etcd.sock", directory.display()),
        format!("--bind-address={}", address.ip()),
        format!("--advertise-address={}", address.ip()),
        format!("--secure-port={}", address.port()),
        "--permit-port-sharing=true".to_owned(),
        format!("--cert-dir={}", directory.display()),
        format!("--tls-cert-file={}", file("server.crt")),
        format!("--tls-private-key-file={}", file("server.key")),
        format!("--client-ca-file={}", file("ca.crt")),
        format!("--service-account-key-file={}", file("tokens.pub")),
        format!("--service-account-signing-key-file={}", file("tokens.key")),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-cluster-ip-range={}", services.join(",")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// The families of a lab, in its order; both where there is no lab.
pub(super) fn families(addresses: &[IpAddr]) -> impl Iterator<Item = Family> {
    let of_the_lab = addresses.iter().map(|ip| Family::of(*ip));
    let without = if addresses.is_empty() { &Family::BOTH[..] } else { &[] };
    of_the_lab.chain(without.iter().copied())
}

/// The addresses of Services.
fn service_range(family: Family) -> &'static str {
    match family {
        Family::V4 => "10.96.0.0/16",
        Family::V6 => "fd96::/112",
    }
}

/// The address of the Service `kubernetes`: the first one.
pub(super) fn own_service(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 96, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

/// Flags that depend on what runs beside the API server.
pub(super) fn surroundings(pki: &Pki, whole_cluster: bool) -> Vec<String> {
    let file = |name: &str| pki.file(name).display().to_string();
    if whole_cluster {
        vec![
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            format!("--kubelet-client-certificate={}", file("admin.crt")),
            format!("--kubelet-client-key={}", file("admin.key")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ]
    } else {
        vec![
            // It refuses pods until a namespace's `default` account exists, which the controller
            // manager creates: none runs here.
            "--disable-admission-plugins=ServiceAccount".to_owned(),
            // No Service of the API server itself: a loopback address is no endpoint.
            "--endpoint-reconciler-type=none".to_owned(),
        ]
    }
}
