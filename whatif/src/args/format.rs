//! How each subcommand writes its answer.

use clap::ValueEnum;

/// How `check`, `policies`, `exposure`, `status` and `verify` answer.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum CheckFormat {
    /// For people
    #[default]
    Text,
    /// One object: `kind: Verdict`, `Policies`, `Exposure`, `Status` or `Verification`
    Json,
    /// The same as YAML
    Yaml,
}

/// How `who`, `reach` and `map` answer.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum MapFormat {
    /// For people
    #[default]
    Text,
    /// For people, with every name
    Wide,
    /// `kind: Map`
    Json,
    /// `kind: Map`
    Yaml,
    /// One line per entry
    Csv,
    /// A table for a pull request
    Md,
    /// A graph for Graphviz
    Dot,
    /// A graph for Markdown
    Mermaid,
    /// `map` only: one page that works without a network
    Html,
    /// `map` only: a graph of namespaces and workloads as a picture
    Svg,
}

impl MapFormat {
    pub(super) fn is_for_people(self) -> bool {
        matches!(self, Self::Text | Self::Wide)
    }
}

/// How `lint` answers.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum LintFormat {
    /// For people; findings that differ only in the object are one
    #[default]
    Text,
    /// For people, with every finding
    Wide,
    /// `kind: Lint`
    Json,
    /// `kind: Lint`
    Yaml,
    /// SARIF 2.1.0, for code hosts and editors
    Sarif,
    /// Workflow commands of GitHub Actions
    Github,
}

/// How `test` answers.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum TestFormat {
    /// For people
    #[default]
    Text,
    /// `kind: TestReport`
    Json,
    /// `kind: TestReport`
    Yaml,
    /// The Test Anything Protocol, version 14
    Tap,
    /// The XML that CI systems read
    Junit,
}
