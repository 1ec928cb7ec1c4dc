//! Where objects come from, and the hypothesis on top of them: what all questions have in common.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args as ClapArgs};
use policy_engine::labels::Str;
use policy_engine::world::{OWN_NAMESPACE, Options};
use portcullis_crds::convert::custom::{self, Custom};
use portcullis_crds::convert::labels::namespace_name;

/// The headings of these flags in the help.
const OBJECTS: &str = "Objects";
const CLUSTER: &str = "Cluster";
const AGENTS: &str = "Settings of the agents";

/// Where objects come from, and the hypothesis on top of them.
#[derive(ClapArgs, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct SourceArgs {
    /// Read manifests from a file, a directory and all below it, or `-` for standard input; without
    /// it, the cluster of the kubeconfig
    #[arg(short, long = "filename", value_name = "FILE|DIR|-", help_heading = OBJECTS)]
    pub filename: Vec<PathBuf>,
    /// Add or replace objects before asking
    #[arg(long, value_name = "FILE|DIR|-", help_heading = OBJECTS)]
    pub with: Vec<PathBuf>,
    /// Remove an object before asking: KIND/NAMESPACE/NAME, or KIND/NAME; cnp/NAME and cdnp/NAME
    /// for policies of the whole cluster
    #[arg(long, value_name = "KIND/NS/NAME", help_heading = OBJECTS)]
    pub without: Vec<String>,
    /// Assume that there are such pods, unless the source has pods with these labels; for pods that an
    /// operator creates
    #[arg(
        long,
        value_name = "NS/NAME:LABEL=VALUE,…",
        value_parser = assumed,
        help_heading = OBJECTS
    )]
    pub assume: Vec<Custom>,
    /// The namespace of objects and endpoints that name none
    #[arg(short, long, value_name = "NAMESPACE", help_heading = OBJECTS)]
    pub namespace: Option<String>,
    /// All namespaces are always read; taken because kubectl's users write it
    #[arg(short = 'A', long, conflicts_with = "namespace", help_heading = OBJECTS)]
    pub all_namespaces: bool,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", help_heading = CLUSTER)]
    pub context: Option<String>,
    /// The kubeconfig file
    #[arg(long, value_name = "FILE", help_heading = CLUSTER)]
    pub kubeconfig: Option<PathBuf>,
    /// Read the cluster as this user
    #[arg(long = "as", value_name = "USER", help_heading = CLUSTER)]
    pub impersonate: Option<String>,
    /// Read the cluster as a member of this group
    #[arg(
        long = "as-group",
        value_name = "GROUP",
        requires = "impersonate",
        help_heading = CLUSTER
    )]
    pub impersonate_group: Vec<String>,
    /// How long the API server may take to answer one request, as `30s`, `2m` or `1m30s`; a number
    /// without a unit counts seconds, and 0 means no limit [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = CLUSTER)]
    pub request_timeout: Option<Duration>,
    /// Fail when something that is read cannot be understood
    #[arg(long, help_heading = OBJECTS)]
    pub strict: bool,
    /// Fail when a file, a directory or standard input contains no Kubernetes object: what should have
    /// written it probably failed
    #[arg(
        long,
        value_name = "BOOL",
        action = ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        help_heading = OBJECTS
    )]
    pub fail_on_empty: bool,
    /// Egress from a pod to its own node is not subject to policy (as the agents' flag)
    #[arg(long, help_heading = AGENTS)]
    pub allow_egress_to_own_node: bool,
    /// The namespace that Portcullis is installed in: a system namespace, as are kube-system,
    /// kube-public and kube-node-lease
    #[arg(
        long,
        value_name = "NAMESPACE",
        default_value = OWN_NAMESPACE,
        help_heading = AGENTS
    )]
    pub own_namespace: String,
    /// More system namespaces, as in the agents' flag: a ClusterDefaultNetworkPolicy selects none
    /// of them unless it includes system namespaces
    #[arg(
        long,
        env = "PORTCULLIS_SYSTEM_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ',',
        value_parser = namespace_name,
        help_heading = AGENTS
    )]
    pub system_namespaces: Vec<Str>,
}

impl Default for SourceArgs {
    fn default() -> Self {
        Self {
            filename: Vec::new(),
            with: Vec::new(),
            without: Vec::new(),
            assume: Vec::new(),
            namespace: None,
            all_namespaces: false,
            context: None,
            kubeconfig: None,
            impersonate: None,
            impersonate_group: Vec::new(),
            request_timeout: None,
            strict: false,
            fail_on_empty: true,
            allow_egress_to_own_node: false,
            own_namespace: OWN_NAMESPACE.to_owned(),
            system_namespaces: Vec::new(),
        }
    }
}

/// Pods that are assumed to exist: `shop/db:app=postgres,role=main`.
fn assumed(text: &str) -> Result<Custom, String> {
    let wrong = || {
        format!(
            "`{text}` is not NAMESPACE/NAME:LABEL=VALUE; write for example shop/db:app=postgres"
        )
    };
    let (name, labels) = text.split_once(':').ok_or_else(wrong)?;
    let (namespace, name) = name.split_once('/').ok_or_else(wrong)?;
    let labels: Option<Vec<_>> = labels.split(',').map(|label| label.split_once('=')).collect();
    let is_empty = namespace.is_empty() || name.is_empty() || name.contains('/');
    custom::assumed(namespace, name, &labels.filter(|_| !is_empty).ok_or_else(wrong)?)
}

/// A duration as kubectl reads it: a number of seconds, or numbers with units.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 7] = [
        ("ns", 1e-9),
        ("us", 1e-6),
        ("µs", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let wrong =
        || format!("`{text}` is not a duration; write for example 30s, 2m, or 0 for no limit");
    if let Ok(seconds) = text.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let is_number = |character: char| character.is_ascii_digit() || character == '.';
        let (number, after) = rest.split_at(rest.find(|c| !is_number(c)).ok_or_else(wrong)?);
        let (unit, after) = after.split_at(after.find(is_number).unwrap_or(after.len()));
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        seconds += number.parse::<f64>().map_err(|_| wrong())? * factor;
        rest = after;
    }
    match Duration::try_from_secs_f64(seconds) {
        Ok(found) if !text.is_empty() => Ok(found),
        _ => Err(wrong()),
    }
}

impl SourceArgs {
    /// A flag that is given and reads manifests.
    #[must_use]
    pub fn manifest_flag(&self) -> Option<&'static str> {
        let flags = [
            ("-f", !self.filename.is_empty()),
            ("--with", !self.with.is_empty()),
            ("--without", !self.without.is_empty()),
        ];
        flags.into_iter().find_map(|(flag, is_given)| is_given.then_some(flag))
    }

    /// Whether a flag names a live cluster.
    #[must_use]
    pub fn names_cluster(&self) -> bool {
        self.cluster_flag().is_some()
    }

    /// A flag that is given and is about a live cluster.
    #[must_use]
    pub fn cluster_flag(&self) -> Option<&'static str> {
        let flags = [
            ("--context", self.context.is_some()),
            ("--kubeconfig", self.kubeconfig.is_some()),
            ("--as", self.impersonate.is_some()),
            ("--as-group", !self.impersonate_group.is_empty()),
            ("--request-timeout", self.request_timeout.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    /// The choices that change verdicts.
    #[must_use]
    pub fn options(&self) -> Options {
        Options {
            allow_egress_to_own_node: self.allow_egress_to_own_node,
            own_namespace: self.own_namespace.as_str().into(),
            system_namespaces: self.system_namespaces.iter().cloned().collect(),
            ..Options::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assumed_pods_have_a_namespace_a_name_and_labels() {
        let found = assumed("shop/db:app=postgres,cnpg.io/cluster=db").expect("valid");
        let pod = found.pods.first().expect("a pod");
        assert_eq!((&*pod.key.namespace, &*pod.key.name), ("shop", "assumed/db#1"));
        assert_eq!(pod.labels.get("cnpg.io/cluster").map(AsRef::as_ref), Some("db"));
        for wrong in
            ["", "db", "shop/db", "shop/db:", "db:app=a", "/db:app=a", "shop/:a=b", "a/b/c:a=b"]
        {
            assert!(
                assumed(wrong).is_err_and(|error| error.contains("is not NAMESPACE")),
                "{wrong}"
            );
        }
        assert!(assumed("shop/db:app=a b").is_err_and(|error| error.contains("no label value")));
    }

    #[test]
    fn durations_are_those_of_kubectl() {
        let millis = |text| duration(text).map(|found| found.as_millis());
        let table =
            [("0", 0), ("5", 5000), ("250ms", 250), ("1.5m", 90_000), ("1h2m3s", 3_723_000)];
        for (text, expected) in table {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
        for wrong in ["", "s", "5x", "-1s", "1s5", "1..s", "9e999s"] {
            assert!(
                duration(wrong).is_err_and(|error| error.contains("is not a duration")),
                "{wrong}"
            );
        }
    }
}
