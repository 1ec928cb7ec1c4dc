//! Clusters of different shapes, each of any size: what makes one of them slow does not make the
//! others slow.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// What pods and policies of a cluster are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    /// Deployments of five replicas; each app allows the app before it and a gateway.
    Microservices,
    /// A policy per namespace whose `ipBlocks` contain most pods, without those of other namespaces.
    IpBlocks,
    /// Each namespace has label keys of its own, which its policies select by.
    LabelKeys,
    /// Egress by port names, for which the pods have different numbers.
    NamedPorts,
    /// Each pod allows a range of ports of its own from every pod.
    PortRanges,
    /// Namespaces of 8 apps × 3 tiers, no two pods alike; policies select by app and by tier.
    Pairwise,
}

impl Shape {
    /// All shapes.
    pub(crate) const ALL: [Self; 6] = [
        Self::Microservices,
        Self::IpBlocks,
        Self::LabelKeys,
        Self::NamedPorts,
        Self::PortRanges,
        Self::Pairwise,
    ];

    /// How tables call it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Microservices => "microservices",
            Self::IpBlocks => "ip-blocks",
            Self::LabelKeys => "label-keys",
            Self::NamedPorts => "named-ports",
            Self::PortRanges => "port-ranges",
            Self::Pairwise => "pairwise",
        }
    }

    /// A cluster of `pods` pods: one JSON object a line.
    pub(crate) fn cluster(self, pods: u32) -> String {
        let mut cluster = Cluster::default();
        cluster.pod("kube-system", 0, "dns-0", &[("k8s-app", "kube-dns")], &[("dns", 53)]);
        cluster.namespace("kube-system", &[]);
        for namespace in 0..pods.div_ceil(PER_NAMESPACE) {
            self.namespace(&mut cluster, namespace);
        }
        cluster.text
    }

    /// Policies that `plan --with` adds to the cluster: `number` of them.
    pub(crate) fn change(number: u32) -> String {
        let mut change = Cluster::default();
        for at in 0..number {
            let peer = from(&selector(&[("app", &format!("app-{}", at % 4))]));
            let port = format!("[{{\"port\":{}}}]", 9000 + at);
            let rule = format!("{{\"from\":[{peer}],\"ports\":{port}}}");
            let app = selector(&[("app", &format!("app-{}", at % 4))]);
            change.policy(&format!("ns-{at}"), "added", &app, "Ingress", &rule);
        }
        change.text
    }

    fn namespace(self, cluster: &mut Cluster, number: u32) {
        let name = format!("ns-{number}");
        let team = format!("team-{}", number % 50);
        let own = key(number, 0);
        let labels = match self {
            Self::LabelKeys => vec![("team", team.as_str()), (&own, "yes")],
            _ => vec![("team", team.as_str())],
        };
        cluster.namespace(&name, &labels);
        for at in 0..PER_NAMESPACE {
            self.pod(cluster, number, at);
        }
        let apps = (0..4).map(|app| format!("app-{app}"));
        match self {
            Self::Microservices => {
                for (at, app) in apps.enumerate() {
                    let before = format!("app-{}", (at + 3) % 4);
                    let peers =
                        [from(&selector(&[("app", &before)])), in_namespaces("team", &team)];
                    let ports = "[{\"port\":8080}]";
                    let rule = format!("{{\"from\":[{}],\"ports\":{ports}}}", peers.join(","));
                    cluster.policy(&name, &app, &selector(&[("app", &app)]), "Ingress", &rule);
                }
                let dns = "{\"to\":[{\"namespaceSelector\":{\"matchLabels\":{\"kubernetes.io/metadata.name\":\
                           \"kube-system\"}}}],\"ports\":[{\"port\":53,\"protocol\":\"UDP\"}]}";
                let near = "{\"to\":[{\"podSelector\":{}}]}";
                cluster.policy(&name, "egress", "{}", "Egress", &format!("{dns},{near}"));
            }
            Self::IpBlocks => {
                let net = |number: u32| Ipv4Addr::from(0x0a00_0000 + (number << 5));
                let excepts: Vec<String> =
                    (1..4).map(|other| format!("\"{}/27\"", net(number + other * 7))).collect();
                let block = format!(
                    "{{\"ipBlock\":{{\"cidr\":\"10.0.0.0/8\",\"except\":[{}]}}}},\
                     {{\"ipBlock\":{{\"cidr\":\"{}/27\"}}}}",
                    excepts.join(","),
                    net(number + 1),
                );
                let rule = format!("{{\"from\":[{block}],\"ports\":[{{\"port\":8080}}]}}");
                cluster.policy(&name, "blocks", "{}", "Ingress", &rule);
            }
            Self::LabelKeys => {
                for app in 0..4 {
                    let (own, other) = (key(number, app), key(number, (app + 1) % 4));
                    let namespaces = selector(&[(&key(number, 0), "yes")]);
                    let pods = selector(&[(&other, "yes")]);
                    let peer =
                        format!("{{\"namespaceSelector\":{namespaces},\"podSelector\":{pods}}}");
                    let rule = format!("{{\"from\":[{peer}]}}");
                    let subject = selector(&[(&own, "yes")]);
                    cluster.policy(&name, &format!("key-{app}"), &subject, "Ingress", &rule);
                }
            }
            Self::NamedPorts => {
                for (at, app) in apps.enumerate() {
                    let ports = format!("[{{\"port\":\"http\"}},{{\"port\":\"port-{}\"}}]", at % 3);
                    let peer = in_namespaces("team", &team);
                    let rule = format!("{{\"to\":[{peer}],\"ports\":{ports}}}");
                    cluster.policy(&name, &app, &selector(&[("app", &app)]), "Egress", &rule);
                }
            }
            Self::PortRanges => {
                for at in 0..PER_NAMESPACE {
                    let first = 1000 + (number * PER_NAMESPACE + at) % 60_000;
                    let last = (first + 10 + number % 100).min(65_535);
                    let port = format!("[{{\"port\":{first},\"endPort\":{last}}}]");
                    let pod = format!("pod-{at}");
                    let rule =
                        format!("{{\"from\":[{{\"namespaceSelector\":{{}}}}],\"ports\":{port}}}");
                    cluster.policy(&name, &pod, &selector(&[("pod", &pod)]), "Ingress", &rule);
                }
            }
            Self::Pairwise => {
                for app in 0..8 {
                    let own = format!("app-{app}");
                    let (a, t) = ((app + number) % 8, (app + number) % 3);
                    let (a, t) = (format!("app-{a}"), format!("tier-{t}"));
                    let everywhere = format!(
                        "{{\"namespaceSelector\":{{}},\"podSelector\":{}}}",
                        selector(&[("app", &a), ("tier", &t)])
                    );
                    let near = from(&selector(&[("app", &format!("app-{}", (app + 1) % 8))]));
                    let ports = format!("[{{\"port\":{}}}]", 8000 + app);
                    let rule = format!("{{\"from\":[{everywhere},{near}],\"ports\":{ports}}}");
                    cluster.policy(&name, &own, &selector(&[("app", &own)]), "Ingress", &rule);
                }
                for tier in 0..2 {
                    let own = format!("tier-{tier}");
                    let apps = selector(&[("app", &format!("app-{}", (tier + number) % 8))]);
                    let everywhere =
                        format!("{{\"namespaceSelector\":{{}},\"podSelector\":{apps}}}");
                    let rule = format!("{{\"from\":[{everywhere}],\"ports\":[{{\"port\":9100}}]}}");
                    cluster.policy(&name, &own, &selector(&[("tier", &own)]), "Ingress", &rule);
                }
            }
        }
    }

    fn pod(self, cluster: &mut Cluster, namespace: u32, at: u32) {
        let (name, place) = (format!("ns-{namespace}"), namespace * 32 + at + 1);
        let app = format!("app-{}", at % 4);
        match self {
            Self::Microservices => {
                cluster.replica(&name, place, &app, at / 4);
            }
            Self::IpBlocks => {
                cluster.pod(&name, place, &format!("pod-{at}"), &[("app", &app)], &[]);
            }
            Self::LabelKeys => {
                let key = key(namespace, at % 4);
                cluster.pod(
                    &name,
                    place,
                    &format!("pod-{at}"),
                    &[("app", &app), (&key, "yes")],
                    &[],
                );
            }
            Self::NamedPorts => {
                let (port, number) = (format!("port-{}", at % 3), 1000 + (namespace % 1000) * 10);
                let number = u16::try_from(number).unwrap_or(u16::MAX);
                let ports = [("http", 8080 + u16::try_from(at % 5).unwrap_or(0)), (&port, number)];
                cluster.pod(&name, place, &format!("pod-{at}"), &[("app", &app)], &ports);
            }
            Self::PortRanges => {
                let pod = format!("pod-{at}");
                cluster.pod(&name, place, &pod, &[("pod", &pod)], &[]);
            }
            Self::Pairwise => {
                let (app, tier) = (format!("app-{}", at % 8), format!("tier-{}", at / 8));
                cluster.pod(
                    &name,
                    place,
                    &format!("pod-{at}"),
                    &[("app", &app), ("tier", &tier)],
                    &[],
                );
            }
        }
    }
}

/// `apps` apps of one namespace, of two pods each.
pub(crate) fn one_namespace(apps: u32) -> String {
    let mut cluster = Cluster::default();
    cluster.namespace("shop", &[]);
    for app in 0..apps {
        for replica in 0..2 {
            cluster.replica("shop", app * 2 + replica + 1, &format!("app-{app}"), replica);
        }
    }
    cluster.text
}

/// Policies for all apps of [`one_namespace`], each of which allows one app.
pub(crate) fn for_one_namespace(policies: u32, apps: u32) -> String {
    let mut change = Cluster::default();
    for at in 0..policies {
        let peer = from(&selector(&[("app", &format!("app-{}", at % apps))]));
        let rule = format!("{{\"from\":[{peer}],\"ports\":[{{\"port\":{}}}]}}", 8000 + at);
        change.policy("shop", &format!("policy-{at}"), "{}", "Ingress", &rule);
    }
    change.text
}

const PER_NAMESPACE: u32 = 20;

/// The JSON objects of a cluster, one a line.
#[derive(Default)]
struct Cluster {
    text: String,
}

impl Cluster {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a String can be written");
    }

    fn namespace(&mut self, name: &str, labels: &[(&str, &str)]) {
        let labels = pairs(&[labels, &[("kubernetes.io/metadata.name", name)]].concat());
        self.line(format_args!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Namespace\",\"metadata\":{{\"name\":\"{name}\",\
             \"labels\":{{{labels}}}}}}}"
        ));
    }

    fn pod(
        &mut self,
        namespace: &str,
        place: u32,
        name: &str,
        labels: &[(&str, &str)],
        ports: &[(&str, u16)],
    ) {
        self.owned(namespace, place, name, labels, ports, "");
    }

    fn replica(&mut self, namespace: &str, place: u32, app: &str, number: u32) {
        let owner = format!(
            ",\"ownerReferences\":[{{\"apiVersion\":\"apps/v1\",\"kind\":\"ReplicaSet\",\
             \"name\":\"{app}-5d8f\",\"uid\":\"u\",\"controller\":true}}]"
        );
        let labels = [("app", app), ("pod-template-hash", "5d8f")];
        let name = format!("{app}-5d8f-{number}");
        self.owned(namespace, place, &name, &labels, &[("http", 8080)], &owner);
    }

    fn owned(
        &mut self,
        namespace: &str,
        place: u32,
        name: &str,
        labels: &[(&str, &str)],
        ports: &[(&str, u16)],
        owner: &str,
    ) {
        let address = Ipv4Addr::from(0x0a00_0000 + place);
        let port = |(name, number): &(&str, u16)| {
            format!("{{\"name\":\"{name}\",\"containerPort\":{number}}}")
        };
        let ports: Vec<String> = ports.iter().map(port).collect();
        self.line(format_args!(
            "{{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{{\"name\":\"{name}\",\
             \"namespace\":\"{namespace}\",\"labels\":{{{}}}{owner}}},\"spec\":{{\"nodeName\":\
             \"node-{}\",\"containers\":[{{\"name\":\"c\",\"ports\":[{}]}}]}},\"status\":\
             {{\"phase\":\"Running\",\"podIPs\":[{{\"ip\":\"{address}\"}}]}}}}",
            pairs(labels),
            place % 100,
            ports.join(","),
        ));
    }

    fn policy(&mut self, namespace: &str, name: &str, subject: &str, direction: &str, rules: &str) {
        let field = direction.to_lowercase();
        self.line(format_args!(
            "{{\"apiVersion\":\"networking.k8s.io/v1\",\"kind\":\"NetworkPolicy\",\"metadata\":\
             {{\"name\":\"{name}\",\"namespace\":\"{namespace}\"}},\"spec\":{{\"podSelector\":{subject},\
             \"policyTypes\":[\"{direction}\"],\"{field}\":[{rules}]}}}}"
        ));
    }
}

/// A label key of one namespace only.
fn key(namespace: u32, app: u32) -> String {
    format!("team-{namespace}.example/key-{app}")
}

fn pairs(labels: &[(&str, &str)]) -> String {
    let each = labels.iter().map(|(key, value)| format!("\"{key}\":\"{value}\""));
    each.collect::<Vec<_>>().join(",")
}

fn selector(labels: &[(&str, &str)]) -> String {
    format!("{{\"matchLabels\":{{{}}}}}", pairs(labels))
}

/// A peer in the policy's own namespace.
fn from(pods: &str) -> String {
    format!("{{\"podSelector\":{pods}}}")
}

fn in_namespaces(key: &str, value: &str) -> String {
    format!("{{\"namespaceSelector\":{}}}", selector(&[(key, value)]))
}
