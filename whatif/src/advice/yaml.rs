//! A NetworkPolicy as YAML that kubectl reads as intended: a label value `true` stays a string.

use std::fmt::Write;

use ipnet::IpNet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::port::PortRange;
use policy_engine::reach::PortSet;
use policy_engine::selector::{Operator, Requirement};

use super::select::is_label;

/// A NetworkPolicy for one direction.
pub(crate) struct Proposal {
    pub(crate) namespace: Str,
    pub(crate) name: String,
    pub(crate) subject: Vec<Requirement>,
    pub(crate) direction: Direction,
    pub(crate) rules: Vec<Rule>,
}

/// One rule of the policy.
#[derive(Clone)]
pub(crate) struct Rule {
    pub(crate) peers: Vec<Peer>,
    /// The ports. Protocols without ports are allowed only by a rule for every port.
    pub(crate) ports: PortSet,
}

/// One peer of a rule.
#[derive(Clone)]
pub(crate) enum Peer {
    /// Pods by namespace and labels; `None` for the namespace of the policy.
    Pods(Option<Str>, Vec<Requirement>),
    /// Addresses, without some of them.
    Block(IpNet, Vec<IpNet>),
}

/// The document.
pub(crate) fn document(proposal: &Proposal) -> String {
    let Proposal { namespace, name, subject, direction, rules } = proposal;
    let list = direction.as_str().to_lowercase();
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "apiVersion: networking.k8s.io/v1\n\
         kind: NetworkPolicy\n\
         metadata: {{name: {}, namespace: {}}}\n\
         spec:\n  podSelector: {}\n  policyTypes: [{direction}]\n  {list}:\n",
        scalar(name),
        scalar(namespace),
        selector(subject),
    );
    for rule in rules {
        let _ = writeln!(text, "  - {}:", direction.peers_field());
        rule.peers.iter().for_each(|peer| write_peer(peer, &mut text));
        if !rule.ports.has_other() {
            let _ = writeln!(text, "    ports:");
            for (protocol, range) in rule.ports.iter() {
                let first = range.first();
                let _ = match range.count() {
                    _ if range == PortRange::FROM_ONE => {
                        writeln!(text, "    - {{protocol: {protocol}}}")
                    }
                    1 => writeln!(text, "    - {{protocol: {protocol}, port: {first}}}"),
                    _ => {
                        let end = range.last();
                        let ports = format!("port: {first}, endPort: {end}");
                        writeln!(text, "    - {{protocol: {protocol}, {ports}}}")
                    }
                };
            }
        }
    }
    text
}

fn write_peer(peer: &Peer, text: &mut String) {
    let _ = match peer {
        Peer::Pods(None, pods) => writeln!(text, "    - podSelector: {}", selector(pods)),
        Peer::Pods(Some(namespace), pods) => writeln!(
            text,
            "    - namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}\n      \
             podSelector: {}",
            scalar(namespace),
            selector(pods),
        ),
        Peer::Block(cidr, except) if except.is_empty() => {
            writeln!(text, "    - ipBlock: {{cidr: \"{cidr}\"}}")
        }
        Peer::Block(cidr, except) => {
            let except: Vec<String> = except.iter().map(|net| format!("\"{net}\"")).collect();
            let except = except.join(", ");
            writeln!(text, "    - ipBlock: {{cidr: \"{cidr}\", except: [{except}]}}")
        }
    };
}

fn selector(requirements: &[Requirement]) -> String {
    let labels = requirements.iter().filter(|one| is_label(one)).filter_map(|one| {
        let Operator::In(values) = &one.operator else { return None };
        Some(format!("{}: {}", scalar(&one.key), scalar(values.first()?)))
    });
    let labels: Vec<String> = labels.collect();
    let others = requirements.iter().filter(|one| !is_label(one)).map(|one| {
        let (operator, values) = one.operator.name_and_values();
        let values = values.map(|values| {
            let values: Vec<String> = values.iter().map(|value| scalar(value)).collect();
            format!(", values: [{}]", values.join(", "))
        });
        let values = values.unwrap_or_default();
        format!("{{key: {}, operator: {operator}{values}}}", scalar(&one.key))
    });
    let others: Vec<String> = others.collect();
    let mut fields = Vec::new();
    if !labels.is_empty() {
        fields.push(format!("matchLabels: {{{}}}", labels.join(", ")));
    }
    if !others.is_empty() {
        fields.push(format!("matchExpressions: [{}]", others.join(", ")));
    }
    format!("{{{}}}", fields.join(", "))
}

/// A string as YAML: in quotes where a reader could take it for a value of another type.
fn scalar(text: &str) -> String {
    const WORDS: [&str; 9] = ["y", "yes", "n", "no", "on", "off", "true", "false", "null"];
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    let plain = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(is_plain)
        && !WORDS.iter().any(|word| text.eq_ignore_ascii_case(word));
    if plain { text.to_owned() } else { format!("{text:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_reader_takes_for_a_string_is_plain() {
        for plain in ["web", "app.kubernetes.io/name", "v1", "a_b-c", "Nope"] {
            assert_eq!(scalar(plain), plain);
        }
        for quoted in ["", "true", "No", "y", "1234", "1e3", "0x1f", "2026-01-01", "-x", "~"] {
            assert_eq!(scalar(quoted), format!("\"{quoted}\""));
        }
    }
}
