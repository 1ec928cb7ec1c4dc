//! `portcullis inspect`, `trace` and `verify`: commands that ask the running agent of the node for
//! its desired rules, and compare them with the rules in the kernel. They change nothing.
//!
//! ```text
//! agent ─ socket ─► desired rules and sets ──┐
//! iptables-save, ipset save ─► applied rules ┴─► compare, trace ─► text or JSON
//! nft -j list ────────────────────┘
//! ```
//!
//! `trace` judges a packet by the text of the kernel's rules with `portcullis_interpreter`, which
//! shares no code with the rendering of rules.

mod compare;
mod nftables;
mod pod;
mod trace;
mod verify;

use std::error::Error as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use policy_engine::cidr::Family;
use portcullis_crds::api::inspection::NodeFacts;
use portcullis_interpreter::{ParseError, Tables};
use serde::Serialize;

pub use self::pod::run as pod;
pub use self::trace::run as trace;
pub use self::verify::run as verify;

use crate::args::{OutputFormat, SocketArgs};
use crate::dataplane::TableName;
use crate::dataplane::backend::iptables::{Place, Variant};
use crate::dataplane::drift::DisplacedHook;
use crate::dataplane::kernel_text::{KernelText, TableText};
use crate::node::answers::socket;
use crate::node::answers::{Answer, Question};

/// The exit code when the answer is yes, or nothing differs.
const YES: u8 = 0;
/// The exit code when the answer is no, or something differs.
const NO: u8 = 1;

/// The facts of this node's agent, and access to the rules and sets in the kernel.
struct Node<'a> {
    args: &'a SocketArgs,
    facts: NodeFacts,
    table: TableName,
    kernel: KernelText,
}

impl<'a> Node<'a> {
    /// Asks the agent which backend and table it uses.
    fn find(args: &'a SocketArgs) -> Result<Self> {
        let Answer::Node(facts) = socket::ask(&args.lock_dir, &Question::Node)? else {
            bail!(OTHER_VERSION);
        };
        let table = TableName::ALL.into_iter().find(|table| table.name() == facts.table);
        let table = table.context(OTHER_VERSION)?;
        let iptables = |variant| KernelText::new(Place { variant, table }, args.xtables_wait);
        let kernel = match facts.variant.as_str() {
            "legacy" => iptables(Variant::Legacy),
            "nft" => iptables(Variant::Nft),
            "nftables" => KernelText::nftables(),
            _ => bail!(OTHER_VERSION),
        };
        Ok(Self { args, facts: *facts, table, kernel })
    }

    fn ask(&self, question: &Question) -> Result<Answer> {
        socket::ask(&self.args.lock_dir, question)
    }

    /// The IP families for which policies are enforced.
    fn families(&self) -> impl Iterator<Item = Family> {
        let names = &self.facts.families;
        Family::BOTH.into_iter().filter(|family| names.iter().any(|name| name == family.as_str()))
    }

    /// Reads the table of one family.
    fn table(&self, family: Family) -> Result<TableText> {
        let table = self.kernel.table(family);
        let mut table =
            table.with_context(|| format!("failed to read the {} rules", family.as_str()))?;
        if !table.listings.is_empty() {
            table.chains = nftables::chains(&tables(Tables::parse_nftables(&table.listings))?);
        }
        Ok(table)
    }

    /// The displaced hooks: jumps to the agent's chains that are missing or not in the first place.
    fn displaced(&self, family: Family, table: &TableText) -> Vec<DisplacedHook> {
        let hooks = table.hooks_of_own_chains();
        let name = self.table;
        let displaced = hooks.filter(|(_, places)| !places.is_first());
        displaced
            .map(|(hook, places)| DisplacedHook { family, table: name, hook, places })
            .collect()
    }

    /// A note for users if the agent has not applied all changes yet.
    fn note(&self) -> Option<String> {
        (!self.facts.is_applied).then(|| {
            format!(
                "the agent of {} has not applied all changes: the kernel may differ from them",
                self.facts.node
            )
        })
    }
}

/// The tables that the interpreter parsed, or an error with the rule that it cannot parse.
fn tables(read: Result<Tables, ParseError>) -> Result<Tables> {
    read.map_err(|error| {
        let problem = error.source().map(ToString::to_string).unwrap_or_default();
        anyhow::anyhow!("the kernel has a rule that cannot be read: {error}: {problem}")
    })
}

/// The error for an agent whose answers this program cannot parse.
const OTHER_VERSION: &str = "the agent answers in an unknown way: it is of another version";

/// Writes an answer to standard output, and returns `code` as the exit code.
fn write<T: Serialize>(
    format: OutputFormat,
    answer: &T,
    text: impl FnOnce(&T) -> String,
    code: u8,
) -> Result<ExitCode> {
    let text = match format {
        OutputFormat::Text => text(answer),
        OutputFormat::Json => serde_json::to_string(answer)? + "\n",
    };
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::from(code))
}
