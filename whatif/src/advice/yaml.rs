//! A NetworkPolicy as YAML that kubectl reads as it is meant: `true` as a label is a string.

use std::fmt::Write;

use ipnet::IpNet;
use policy_engine::direction::Direction;
use policy_engine::labels::Str;
use policy_engine::port::Protocol;
use policy_engine::selector::{Operator, Requirement};

use super::select::is_label;

/// A NetworkPolicy with one rule.
pub(super) struct Proposal {
    pub(super) namespace: Str,
    pub(super) name: String,
    pub(super) subject: Vec<Requirement>,
    pub(super) direction: Direction,
    pub(super) peers: Vec<Peer>,
    /// The port; `None` for a protocol without ports, which only a rule for every port allows.
    pub(super) port: Option<(Protocol, u16)>,
}

/// One peer of the rule.
#[derive(Clone)]
pub(super) enum Peer {
    /// Pods; `None` stands for the namespace of the policy.
    Pods(Option<Str>, Vec<Requirement>),
    /// Addresses, without some of them.
    Block(IpNet, Vec<IpNet>),
}

/// The document.
pub(super) fn document(proposal: &Proposal) -> String {
    let Proposal { namespace, name, subject, direction, peers, port } = proposal;
    let (list, field) = (direction.as_str().to_lowercase(), direction.peers_field());
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "apiVersion: networking.k8s.io/v1\n\
         kind: NetworkPolicy\n\
         metadata: {{name: {}, namespace: {}}}\n\
         spec:\n  podSelector: {}\n  policyTypes: [{direction}]\n  {list}:\n  - {field}:\n",
        scalar(name),
        scalar(namespace),
        selector(subject),
    );
    for peer in peers {
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
    if let Some((protocol, number)) = port {
        let _ = writeln!(text, "    ports:\n    - {{protocol: {protocol}, port: {number}}}");
    }
    text
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

/// A string as YAML: in quotes where any reader could take it for something else.
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
