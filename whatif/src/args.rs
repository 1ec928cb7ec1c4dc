//! The command line. Everything here is a plain value: nothing is opened or asked yet.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args as ClapArgs, ColorChoice, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use policy_engine::words;
use portcullis_lint::Code;

mod agents;
mod denials;
mod format;
mod plan;
mod side;
mod source;
mod status;
mod suggest;
mod ui;

pub use agents::{AgentFormat, Inspect, Trace, TraceProtocol, Verify};
pub use denials::{Denials, DenialsFormat};
pub use format::{CheckFormat, LintFormat, MapFormat, TestFormat};
pub use plan::{Danger, Plan, PlanBy, PlanFormat};
pub use side::Side;
pub use source::SourceArgs;
pub use status::{Status, WaitFor};
pub use suggest::{Suggest, SuggestFormat};
pub use ui::Ui;

/// The version of this program, and the commit that it was built from if the build named it: `make release` does.
static VERSION: LazyLock<String> =
    LazyLock::new(|| words::version(env!("CARGO_PKG_VERSION"), option_env!("PORTCULLIS_COMMIT")));

/// Ask before you apply, and learn why a connection fails.
#[derive(Parser, Debug)]
#[command(name = "kubectl-whatif", bin_name = "kubectl whatif", version = VERSION.as_str(), about)]
#[command(
    after_help = "Exit codes: 0 yes or nothing to tell, 1 no, 2 the tool failed, 3 mixed or \
                        undetermined."
)]
pub struct Args {
    /// What is asked.
    #[command(subcommand)]
    pub command: Command,
    /// Use colors; `auto` uses them on a terminal, unless the environment variable `NO_COLOR` is set
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub color: ColorChoice,
}

/// The subcommands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// May SRC open a connection to DST? One verdict, and why
    #[command(after_help = ENDPOINTS)]
    Check(Check),
    /// Who can reach DST
    #[command(after_help = ENDPOINTS)]
    Who(Who),
    /// What SRC can reach
    #[command(after_help = ENDPOINTS)]
    Reach(Reach),
    /// Which policies apply to a pod, in the order in which they are evaluated, and their rules
    #[command(after_help = ENDPOINTS)]
    Policies(PoliciesOf),
    /// All reachability, grouped by what policies treat alike
    Map(Map),
    /// What in the manifests is probably a mistake
    #[command(after_help = LINT)]
    Lint(Lint),
    /// Hold what test files state against the cluster; for CI
    #[command(after_help = ENDPOINTS)]
    Test(Test),
    /// Write what the source holds to a file that -f reads, without anything that answers do not need
    Snapshot(Snapshot),
    /// What --with and --without, or --before and --after, change, and which object does it
    #[command(after_help = plan::HELP)]
    Plan(Plan),
    /// On which nodes policies are applied, and which nodes lag; of a live cluster
    #[command(after_help = status::HELP)]
    Status(Status),
    /// What the agents of a live cluster denied, and by which policies
    #[command(after_help = denials::HELP)]
    Denials(Denials),
    /// A live page for a browser on this machine: what is applied where, denials, the map
    #[command(after_help = ui::HELP)]
    Ui(Ui),
    /// What policies allow to and from pods that do not exist yet
    #[command(after_help = ENDPOINTS)]
    Exposure(Exposure),
    /// What is enforced for a pod, and whether the kernel of its node holds it; of a live cluster
    #[command(after_help = agents::HELP)]
    Inspect(Inspect),
    /// Which rule in the kernel decides about a connection; of a live cluster
    #[command(after_help = agents::TRACE)]
    Trace(Trace),
    /// Whether each node enforces what the API objects say, and its kernel holds it; of a live cluster
    #[command(after_help = agents::HELP)]
    Verify(Verify),
    /// The least NetworkPolicies that allow given connections
    #[command(after_help = suggest::HELP)]
    Suggest(Suggest),
    /// The JSON Schema of an output
    Schema {
        /// The `kind` of the output
        #[arg(ignore_case = true)]
        kind: SchemaKind,
    },
    /// A completion script for a shell, or for `kubectl` itself
    #[command(after_help = COMPLETION)]
    Completion {
        /// The shell, or `kubectl` for the script `kubectl_complete-whatif`
        shell: CompletionFor,
    },
    /// What `kubectl_complete-whatif` asks: words that may follow
    #[command(hide = true, disable_help_flag = true)]
    CompleteForKubectl {
        /// The words so far, the last one unfinished
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

impl Command {
    /// Whether the answer is text for people, which may be colored and wrapped to a terminal.
    #[must_use]
    pub fn is_for_people(&self) -> bool {
        match self {
            Self::Check(args) => args.output == CheckFormat::Text,
            Self::Policies(args) => args.output == CheckFormat::Text,
            Self::Exposure(args) => args.output == CheckFormat::Text,
            Self::Status(args) => args.output == CheckFormat::Text,
            Self::Who(args) => args.list.output.is_for_people(),
            Self::Reach(args) => args.list.output.is_for_people(),
            Self::Map(args) => args.list.output.is_for_people(),
            Self::Lint(args) => matches!(args.output, LintFormat::Text | LintFormat::Wide),
            Self::Test(args) => args.output == TestFormat::Text,
            Self::Plan(args) => matches!(args.output, PlanFormat::Text | PlanFormat::Wide),
            _ => false,
        }
    }
}

const ENDPOINTS: &str = "\
An endpoint is [NAMESPACE/][KIND/]NAME[:PORT[/PROTOCOL]] with KIND pod, deploy, sts, ds, rs, job,
cronjob, svc; or NAME.NAMESPACE.svc, apiserver, node/NAME, an IP address or CIDR ([fd00::1]:80/tcp
with a port), NAMESPACE/*, external (every address that no pod and no node has).";

const LINT: &str = "\
Exit codes: 0 nothing found that fails, 1 something, 2 the tool failed. docs/lint.md explains each
code.";

const COMPLETION: &str = "\
  source <(kubectl whatif completion bash)
  kubectl whatif completion kubectl > ~/.local/bin/kubectl_complete-whatif && chmod +x $_";

/// `check`.
#[derive(ClapArgs, Debug)]
pub struct Check {
    /// Who connects
    #[arg(value_name = "SRC")]
    pub source: String,
    /// Who is asked; without a port, every allowed port is told
    #[arg(value_name = "DST", required_unless_present = "to_service")]
    pub destination: Option<String>,
    /// Ask for the pods behind a Service, in place of DST
    #[arg(long, value_name = "NAME.NAMESPACE.svc[:PORT]", conflicts_with = "destination")]
    pub to_service: Option<String>,
    /// Every rule that did not allow it, and the lines of the manifest
    #[arg(long)]
    pub explain: bool,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CheckFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// `who`.
#[derive(ClapArgs, Debug)]
pub struct Who {
    /// Who is asked
    #[arg(value_name = "DST")]
    pub destination: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub list: ListArgs,
}

/// `reach`.
#[derive(ClapArgs, Debug)]
pub struct Reach {
    /// Who connects
    #[arg(value_name = "SRC")]
    pub source: String,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub list: ListArgs,
}

/// `policies`.
#[derive(ClapArgs, Debug)]
pub struct PoliciesOf {
    /// A pod, or a workload, a Service or a namespace for all of its pods
    #[arg(value_name = "POD")]
    pub pod: String,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CheckFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// `exposure`.
#[derive(ClapArgs, Debug)]
pub struct Exposure {
    /// A pod, a workload, a Service or NAMESPACE/*; without it, all pods
    #[arg(value_name = "PODS")]
    pub pods: Option<String>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: CheckFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// `map`.
#[derive(ClapArgs, Debug)]
pub struct Map {
    #[allow(missing_docs)]
    #[command(flatten)]
    pub list: ListArgs,
}

/// `lint`.
#[derive(ClapArgs, Debug)]
pub struct Lint {
    /// Exit with 1 when there is a finding of this severity, or a worse one
    #[arg(long, value_enum, default_value_t)]
    pub fail_on: FailOn,
    /// Leave out findings with this code, as PCL103 or no-policy
    #[arg(long, value_name = "CODE", value_delimiter = ',')]
    pub disable: Vec<Code>,
    /// Leave out findings that a report from earlier has, written with -o json
    #[arg(long, value_name = "FILE")]
    pub baseline: Option<PathBuf>,
    /// Print what the documentation says about a code, and read nothing
    #[arg(long, value_name = "CODE")]
    pub explain: Option<Code>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: LintFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// `snapshot`.
#[derive(ClapArgs, Debug)]
pub struct Snapshot {
    /// Where it is written, JSON that is YAML too; `-` for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// Which findings make `lint` fail.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[allow(missing_docs)]
pub enum FailOn {
    Error,
    #[default]
    Warning,
    Note,
    Never,
}

/// `test`.
#[derive(ClapArgs, Debug)]
pub struct Test {
    /// Files of `kind: PolicyTest`, or `-`
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Stop after the first test that fails
    #[arg(long)]
    pub fail_fast: bool,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: TestFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// What `who`, `reach` and `map` have in common.
#[derive(ClapArgs, Debug)]
pub struct ListArgs {
    /// What one entry stands for; workload, but groups of pods that are treated alike in JSON and YAML
    #[arg(long, value_enum)]
    pub by: Option<By>,
    /// How the answer is written
    #[arg(short, long, value_enum, default_value_t)]
    pub output: MapFormat,
    #[allow(missing_docs)]
    #[command(flatten)]
    pub from: SourceArgs,
}

/// What one entry of a map stands for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum By {
    /// A pod; a workload that does not run yet stands for itself
    Pod,
    /// A workload; one whose pods are treated differently is told pod by pod
    #[default]
    Workload,
    /// A namespace: what some pod of one may open at some pod of the other
    Namespace,
}

/// The outputs that have a schema.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum SchemaKind {
    /// What `check` answers
    Verdict,
    /// What `map`, `who` and `reach` answer
    Map,
    /// What `policies` answers
    Policies,
    /// What `lint` answers
    Lint,
    /// What `test` answers
    TestReport,
    /// What `plan` answers
    Plan,
    /// What `exposure` answers
    Exposure,
    /// What `status` answers
    Status,
    /// What `verify` answers
    Verification,
    /// A line of `denials`
    Denial,
    /// What `suggest` answers
    Suggestion,
}

/// Whom a completion script is for.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum CompletionFor {
    Bash,
    Elvish,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
    /// The script that kubectl calls to complete `kubectl whatif`
    Kubectl,
}

impl CompletionFor {
    /// The shell; `None` for kubectl.
    #[must_use]
    pub fn shell(self) -> Option<Shell> {
        match self {
            Self::Bash => Some(Shell::Bash),
            Self::Elvish => Some(Shell::Elvish),
            Self::Fish => Some(Shell::Fish),
            Self::PowerShell => Some(Shell::PowerShell),
            Self::Zsh => Some(Shell::Zsh),
            Self::Kubectl => None,
        }
    }
}
