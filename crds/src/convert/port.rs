//! Ports: of policies, and those that containers declare by name.

use k8s_openapi::api::core::v1::ContainerPort;
use k8s_openapi::api::networking::v1::NetworkPolicyPort;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use policy_engine::model::NamedPort;
use policy_engine::policy::PortMatch;
use policy_engine::port::{PortRange, Protocol};

use crate::decode::Field;
use crate::path::Path;
use crate::report::Report;

const MATCHES_NOTHING: &str = "this port matches nothing";
const NOT_BY_NAME: &str = "policies cannot name this port";

/// One item of a rule's `ports`. NetworkPolicy v1: no `protocol` is TCP, no `port` is every port.
pub(super) fn port_match(field: &Field<'_>, report: &mut Report<'_>) -> PortMatch {
    let port = field.decode::<NetworkPolicyPort>(report, MATCHES_NOTHING);
    let Some(port) = port else { return PortMatch::Invalid };
    match understand(&port) {
        Ok(understood) => understood,
        Err((name, problem)) => {
            let message = format!("{problem}; {MATCHES_NOTHING}");
            report.error(&field.path.key(name), message);
            PortMatch::Invalid
        }
    }
}

fn understand(port: &NetworkPolicyPort) -> Result<PortMatch, (&'static str, String)> {
    let protocol = protocol(port.protocol.as_deref()).map_err(|problem| ("protocol", problem))?;
    match (&port.port, port.end_port) {
        (None, None) => Ok(PortMatch::Numbers(protocol, PortRange::ALL)),
        (None, Some(_)) => Err(("endPort", "wants a `port` beside it".to_owned())),
        (Some(IntOrString::Int(first)), last) => {
            let first = number(*first).map_err(|problem| ("port", problem))?;
            let last = last.map_or(Ok(first), number).map_err(|problem| ("endPort", problem))?;
            let range = PortRange::new(first, last)
                .map_err(|_| ("endPort", format!("{last} is below `port` {first}")))?;
            Ok(PortMatch::Numbers(protocol, range))
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            Err(("endPort", "wants a number as `port`".to_owned()))
        }
        (Some(IntOrString::String(name)), None) => match name_problem(name) {
            None => Ok(PortMatch::Named(protocol, name.as_str().into())),
            Some(problem) => Err(("port", problem)),
        },
    }
}

/// The named ports of the container at `container`; ports without a name are skipped.
pub(super) fn named_ports(
    container: &Field<'_>,
    report: &mut Report<'_>,
    named: &mut Vec<NamedPort>,
) {
    let Some(ports) = container.get("ports") else { return };
    for (at, value) in ports.list(report, NOT_BY_NAME).into_iter().flatten().enumerate() {
        let field = Field { path: ports.path.index(at), value };
        let Some(port) = field.decode::<ContainerPort>(report, NOT_BY_NAME) else { continue };
        let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) else { continue };
        match named_port(name, &port) {
            Ok(port) => named.push(port),
            Err((key, problem)) => {
                let path: Path<'_> = field.path.key(key);
                report.error(&path, format!("{problem}; {NOT_BY_NAME}"));
            }
        }
    }
}

fn named_port(name: &str, port: &ContainerPort) -> Result<NamedPort, (&'static str, String)> {
    if let Some(problem) = name_problem(name) {
        return Err(("name", problem));
    }
    Ok(NamedPort {
        name: name.into(),
        protocol: protocol(port.protocol.as_deref()).map_err(|problem| ("protocol", problem))?,
        number: number(port.container_port).map_err(|problem| ("containerPort", problem))?,
    })
}

fn protocol(name: Option<&str>) -> Result<Protocol, String> {
    let Some(name) = name else { return Ok(Protocol::Tcp) };
    Protocol::ALL
        .into_iter()
        .find(|protocol| protocol.as_str() == name)
        .ok_or_else(|| format!("`{name}` is no protocol (write TCP, UDP or SCTP)"))
}

/// The port number `number`.
pub(super) fn number(number: i32) -> Result<u16, String> {
    match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("{number} is no port number (1 to 65535)")),
    }
}

/// The error in the name of a port (`IsValidPortName`, an `IANA_SVC_NAME`); `None` if it is valid.
pub(super) fn name_problem(name: &str) -> Option<String> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("\"{name}\" is text; a port number is written without quotes"));
    }
    let good = (1..=15).contains(&name.len())
        && name.bytes().all(inside)
        && name.bytes().any(|byte| byte.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-');
    (!good).then(|| {
        format!(
            "`{name}` is no port name (at most 15 lower-case letters, digits and single inner \
             dashes, with a letter)"
        )
    })
}
