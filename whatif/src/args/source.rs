//! Where objects come from, and the hypothesis on top of them: what all questions have in common.

use std::path::PathBuf;

use clap::{ArgAction, Args as ClapArgs};
use policy_engine::labels::Str;
use policy_engine::world::{OWN_NAMESPACE, Options};
use portcullis_crds::convert::labels::namespace_name;

/// Where objects come from, and the hypothesis on top of them.
#[derive(ClapArgs, Debug)]
pub struct SourceArgs {
    /// Read manifests from a file, a directory and all below it, or `-` for standard input; without
    /// it, the cluster of the kubeconfig
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// Add or replace objects before asking
    #[arg(long, value_name = "FILE|DIR|-")]
    pub with: Vec<PathBuf>,
    /// Remove an object before asking: KIND/NAMESPACE/NAME, or KIND/NAME; cnp/NAME and cdnp/NAME
    /// for policies of the whole cluster
    #[arg(long, value_name = "KIND/NS/NAME")]
    pub without: Vec<String>,
    /// The namespace of objects and endpoints that name none
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces are always read; taken because kubectl's users write it
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
    /// The kubeconfig file
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Read the cluster as this user
    #[arg(long = "as", value_name = "USER")]
    pub impersonate: Option<String>,
    /// Read the cluster as a member of this group
    #[arg(long = "as-group", value_name = "GROUP", requires = "impersonate")]
    pub impersonate_group: Vec<String>,
    /// Fail when something that is read cannot be understood
    #[arg(long)]
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
        default_missing_value = "true"
    )]
    pub fail_on_empty: bool,
    /// Egress from a pod to its own node is not subject to policy (as the agents' flag)
    #[arg(long)]
    pub allow_egress_to_own_node: bool,
    /// The namespace that Portcullis is installed in: a system namespace, as are kube-system,
    /// kube-public and kube-node-lease
    #[arg(long, value_name = "NAMESPACE", default_value = OWN_NAMESPACE)]
    pub own_namespace: String,
    /// More system namespaces, as in the agents' flag: a ClusterDefaultNetworkPolicy selects none
    /// of them unless it includes system namespaces
    #[arg(
        long,
        env = "PORTCULLIS_SYSTEM_NAMESPACES",
        value_name = "NAMES",
        value_delimiter = ',',
        value_parser = namespace_name
    )]
    pub system_namespaces: Vec<Str>,
}

impl Default for SourceArgs {
    fn default() -> Self {
        Self {
            filename: Vec::new(),
            with: Vec::new(),
            without: Vec::new(),
            namespace: None,
            all_namespaces: false,
            context: None,
            kubeconfig: None,
            impersonate: None,
            impersonate_group: Vec::new(),
            strict: false,
            fail_on_empty: true,
            allow_egress_to_own_node: false,
            own_namespace: OWN_NAMESPACE.to_owned(),
            system_namespaces: Vec::new(),
        }
    }
}

impl SourceArgs {
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
