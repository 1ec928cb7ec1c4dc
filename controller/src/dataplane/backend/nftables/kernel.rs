//! Our tables of nftables, over netlink.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use nix::errno::Errno;
use policy_engine::cidr::Family;

use super::message::{Base, Writer};
use super::transaction::{About, Kept, Transaction};
use super::{read, sets};
use crate::dataplane::TableName;
use crate::dataplane::applied::{AppliedSet, Elements, HookPlaces, Table};
use crate::dataplane::backend::{Error, Executed};
use crate::dataplane::denial::{Counts, Reading};
use crate::dataplane::name::{ChainName, SetName};
use crate::dataplane::netlink::attributes::{find, text};
use crate::dataplane::netlink::nftables::{Connection, Message, Refusal};
use crate::dataplane::plan::Plan;
use crate::dataplane::rule::{Chains, Hook};

/// Writes and reads our tables.
#[derive(Default, Debug)]
pub(in crate::dataplane) struct Kernel {
    /// The socket that changes are made by; `None` before the first change, and after a failure.
    connection: Option<Connection>,
}

fn failed(what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Netlink { what, source }
}

pub(super) fn list(request: &Message) -> Result<Vec<Vec<u8>>, Error> {
    let listed = Connection::open().and_then(|mut connection| connection.list(request));
    match listed {
        // The table does not exist.
        Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => Ok(Vec::new()),
        listed => listed.map_err(failed("list nftables")),
    }
}

/// Whether the table of this name is in the list that `request` asks for. It is not if the kernel has no
/// nftables.
pub(super) fn has_table(request: &Message, name: &str) -> Result<bool, Error> {
    match Connection::open().and_then(|mut connection| connection.list(request)) {
        Ok(tables) => Ok(tables.iter().any(|table| find(table, 1).and_then(text) == Some(name))),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(failed("list nftables")(error)),
    }
}

/// Whether the kernel has no such table, or no nftables for it.
fn is_absent(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    errno.is_some_and(|errno| {
        [Errno::ENOENT, Errno::EINVAL, Errno::EOPNOTSUPP, Errno::EAFNOSUPPORT].contains(&errno)
    })
}

impl Kernel {
    /// Reads our chains and hooks of one family.
    pub(in crate::dataplane) fn read_table(
        family: Family,
        desired: &Chains,
    ) -> Result<Table, Error> {
        let mut table = Table::default();
        for writer in [Writer::of(family), Writer::of(family).of_bridge()] {
            let (chains, rules) = (list(&writer.list_chains())?, list(&writer.list_rules(None))?);
            read::chains(&mut table, writer, &chains, &rules, desired);
        }
        Ok(table)
    }

    /// Reads our sets of both families.
    pub(in crate::dataplane) fn read_sets() -> Result<BTreeMap<SetName, AppliedSet>, Error> {
        let mut applied = BTreeMap::new();
        for family in Family::BOTH {
            let writer = Writer::of(family);
            for set in list(&writer.list_sets())? {
                let Some((name, shape)) = read::set(family, &set) else { continue };
                let mut elements = BTreeSet::new();
                if let Some((kind, _)) = shape {
                    let listed = list(&writer.list_elements(&name.to_string()))?;
                    elements =
                        sets::read_elements(kind, listed.iter().flat_map(|it| read::elements(it)));
                }
                let elements = Elements::Read(elements);
                applied.insert(name, AppliedSet { shape, maxelem: u32::MAX, elements });
            }
        }
        Ok(applied)
    }

    /// The positions of those of `hooks` that are missing or wrong.
    pub(in crate::dataplane) fn displaced_hooks(
        family: Family,
        hooks: &[Hook],
    ) -> Result<BTreeMap<Hook, HookPlaces>, Error> {
        let writer = Writer::of(family);
        let chains = list(&writer.list_chains())?;
        let mut found = BTreeMap::new();
        for hook in hooks {
            let rules = list(&writer.list_rules(Some(Base::of(*hook).name)))?;
            let mut table = Table::default();
            read::chains(&mut table, writer, &chains, &rules, &Chains::new());
            found.insert(*hook, table.hooks.remove(hook).unwrap_or_default());
        }
        found.retain(|_, places| *places != HookPlaces::first());
        Ok(found)
    }

    /// Creates these hooks again.
    pub(in crate::dataplane) fn restore_hooks(
        &mut self,
        family: Family,
        hooks: &BTreeMap<Hook, HookPlaces>,
    ) -> Result<(), Error> {
        let transaction = Transaction::of_hooks(family, hooks);
        match self.commit(&transaction)?.first() {
            None => Ok(()),
            Some(refusal) => Err(refused(&transaction, *refusal)),
        }
    }

    /// Whether this backend makes changes by a netlink port.
    pub(in crate::dataplane) fn is_own(&self, port: u32) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.port() == port)
    }

    /// Reads the counters of kinds of denial.
    pub(in crate::dataplane) fn read_denials(families: &[Family]) -> Result<Reading, Error> {
        let mut reading = Reading::new();
        for family in families {
            for writer in [Writer::of(*family), Writer::of(*family).of_bridge()] {
                let counters = list(&writer.list_counters())?;
                for (kind, counts) in counters.iter().filter_map(|it| read::counts(writer, it)) {
                    let sum: &mut Counts = reading.entry((*family, kind)).or_default();
                    sum.packets += counts.packets;
                    sum.bytes += counts.bytes;
                }
            }
        }
        Ok(reading)
    }

    /// Executes `plan`: for each family completely, or not at all.
    pub(in crate::dataplane) fn execute(&mut self, plan: &Plan) -> Executed {
        let mut done = Executed { stages: Executed::STAGES, ..Executed::default() };
        for family in Family::BOTH {
            let mut kept = Kept::new();
            loop {
                let transaction = Transaction::of(plan, family, &kept);
                let refusals = match self.commit(&transaction) {
                    Ok(refusals) => refusals,
                    Err(error) => {
                        done.failed.insert(family, error);
                        break;
                    }
                };
                let about = |(index, errno): &Refusal| {
                    let about = transaction.about.get(*index).copied().unwrap_or(About::Table);
                    (about, *errno)
                };
                let refusals: BTreeMap<About, Errno> = refusals.iter().map(about).collect();
                // Objects that other rules use are not deleted. The rest of the plan is executed.
                let in_use = |(about, errno): (&About, &Errno)| {
                    *errno == Errno::EBUSY
                        && matches!(about, About::EndOfSet(_) | About::EndOfChain(_))
                        && !kept.contains(about)
                };
                if !refusals.is_empty() && refusals.iter().all(in_use) {
                    kept.extend(refusals.into_keys());
                    continue;
                }
                for (about, errno) in refusals {
                    done.refuse(family, about, errno);
                }
                break;
            }
            done.keep(&kept);
        }
        done.is_undone = !done.is_clean();
        done
    }

    /// Whether a table of iptables-nft has chains of ours.
    pub(in crate::dataplane) fn has_chains_of_iptables(
        family: Family,
        table: TableName,
    ) -> Result<bool, Error> {
        // The chains of all tables of the family.
        let chains = list(&Writer::of(family).list_chains())?;
        Ok(chains.iter().any(|chain| {
            let is_own = find(chain, 3).and_then(text).and_then(ChainName::parse).is_some();
            is_own && find(chain, 1).and_then(text) == Some(table.name())
        }))
    }

    /// Removes our table of each family. Returns how many chains these tables had.
    pub(in crate::dataplane) fn remove_tables(&mut self) -> Result<usize, Error> {
        let mut removed = 0;
        for writer in Writer::all() {
            if !has_table(&writer.list_table(), writer.table())? {
                continue;
            }
            let mut table = Table::default();
            read::chains(&mut table, writer, &list(&writer.list_chains())?, &[], &Chains::new());
            self.change(vec![writer.delete_table()])?;
            removed += table.chains.len();
        }
        Ok(removed)
    }

    /// Changes a table as a whole.
    pub(super) fn change(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        let transaction = Transaction::of_table(messages);
        match self.commit(&transaction)?.first() {
            None => Ok(()),
            Some(refusal) => Err(refused(&transaction, *refusal)),
        }
    }

    pub(super) fn commit(&mut self, transaction: &Transaction) -> Result<Vec<Refusal>, Error> {
        if transaction.messages.is_empty() {
            return Ok(Vec::new());
        }
        // Taken out, so that a socket that failed is not used again: its answers may come late.
        let running = self.connection.take().map_or_else(Connection::open, Ok);
        let mut connection = running.map_err(failed("open a netlink socket for nftables"))?;
        let refusals = connection.commit(&transaction.messages);
        let refusals = refusals.map_err(failed("change nftables"))?;
        self.connection = Some(connection);
        Ok(refusals)
    }
}

pub(super) fn refused(transaction: &Transaction, (index, errno): Refusal) -> Error {
    let about = transaction.about.get(index).copied().unwrap_or(About::Table);
    Error::Refused { what: about.to_string(), errno }
}

impl Executed {
    /// Records that a part was refused. After a refused set, rules are written without the set.
    fn refuse(&mut self, family: Family, about: About, errno: Errno) {
        match about {
            About::Set(set) => {
                self.refused.insert(set, errno.to_string().into());
            }
            about => {
                let error = || Error::Refused { what: about.to_string(), errno };
                self.failed.entry(family).or_insert_with(error);
            }
        }
    }

    fn keep(&mut self, kept: &Kept) {
        self.in_use.extend(kept.iter().filter_map(|about| match about {
            About::EndOfSet(set) => Some(*set),
            _ => None,
        }));
    }
}
