//! Flags of everything that programs the kernel.

use clap::Args;

use crate::dataplane::{Backend, IptablesVariant, Options};

/// Flags of everything that programs the kernel.
#[derive(Args, Debug)]
pub struct KernelArgs {
    /// What enforces policies; auto: iptables where it works together with ipset, otherwise nftables.
    #[arg(long, env = "PORTCULLIS_BACKEND", value_enum, default_value = "auto")]
    pub backend: Backend,
    /// Which iptables to use; auto: where kube-proxy and the CNI have their chains.
    #[arg(long, env = "PORTCULLIS_IPTABLES", value_enum, default_value = "auto")]
    pub iptables: IptablesVariant,
    /// How long to wait for the lock of iptables, in seconds.
    #[arg(long, env = "PORTCULLIS_XTABLES_WAIT", default_value = "10")]
    pub xtables_wait: u32,
}

impl KernelArgs {
    /// What the dataplane needs to know of these; the rest as it is by default.
    #[must_use]
    pub fn dataplane_options(&self) -> Options {
        Options {
            backend: self.backend,
            variant: self.iptables,
            lock_wait_seconds: self.xtables_wait,
            ..Options::default()
        }
    }
}
