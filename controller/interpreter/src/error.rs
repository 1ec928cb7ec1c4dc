//! What the interpreter refuses: one error for text, one for judging.

use crate::packet::Family;

/// A line that the interpreter does not understand or the kernel would refuse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{text}`")]
pub struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// The line as it was read.
    pub text: String,
    /// What is wrong with it.
    #[source]
    pub problem: Problem,
}

/// What is wrong with a line.
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
        /// What the word stands for.
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
    /// A `!` stands before something that cannot be inverted.
    #[error("`{0}` cannot be inverted")]
    Inverted(String),
    /// Something needs something else in the same place, as `-m tcp` needs `-p tcp`.
    #[error("{what} needs {needs}")]
    Needs {
        /// What stands on the line.
        what: String,
        /// What it needs.
        needs: &'static str,
    },
    /// A chain, set, element or option comes a second time.
    #[error("{what} `{name}` is there already")]
    Duplicate {
        /// What comes twice.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// A chain, set or element that is named does not exist.
    #[error("no {what} `{name}`")]
    Absent {
        /// What is missing.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// More than the kernel or the command line tool takes.
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
    /// An address of the other family.
    #[error("`{0}` is an address of the other family")]
    OtherFamily(String),
}

/// Why a packet could not be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// There is no such chain to begin with.
    #[error("no chain `{0}`")]
    NoChain(String),
    /// The packet's addresses are of two families, or its transport cannot be in that family.
    #[error("the packet's source, destination and transport are not of one family")]
    MixedPacket,
    /// A rule asks something that has no answer.
    #[error("failed to evaluate rule {rule} of chain {chain}: `{text}`")]
    Rule {
        /// The chain.
        chain: String,
        /// The rule, counted from 1.
        rule: usize,
        /// The rule's text.
        text: String,
        /// Why.
        #[source]
        reason: Unanswerable,
    },
}

/// Why a match has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unanswerable {
    /// The rule compares with an address of the other family; such text cannot be loaded.
    #[error("the packet is {0}, the rule's address is not")]
    AddressFamily(Family),
    /// No set has this name.
    #[error("no set `{0}`")]
    NoSet(String),
    /// The kernel answers "no" to every packet, which a rule can hardly mean.
    #[error("set `{set}` holds addresses of the other family than the {packet} packet")]
    SetFamily {
        /// The set.
        set: String,
        /// The packet's family.
        packet: Family,
    },
    /// The kernel answers "no" to every packet when there are fewer directions than dimensions.
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
