//! One rule: what follows `-A CHAIN`.
//!
//! ```text
//! -s 10.0.0.0/8 -p tcp   -m multiport --dports 80,443   -j ACCEPT
//! └── header ──────────┘ └── a match and its options ─┘ └── target and its options
//! ```
//!
//! A match's options follow it directly, as `iptables-save` writes them. A later option of an
//! earlier match is an error here, although the tools accept it.

use crate::error::Problem;
use crate::matches::{Block, Condition, InterfaceName, Question};
use crate::options::Module;
use crate::packet::{Family, Side};
use crate::words::{Words, protocol};

/// The kernel's `XT_EXTENSION_MAXNAMELEN` less its terminator.
pub(crate) const CHAIN_LENGTH_MAX: usize = 28;

/// Conditions that all must hold, and the target for packets that meet them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) conditions: Vec<Condition>,
    pub(crate) target: Target,
    /// The family of the addresses in it, if there are any.
    pub(crate) family: Option<Family>,
}

/// The target of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Count the packet.
    Nothing,
    Accept,
    Drop,
    Reject,
    Return,
    Log {
        prefix: String,
    },
    Mark {
        value: u32,
        mask: u32,
    },
    Jump(String),
    Goto(String),
}

/// A rule of which some words are read.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    header: Vec<Condition>,
    pub(crate) matches: Vec<Condition>,
    pub(crate) target: Option<Target>,
    family: Option<Family>,
    protocol: Option<(u8, bool)>,
    module: Option<Module>,
    header_options: Vec<String>,
    module_options: Vec<String>,
}

impl Rule {
    /// Reads the words after `-A CHAIN`.
    pub(crate) fn read(words: &mut Words) -> Result<Self, Problem> {
        let mut draft = Draft::default();
        while let Some(word) = words.next() {
            let negated = word == "!";
            let option = if negated { words.take("an option after `!`")? } else { word };
            draft.option(&option, negated, words)?;
        }
        draft.close()?;
        let Draft { mut header, matches, target, family, .. } = draft;
        header.extend(matches);
        Ok(Self { conditions: header, target: target.unwrap_or(Target::Nothing), family })
    }
}

impl Draft {
    fn option(&mut self, option: &str, negated: bool, words: &mut Words) -> Result<(), Problem> {
        match option {
            "-s" => self.address(option, negated, Side::Source, words),
            "-d" => self.address(option, negated, Side::Destination, words),
            "-i" => self.interface(option, negated, Side::Source, words),
            "-o" => self.interface(option, negated, Side::Destination, words),
            "-p" => self.protocol(negated, words),
            "-m" => {
                refuse_inverted(option, negated)?;
                let module = Module::named(&words.take("the match's name")?)?;
                self.open(module)?;
                module.begin(self)
            }
            "-j" => {
                refuse_inverted(option, negated)?;
                self.once("-j or -g")?;
                let name = words.take("the target's name")?;
                let (target, module) = Module::of_target(&name)?;
                self.target = Some(target);
                module.map_or(Ok(()), |module| self.open(module))
            }
            "-g" => {
                refuse_inverted(option, negated)?;
                self.once("-j or -g")?;
                self.target = Some(Target::Goto(words.take("the chain's name")?));
                Ok(())
            }
            _ => self.module_option(option, negated, words),
        }
    }

    fn module_option(
        &mut self,
        option: &str,
        negated: bool,
        words: &mut Words,
    ) -> Result<(), Problem> {
        let unknown = || Problem::Unknown { what: "option", word: option.to_owned() };
        let module = self.module.ok_or_else(unknown)?;
        note(&mut self.module_options, option)?;
        if negated && !module.inverts() {
            return Err(Problem::Inverted(option.to_owned()));
        }
        module.read(self, option, negated, words)
    }

    fn address(
        &mut self,
        option: &str,
        negated: bool,
        side: Side,
        words: &mut Words,
    ) -> Result<(), Problem> {
        self.once(option)?;
        let word = words.take("an address")?;
        let block = Block::parse(&word)?;
        if self.family.is_some_and(|family| family != block.family) {
            return Err(Problem::OtherFamily(word));
        }
        self.family = Some(block.family);
        self.header.push(Condition { negated, question: Question::Address { side, block } });
        Ok(())
    }

    fn interface(
        &mut self,
        option: &str,
        negated: bool,
        side: Side,
        words: &mut Words,
    ) -> Result<(), Problem> {
        self.once(option)?;
        let name = InterfaceName::parse(words.take("an interface")?)?;
        self.header.push(Condition { negated, question: Question::Interface { side, name } });
        Ok(())
    }

    fn protocol(&mut self, negated: bool, words: &mut Words) -> Result<(), Problem> {
        self.once("-p")?;
        let word = words.take("a protocol")?;
        if word == "all" || word == "0" {
            return refuse_inverted("-p", negated);
        }
        let number = protocol(&word)?;
        self.protocol = Some((number, negated));
        self.header.push(Condition { negated, question: Question::Protocol(number) });
        match Module::of_protocol(number) {
            Some(module) if !negated => self.open(module),
            _ => Ok(()),
        }
    }

    /// Whether the rule applies to one of these protocols only.
    pub(crate) fn is_about(&self, protocols: &[u8]) -> bool {
        self.protocol.is_some_and(|(number, negated)| !negated && protocols.contains(&number))
    }

    fn open(&mut self, module: Module) -> Result<(), Problem> {
        self.close()?;
        self.module_options.clear();
        self.module = Some(module);
        Ok(())
    }

    fn close(&self) -> Result<(), Problem> {
        match self.module.and_then(Module::must_have) {
            Some(needs) if self.module_options.is_empty() => {
                Err(Problem::Needs { what: "a match".to_owned(), needs })
            }
            _ => Ok(()),
        }
    }

    fn once(&mut self, option: &str) -> Result<(), Problem> {
        note(&mut self.header_options, option)
    }
}

fn note(seen: &mut Vec<String>, option: &str) -> Result<(), Problem> {
    if seen.iter().any(|seen| seen == option) {
        return Err(Problem::Duplicate { what: "option", name: option.to_owned() });
    }
    seen.push(option.to_owned());
    Ok(())
}

fn refuse_inverted(option: &str, negated: bool) -> Result<(), Problem> {
    if negated { Err(Problem::Inverted(option.to_owned())) } else { Ok(()) }
}
