//! One item of `protocols` of a rule.

use policy_engine::policy::{PortMatch, Ports};
use policy_engine::port::{PortRange, Protocol};
use serde::Deserialize;

use super::super::port::{name_problem, number};
use super::effects::Effects;
use crate::decode::{Field, Mapping};
use crate::path::Path;
use crate::report::Report;

/// The ports of one protocol, or a port by name: exactly one of these.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProtocolFields {
    tcp: Option<Mapping<TransportFields>>,
    udp: Option<Mapping<TransportFields>>,
    sctp: Option<Mapping<TransportFields>>,
    destination_named_port: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TransportFields {
    destination_port: Option<Mapping<PortFields>>,
}

/// A number or a range: exactly one of these.
#[derive(Deserialize)]
struct PortFields {
    number: Option<i32>,
    range: Option<Mapping<RangeFields>>,
}

#[derive(Deserialize)]
struct RangeFields {
    start: i32,
    end: i32,
}

/// The ports of `rule`, with [`PortMatch::Invalid`] for each that was not understood.
pub(super) fn ports(
    rule: &Field<'_>,
    name: &str,
    effects: &Effects,
    report: &mut Report<'_>,
) -> Ports {
    let Some(field) = rule.get(name) else { return Ports::Any };
    let broken = Ports::Listed(vec![PortMatch::Invalid]);
    let Some(items) = field.list(report, effects.rule) else { return broken };
    if items.is_empty() {
        let hint = "delete it to mean every port";
        report.error(&field.path, format!("lists nothing; {}; {hint}", effects.rule));
        return broken;
    }
    let mut ports = Vec::new();
    for (at, value) in items.iter().enumerate() {
        let item = Field { path: field.path.index(at), value };
        match protocol(&item, effects.port, report) {
            Some(mut understood) => ports.append(&mut understood),
            None => ports.push(PortMatch::Invalid),
        }
    }
    Ports::Listed(ports)
}

/// The port of one item; `None` after a report when the item was not understood.
fn protocol(field: &Field<'_>, effect: &str, report: &mut Report<'_>) -> Option<Vec<PortMatch>> {
    let Mapping(fields) = field.decode::<Mapping<ProtocolFields>>(report, effect)?;
    let path = &field.path;
    let ProtocolFields { tcp, udp, sctp, destination_named_port } = &fields;
    let (name, protocol, Mapping(transport)) = match (tcp, udp, sctp, destination_named_port) {
        (Some(tcp), None, None, None) => ("tcp", Protocol::Tcp, tcp),
        (None, Some(udp), None, None) => ("udp", Protocol::Udp, udp),
        (None, None, Some(sctp), None) => ("sctp", Protocol::Sctp, sctp),
        (None, None, None, Some(name)) => {
            if let Some(problem) = name_problem(name) {
                let is_number = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit());
                let problem = if is_number {
                    format!(
                        "`{name}` is no name; write `tcp: {{destinationPort: {{number: {name}}}}}`"
                    )
                } else {
                    problem
                };
                let path = path.key("destinationNamedPort");
                report.error(&path, format!("{problem}; {effect}"));
                return None;
            }
            // With any protocol that the container declares for the name.
            let named = |protocol| PortMatch::Named(protocol, name.as_str().into());
            return Some(Protocol::ALL.into_iter().map(named).collect());
        }
        _ => {
            let known = "`tcp`, `udp`, `sctp`, `destinationNamedPort`";
            report.error(path, format!("must have exactly one of {known}; {effect}"));
            return None;
        }
    };
    let path = path.key(name);
    let path = path.key("destinationPort");
    let range = match &transport.destination_port {
        None => {
            report.error(&path, format!("is missing; {effect}"));
            return None;
        }
        Some(Mapping(port)) => range(port, &path, effect, report)?,
    };
    Some(vec![PortMatch::Numbers(protocol, range)])
}

fn range(
    port: &PortFields,
    path: &Path<'_>,
    effect: &str,
    report: &mut Report<'_>,
) -> Option<PortRange> {
    let refuse = |report: &mut Report<'_>, path: &Path<'_>, problem: String| {
        report.error(path, format!("{problem}; {effect}"));
        None
    };
    match (port.number, &port.range) {
        (Some(written), None) => match number(written) {
            Ok(number) => Some(PortRange::single(number)),
            Err(problem) => refuse(report, &path.key("number"), problem),
        },
        (None, Some(Mapping(range))) => {
            let path = path.key("range");
            let first = match number(range.start) {
                Ok(first) => first,
                Err(problem) => return refuse(report, &path.key("start"), problem),
            };
            let last = match number(range.end) {
                Ok(last) => last,
                Err(problem) => return refuse(report, &path.key("end"), problem),
            };
            if first == last {
                let message = "is `start`, which an API server refuses; write `number`";
                report.warning(&path.key("end"), message);
            }
            let problem = format!("{last} is below `start` {first}");
            PortRange::new(first, last).ok().or_else(|| refuse(report, &path.key("end"), problem))
        }
        (Some(_), Some(_)) | (None, None) => {
            refuse(report, path, "must have exactly one of `number` and `range`".to_owned())
        }
    }
}
