//! Opens the dataplane: which backend a node uses, and what its kernel lacks.

use policy_engine::cidr::Family;
use policy_engine::compiled::Compiled;

use super::Dataplane;
use super::attachment::Attachments;
use super::backend::iptables::{self, Variant, probe};
use super::backend::nftables::two_tags;
use super::backend::{Error, Kernel, Place, nftables};
use super::conflict::Conflict;
use super::denial::Totals;
use super::desired::{Desired, Wanted};
use super::examine::Examiner;
use super::feature::Feature;
use super::options::{AcceptAction, Backend, IptablesVariant, Options};
use super::preflight::{self, Facts, FamilyFacts, Finding};
use super::refusals::{Refusals, Retries};
use super::survey;
use super::waiting::Waiting;

/// The backend of a node, and why it is used.
struct Choice {
    place: Place,
    reason: String,
}

impl Dataplane {
    /// Finds the backend. Changes nothing, except for a chain of ours that exists during a probe.
    ///
    /// If the kernel refuses to log, policies are enforced and denials are not logged: see
    /// [`Dataplane::denial_log`].
    ///
    /// Without IPv6 in the kernel, or without ip6tables, only IPv4 is enforced: see
    /// [`Dataplane::families`].
    ///
    /// # Errors
    /// When no backend can be used, or its rules cannot be read.
    pub fn open(mut options: Options) -> Result<Self, Error> {
        let Choice { place, reason } = choose(&options)?;
        let kernel = Kernel::new(place, options.lock_wait_seconds);
        let mut families = vec![Family::V4];
        if probe::has_ipv6() && kernel.installed(Family::V6) {
            families.push(Family::V6);
        }
        match &kernel {
            Kernel::Iptables(kernel) => {
                options.backend = Backend::Iptables;
                probe_iptables(kernel, &families, &mut options);
            }
            Kernel::Nftables(_) => {
                options.backend = Backend::Nftables;
                probe_nftables(&families, &mut options);
            }
        }
        let two_tags = lacks_two_tags(&options);
        lacks(&mut options, two_tags);
        match place {
            Place::Iptables(place) => tracing::info!(
                backend = "iptables", variant = ?place.variant, table = %place.table, reason,
                ?families, "opened the dataplane"
            ),
            Place::Nftables => tracing::info!(
                backend = "nftables",
                table = nftables::TABLE,
                reason,
                ?families,
                "opened the dataplane"
            ),
        }
        let (attachments, refusals) = (Attachments::default(), Refusals::default());
        let wanted = Wanted {
            compiled: &Compiled::default(),
            attachments: &attachments,
            options: &options,
            refusals: &refusals,
        };
        let desired = Desired::new(wanted, &families);
        Ok(Self {
            options,
            kernel,
            reason,
            families,
            attachments,
            attachments_changed: false,
            applied: None,
            desired,
            touched: None,
            changed_since_read: None,
            waiting: Waiting::default(),
            elsewhere_clean: false,
            postponed: false,
            denials: Totals::default(),
            refusals,
            retries: Retries::default(),
            unchanged: None,
            two_tags: None,
        })
    }
}

fn probe_iptables(kernel: &iptables::Kernel, families: &[Family], options: &mut Options) {
    let (log, deny) = (options.denial_log, options.deny);
    let mut refused = None;
    for family in families {
        let saved = probe::own_rules(kernel, *family);
        if let Some(group) = log.filter(|_| refused.is_none()) {
            refused = probe::try_log(kernel, *family, group, deny, &saved).err();
        }
        lacks(options, probe::lacking(kernel, *family, options, &saved));
    }
    if let Some(why) = refused {
        cannot_log(options, &why);
    }
}

fn cannot_log(options: &mut Options, why: &str) {
    tracing::error!(why, "the kernel cannot log denials; they are enforced and counted");
    options.denial_log = None;
}

fn probe_nftables(families: &[Family], options: &mut Options) {
    if options.accept == AcceptAction::Accept {
        tracing::error!(
            "nftables cannot accept packets for rules of others; --accept-action=return is used"
        );
        options.accept = AcceptAction::Return;
    }
    for family in families {
        if let Some(group) = options.denial_log
            && let Err(why) = nftables::try_log(*family, group, options.deny)
        {
            cannot_log(options, &why);
        }
        let lacking = nftables::lacking(*family).into_iter();
        lacks(options, lacking.filter(|(feature, _)| options.needs(*feature)).collect());
    }
}

/// [`Feature::TwoTags`], if the kernel lacks it and `options` need it, with the error.
fn lacks_two_tags(options: &Options) -> Vec<(Feature, String)> {
    if !options.needs(Feature::TwoTags) {
        return Vec::new();
    }
    two_tags::probe().err().map(|why| (Feature::TwoTags, why)).into_iter().collect()
}

/// Records and logs the features that the kernel lacks.
fn lacks(options: &mut Options, lacking: Vec<(Feature, String)>) {
    for (feature, why) in lacking {
        if options.lacking.insert(feature) {
            let (what_is_lost, what_to_do) = (feature.what_is_lost(), feature.what_to_do());
            tracing::error!(?feature, why, "{what_is_lost}; {what_to_do}");
        }
    }
}

/// The backend of this node.
fn choose(options: &Options) -> Result<Choice, Error> {
    let iptables = |variant, reason| {
        let place = iptables::Place { variant, table: options.table() };
        Choice { place: Place::Iptables(place), reason }
    };
    let nftables = |reason| Choice { place: Place::Nftables, reason };
    match options.backend {
        Backend::Iptables => Ok(iptables(variant(options)?, "chosen by --backend".to_owned())),
        Backend::Nftables => Ok(nftables("chosen by --backend".to_owned())),
        Backend::Auto => {
            let variant = match variant(options) {
                Ok(variant) => variant,
                Err(error @ Error::NoIptables) => return Ok(nftables(error.to_string())),
                Err(error) => return Err(error),
            };
            let place = iptables::Place { variant, table: options.table() };
            let kernel = iptables::Kernel::new(place, options.lock_wait_seconds);
            // An agent that restarts finds its rules: then no rule has to be tried or written.
            if !probe::own_rules(&kernel, Family::V4).is_empty() {
                return Ok(iptables(variant, "iptables holds rules of Portcullis".to_owned()));
            }
            if survey::kube_proxy_uses_nftables()
                && probe::is_unused_by_others(options.lock_wait_seconds)
                && nftables::probe(Family::V4).is_ok()
            {
                return Ok(nftables(
                    "kube-proxy runs in nftables mode, and no other program uses iptables"
                        .to_owned(),
                ));
            }
            match probe::try_rules(&kernel, Family::V4) {
                Ok(()) => Ok(iptables(variant, "iptables and ipset work".to_owned())),
                Err(why) => match nftables::probe(Family::V4) {
                    Ok(()) => Ok(nftables(format!("iptables and ipset do not work: {why}"))),
                    // Neither works: the errors of iptables are reported when rules are applied.
                    Err(_) => {
                        Ok(iptables(variant, format!("neither nftables nor iptables works: {why}")))
                    }
                },
            }
        }
    }
}

/// The problems of this node for enforcement, and notes. Changes nothing, except for a chain and a
/// set of ours that exist during the probe.
#[must_use]
pub fn preflight(options: &Options) -> Vec<Finding> {
    let mut facts = match choose(options) {
        Ok(Choice { place: Place::Nftables, reason }) => {
            Facts { reason, ..nftables_facts(options) }
        }
        Ok(Choice { place: Place::Iptables(_), reason }) => {
            Facts { reason, ..probe::facts(variant(options), options) }
        }
        Err(_) => probe::facts(variant(options), options),
    };
    if let Some(family) = facts.families.first_mut() {
        family.lacking.extend(lacks_two_tags(options));
    }
    preflight::judge(&facts)
}

/// The facts for preflight on a node where nftables enforces.
fn nftables_facts(options: &Options) -> Facts {
    let here = Family::BOTH.into_iter().filter(|f| *f == Family::V4 || probe::has_ipv6());
    let families = here.map(|family| {
        let lacking = nftables::lacking(family).into_iter();
        let group = options.denial_log;
        FamilyFacts {
            family,
            forwarding: probe::forwarding(family),
            rules_work: nftables::probe(family),
            log_works: group.map_or(Ok(()), |it| nftables::try_log(family, it, options.deny)),
            lacking: lacking.filter(|(feature, _)| options.needs(*feature)).collect(),
        }
    });
    let families = families.collect();
    let kernel = probe::kernel_facts();
    Facts { command: Some("nftables"), families, is_nftables: true, ..kernel }
}

/// An examiner of this node, for which a dataplane need not be open.
#[must_use]
pub fn examiner(options: &Options, ignored: &[Conflict]) -> Examiner {
    Examiner::new(variant(options).ok(), options.lock_wait_seconds, ignored)
}

fn variant(options: &Options) -> Result<Variant, Error> {
    match options.variant {
        IptablesVariant::Legacy => Ok(Variant::Legacy),
        IptablesVariant::Nft => Ok(Variant::Nft),
        IptablesVariant::Auto => probe::choose_variant(options.lock_wait_seconds),
    }
}
