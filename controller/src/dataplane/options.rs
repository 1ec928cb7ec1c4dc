//! What a user can choose about enforcement. Values only.

/// How to enforce.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Which iptables holds our chains.
    pub variant: IptablesVariant,
    /// What happens to packets that no rule allows.
    pub deny: DenyAction,
    /// What happens to packets that are allowed.
    pub accept: AcceptAction,
    /// Whether pods reach their own node whatever their egress policy says: no hook in INPUT.
    pub allow_egress_to_own_node: bool,
    /// How long a tool waits for the xtables lock, in seconds.
    pub lock_wait_seconds: u32,
    /// The capacity that sets start with; they are replaced by bigger ones as they fill.
    pub initial_maxelem: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            variant: IptablesVariant::Auto,
            deny: DenyAction::Drop,
            accept: AcceptAction::Return,
            allow_egress_to_own_node: false,
            lock_wait_seconds: 10,
            initial_maxelem: 65_536,
        }
    }
}

/// Which of the two iptables implementations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IptablesVariant {
    /// Where the cluster's own chains are, else where more rules are, else what `iptables` is.
    Auto,
    /// `iptables-legacy`.
    Legacy,
    /// `iptables-nft`.
    Nft,
}

/// What happens to packets that no rule allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DenyAction {
    /// They vanish.
    Drop,
    /// The sender gets an ICMP port unreachable.
    Reject,
}

/// What happens to packets that are allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcceptAction {
    /// The rules behind ours decide on.
    Return,
    /// Forwarded packets from or to a pod with rules are accepted once both directions passed.
    Accept,
}
