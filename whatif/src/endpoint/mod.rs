//! The words by which a user names one side of a connection: parsed here, looked up in [`resolve`].

mod resolve;
mod service;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use policy_engine::object::Kind;
use policy_engine::port::Protocol;
use policy_engine::world::owner::Contest;

pub use resolve::{Party, PortAsked, Resolved, Side, resolve};

/// One side as a user wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The endpoint.
    pub target: Target,
    /// Its port, if the user names one.
    pub port: Option<PortWord>,
}

/// The endpoint that a user names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// A pod, a workload or a Service.
    Named {
        /// The namespace, unless it is left out.
        namespace: Option<String>,
        /// The kind in lower case, unless it is left out.
        kind: Option<String>,
        /// The name.
        name: String,
    },
    /// `jobs/report`: the Job `report`, or `report` in a namespace that has the name of a kind.
    KindOrNamespace {
        /// The word as written.
        word: String,
        /// The kind that kubectl takes the word for.
        kind: String,
        /// The name.
        name: String,
    },
    /// All pods of a namespace; `None`: of every namespace.
    Pods(Option<String>),
    /// A node.
    Node(String),
    /// An address, or all addresses of a network.
    Network(IpNet),
    /// Every address that no pod and no node has.
    External,
}

/// A port as a user wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortWord {
    /// Its number or name.
    pub port: NumberOrName,
    /// The protocol, TCP when it is left out.
    pub protocol: Protocol,
}

/// A port by number or by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NumberOrName {
    /// A port number.
    Number(u16),
    /// A port name, which containers or a Service define.
    Name(String),
}

/// The error for a side that was not found, but may be in a part that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("Undetermined: {missing}, but not all could be read: {gaps}")]
pub struct Unread {
    /// What was not found.
    pub missing: EndpointError,
    /// What could not be read.
    pub gaps: String,
}

/// The reason why words name no endpoint.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EndpointError {
    /// The words have no meaning.
    #[error("`{text}` is no endpoint: {problem}")]
    Syntax {
        /// The words.
        text: String,
        /// The error in the words.
        problem: String,
    },
    /// Nothing has this name.
    #[error("there is no {what}{}", hint(candidates))]
    Missing {
        /// What was looked for.
        what: String,
        /// The nearest names.
        candidates: Vec<String>,
    },
    /// Several have this name.
    #[error("`{text}` can be {}", candidates.join(" or "))]
    Ambiguous {
        /// The words.
        text: String,
        /// What they can mean.
        candidates: Vec<String>,
    },
    /// No object lists the addresses of a Service without a selector.
    #[error(
        "the addresses of {service} are not known: it selects no pods, and the source has no \
         EndpointSlice of it; add the output of `kubectl get endpointslices -n {namespace} -o yaml` \
         with -f or --with, or name an address, as 192.0.2.1:6443"
    )]
    Unaddressed {
        /// The Service: `default/service/kubernetes`.
        service: String,
        /// Its namespace.
        namespace: String,
    },
    /// Pods of two nodes claim the address.
    #[error("{0}; ask for one of the pods by name")]
    Contested(Box<Contest>),
}

fn hint(candidates: &[String]) -> String {
    match candidates {
        [] => String::new(),
        near => format!("; did you mean {}?", near.join(" or ")),
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let bad = |problem: &str| EndpointError::Syntax {
            text: text.to_owned(),
            problem: problem.to_owned(),
        };
        if let Some((inside, rest)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            let network =
                network(inside).ok_or_else(|| bad("no address stands in the brackets"))?;
            let port = match rest.strip_prefix(':') {
                Some(port) => Some(port.parse().map_err(|problem: String| bad(&problem))?),
                None if rest.is_empty() => None,
                None => return Err(bad("a port after the brackets begins with `:`")),
            };
            return Ok(Self { target: Target::Network(network), port });
        }
        if let Some(network) = network(text) {
            return Ok(Self { target: Target::Network(network), port: None });
        }
        let (path, port) = match text.split_once(':') {
            Some((path, port)) => {
                (path, Some(port.parse().map_err(|problem: String| bad(&problem))?))
            }
            None => (text, None),
        };
        let target = target(path).map_err(bad)?;
        Ok(Self { target, port })
    }
}

fn target(path: &str) -> Result<Target, &'static str> {
    if let Some(network) = network(path) {
        return Ok(Target::Network(network));
    }
    let named = |namespace: Option<&str>, kind: Option<&str>, name: &str| Target::Named {
        namespace: namespace.map(str::to_owned),
        kind: kind.map(str::to_owned),
        name: name.to_owned(),
    };
    let parts: Vec<&str> = path.split('/').collect();
    if parts.iter().any(|part| part.is_empty()) {
        return Err("a part of it is empty");
    }
    Ok(match parts.as_slice() {
        ["external"] => Target::External,
        ["*" | "*/*"] | ["*", "*"] => Target::Pods(None),
        [namespace, "*"] => Target::Pods(Some((*namespace).to_owned())),
        ["node" | "no" | "nodes", name] => Target::Node((*name).to_owned()),
        [name] => match service_of(name) {
            Some((service, namespace)) => named(Some(namespace), Some("service"), service),
            None => named(None, None, name),
        },
        [first, name] => match Kind::from_word(first) {
            Some(kind) => Target::KindOrNamespace {
                word: (*first).to_owned(),
                kind: kind.lower().to_owned(),
                name: (*name).to_owned(),
            },
            None => named(Some(first), None, name),
        },
        [namespace, kind, name] => {
            let lower = kind.to_lowercase();
            let known = Kind::from_word(kind).map(Kind::lower);
            named(Some(namespace), known.or(Some(&lower)), name)
        }
        _ => return Err("it has more than three parts"),
    })
}

/// The Service that a DNS name means, and its namespace: `api.shop.svc`, `api.shop.svc.cluster.local`.
fn service_of(name: &str) -> Option<(&str, &str)> {
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    let (service, namespace) = (labels.next()?, labels.next()?);
    // What follows is the domain of the cluster.
    let is_service = labels.next() == Some("svc") && !labels.any(str::is_empty);
    (is_service && !service.is_empty() && !namespace.is_empty()).then_some((service, namespace))
}

fn network(text: &str) -> Option<IpNet> {
    match text.parse::<IpAddr>() {
        Ok(address) => Some(IpNet::from(address)),
        Err(_) => text.parse::<IpNet>().ok().map(|net| net.trunc()),
    }
}

impl FromStr for PortWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (port, protocol) = match text.split_once('/') {
            Some((port, name)) => {
                let known = Protocol::ALL.into_iter();
                let found = known.into_iter().find(|p| p.as_str().eq_ignore_ascii_case(name));
                (port, found.ok_or_else(|| format!("`{name}` is not tcp, udp or sctp"))?)
            }
            None => (text, Protocol::Tcp),
        };
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = if is_number {
            let number = port.parse().ok().filter(|number| *number > 0);
            NumberOrName::Number(number.ok_or_else(|| format!("there is no port {port}"))?)
        } else if port.is_empty() {
            return Err("a port is missing after `:`".to_owned());
        } else {
            NumberOrName::Name(port.to_owned())
        };
        Ok(Self { port, protocol })
    }
}

impl fmt::Display for NumberOrName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(formatter),
            Self::Name(name) => formatter.write_str(name),
        }
    }
}

impl fmt::Display for PortWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.port, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, wanted: &str) {
        let shown = match text.parse::<Endpoint>() {
            Err(error) => error.to_string(),
            Ok(Endpoint { target, port }) => {
                let target = match target {
                    Target::Named { namespace, kind, name } => format!(
                        "{}/{}/{name}",
                        namespace.as_deref().unwrap_or("-"),
                        kind.as_deref().unwrap_or("-")
                    ),
                    Target::KindOrNamespace { word, kind, name } => {
                        format!("{word} as {kind}/{name}")
                    }
                    Target::Pods(namespace) => format!("pods of {namespace:?}"),
                    Target::Node(name) => format!("node {name}"),
                    Target::Network(net) => net.to_string(),
                    Target::External => "external".to_owned(),
                };
                port.map_or(target.clone(), |port| format!("{target} {port}"))
            }
        };
        assert_eq!(shown, wanted, "{text}");
    }

    #[test]
    fn names_have_up_to_three_parts() {
        check("api", "-/-/api");
        check("shop/api:8080", "shop/-/api 8080/TCP");
        check("deploy/api:http/tcp", "deploy as deployment/api http/TCP");
        check("shop/sts/db:53/UDP", "shop/statefulset/db 53/UDP");
        check("shop/Rollout/api", "shop/rollout/api");
        check("shop/*:80", "pods of Some(\"shop\") 80/TCP");
        check("*/*", "pods of None");
        check("node/n1", "node n1");
        check("external:443", "external 443/TCP");
    }

    #[test]
    fn dns_names_of_services_are_services() {
        check("api.shop.svc", "shop/service/api");
        check("api.shop.svc.cluster.local:http", "shop/service/api http/TCP");
        check("api.shop.svc.example.org.:80", "shop/service/api 80/TCP");
        // A pod can have this name.
        check("api.shop", "-/-/api.shop");
        check("a.api.shop.svc", "-/-/a.api.shop.svc");
        check("shop/api.shop.svc", "shop/-/api.shop.svc");
    }

    #[test]
    fn addresses_of_both_families_take_ports() {
        check("10.0.0.1", "10.0.0.1/32");
        check("10.0.0.1:80/tcp", "10.0.0.1/32 80/TCP");
        check("10.0.0.7/24:80", "10.0.0.0/24 80/TCP");
        check("fd00::1", "fd00::1/128");
        check("[fd00::1]:80/tcp", "fd00::1/128 80/TCP");
        check("[fd00::/64]", "fd00::/64");
    }

    #[test]
    fn errors_of_words_without_meaning_have_a_reason() {
        check("a/b/c/d", "`a/b/c/d` is no endpoint: it has more than three parts");
        check("shop/", "`shop/` is no endpoint: a part of it is empty");
        check("api:80/quic", "`api:80/quic` is no endpoint: `quic` is not tcp, udp or sctp");
        check("api:0", "`api:0` is no endpoint: there is no port 0");
        check("api:99999", "`api:99999` is no endpoint: there is no port 99999");
        check("api:", "`api:` is no endpoint: a port is missing after `:`");
        check(
            "[fd00::1]80",
            "`[fd00::1]80` is no endpoint: a port after the brackets begins with `:`",
        );
    }
}
