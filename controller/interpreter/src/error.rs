//! The errors of the interpreter: one for texts, one for packets that cannot be judged.

use crate::packet::Family;

/// A line that the interpreter does not understand or the kernel would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// The line as it was read.
    pub text: String,
    /// The problem of the line.
    #[source]
    pub problem: Problem,
}

/// The problem of a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A quote is not closed, or a backslash ends the line.
    #[error("unfinished quote")]
    UnfinishedQuote,
    /// A word is missing at the end of the line.
    #[error("missing {0}")]
    Missing(&'static str),
    /// A word is not in the language that the interpreter reads.
    #[error("unknown {what} `{word}`")]
    Unknown {
        /// The kind of word that was expected.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A value is not of its kind.
    #[error("`{word}` is not {what}")]
    Bad {
        /// What was expected, with its article.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A `!` precedes an option that cannot be inverted.
    #[error("`{0}` cannot be inverted")]
    Inverted(String),
    /// A part of the line requires another part, as `-m tcp` requires `-p tcp`.
    #[error("{what} needs {needs}")]
    Needs {
        /// The part that is on the line.
        what: String,
        /// The part that it requires.
        needs: &'static str,
    },
    /// A chain, set, element or option is defined a second time.
    #[error("{what} `{name}` is there already")]
    Duplicate {
        /// The kind of the duplicate.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A chain, set or element that is named does not exist.
    #[error("no {what} `{name}`")]
    Absent {
        /// The kind of the missing object.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// More than the kernel or the command line tool accepts.
    #[error("{what} exceeds {limit}")]
    Exceeds {
        /// What is too long, too many or too deep.
        what: String,
        /// The most that is accepted.
        limit: usize,
    },
    /// A chain leads back to itself.
    #[error("chain `{0}` leads back to itself")]
    Loop(String),
    /// An address of the wrong family.
    #[error("`{0}` is an address of the other family")]
    OtherFamily(String),
}

/// Why a packet could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// The chain to begin with does not exist.
    #[error("no chain `{0}`")]
    NoChain(String),
    /// The packet's addresses are of two families, or its transport cannot be in that family.
    #[error("the packet's source, destination and transport are not of one family")]
    MixedPacket,
    /// A match of a rule cannot be evaluated for the packet.
    #[error("failed to evaluate rule {rule} of chain {chain}: `{text}`")]
    Rule {
        /// The chain.
        chain: String,
        /// The rule, counted from 1.
        rule: usize,
        /// The rule's text.
        text: String,
        /// Why the match cannot be evaluated.
        #[source]
        reason: Unanswerable,
    },
}

/// Why a match cannot be evaluated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// The rule compares with an address of the wrong family; the kernel would not load it.
    #[error("the packet is {0}, the rule's address is not")]
    AddressFamily(Family),
    /// No set has this name.
    #[error("no set `{0}`")]
    NoSet(String),
    /// The set has addresses of the wrong family: in the kernel, the rule would match no packet.
    #[error("set `{set}` holds addresses of the other family than the {packet} packet")]
    SetFamily {
        /// The set.
        set: String,
        /// The packet's family.
        packet: Family,
    },
    /// The rule has fewer directions than the set has dimensions: in the kernel, it would match no
    /// packet.
    #[error("set `{set}` has {dimensions} dimensions, the rule names {given} directions")]
    Dimensions {
        /// The set.
        set: String,
        /// How many dimensions its type has.
        dimensions: usize,
        /// How many directions the rule names.
        given: usize,
    },
}
