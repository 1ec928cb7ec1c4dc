//! The first ten minutes of docs/install.md, and docs/troubleshooting.md, typed as they are written there.
//!
//! The commands of their `console` blocks run one after the other in one shell, and what they print
//! must be what the page shows. `…` stands for any text in a line, and alone in a line for any
//! lines; runs of digits are equal to each other, as are runs of blanks.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portcullis_cluster::Cluster;
use portcullis_tests::cluster::kubectl_whatif;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
const SECTION: &str = "\n## The first ten minutes\n";
/// Between the outputs of two commands.
const MARK: &str = "---- end of command ----";

/// A command of the page and what it prints there.
struct Step {
    command: String,
    output: Vec<String>,
}

pub(crate) fn first_ten_minutes(cluster: &Cluster) -> Result<()> {
    let page = read("docs/install.md")?;
    let (_, section) = page.split_once(SECTION).context("docs/install.md lacks the section")?;
    let mut steps = steps(section.split("\n## ").next().unwrap_or_default())?;
    // The cluster is there already, and another one's place is not this one's.
    steps.retain(|step| !["make ", "export "].iter().any(|word| step.command.starts_with(word)));
    ensure!(steps.len() > 10, "the page has {} commands only", steps.len());
    wait_until_pods_of_other_tests_are_gone(cluster)?;
    type_all(cluster, &steps)
}

/// The page shows outputs of the shop of the first ten minutes, under its policies.
pub(crate) fn troubleshooting(cluster: &Cluster) -> Result<()> {
    let steps = steps(&read("docs/troubleshooting.md")?)?;
    ensure!(steps.len() > 10, "the page has {} commands only", steps.len());
    wait_until_pods_of_other_tests_are_gone(cluster)?;
    let example = |name: &str| format!("{ROOT}/examples/first-ten-minutes/{name}.yaml");
    let (shop, policies) = (example("shop"), example("web-to-api"));
    cluster.kubectl(&["apply", "-f", &shop])?;
    cluster.kubectl(&["-n", "shop", "rollout", "status", "deployment"])?;
    cluster.kubectl(&["apply", "-f", &policies])?;
    let typed = type_all(cluster, &steps);
    cluster.kubectl(&["delete", "-f", &shop])?;
    typed
}

fn read(page: &str) -> Result<String> {
    Ok(std::fs::read_to_string(PathBuf::from(ROOT).join(page))?)
}

/// Types the commands into one shell, and compares what they print.
fn type_all(cluster: &Cluster, steps: &[Step]) -> Result<()> {
    let mut script = String::new();
    for step in steps {
        // A person does not type faster, and kube-proxy takes a second to learn of a Service.
        writeln!(script, "sleep 1\n{{ {}\n}} 2>&1\necho '{MARK}'", step.command)?;
    }
    let plugin = kubectl_whatif()?;
    let plugin = plugin.parent().context("a program lies in a directory")?;
    let path = std::env::var("PATH")?;
    let path = format!("{}:{}:{path}", cluster.binaries().display(), plugin.display());
    let mut shell = Command::new("bash")
        .current_dir(ROOT)
        .env("KUBECONFIG", cluster.kubeconfig())
        .env("PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    shell.stdin.take().context("standard input is piped")?.write_all(script.as_bytes())?;
    let output = shell.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    let printed: Vec<&str> = text.split(&format!("{MARK}\n")).collect();
    ensure!(printed.len() == steps.len() + 1, "the shell ended early:\n{text}");
    for (step, printed) in steps.iter().zip(printed) {
        let printed: Vec<&str> = printed.lines().collect();
        let expected: Vec<&str> = step.output.iter().map(String::as_str).collect();
        ensure!(
            lines_match(&expected, &printed),
            "$ {}\n--- the page\n{}\n--- printed\n{}",
            step.command,
            expected.join("\n"),
            printed.join("\n")
        );
    }
    Ok(())
}

/// They would be part of the answers of `kubectl whatif`.
fn wait_until_pods_of_other_tests_are_gone(cluster: &Cluster) -> Result<()> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let others = [
        "get",
        "pods",
        "-A",
        "-o",
        "name",
        "--field-selector=metadata.namespace!=portcullis-system",
    ];
    loop {
        let pods = cluster.kubectl(&others)?;
        if pods.trim().is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "still there: {pods}");
        thread::sleep(Duration::from_millis(200));
    }
}

/// The commands in the blocks of a page. A command begins with `$ ` and goes on in the next line
/// after a backslash.
fn steps(page: &str) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    // Blocks in lists are indented.
    for line in page.lines().map(str::trim_start) {
        if line.starts_with("```") {
            inside = line == "```console";
            continue;
        }
        let last = steps.last_mut();
        match (inside, line.strip_prefix("$ "), last) {
            (false, ..) => {}
            (true, Some(command), _) => {
                steps.push(Step { command: command.to_owned(), output: Vec::new() });
            }
            (true, None, Some(step)) if step.command.ends_with('\\') => {
                step.command.truncate(step.command.len() - 1);
                step.command.push_str(line.trim_start());
            }
            (true, None, Some(step)) => step.output.push(line.to_owned()),
            (true, None, None) => ensure!(line.is_empty(), "output before any command: {line}"),
        }
    }
    Ok(steps)
}

fn lines_match(expected: &[&str], printed: &[&str]) -> bool {
    match expected.split_first() {
        None => printed.is_empty(),
        Some((&"…", rest)) => {
            (0..=printed.len()).any(|skipped| lines_match(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed.split_first().is_some_and(|(first, printed)| {
            text_matches(&normal(line), &normal(first)) && lines_match(rest, printed)
        }),
    }
}

/// Whether `text` is `pattern`, in which `…` stands for anything.
fn text_matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

/// A line in which each run of digits is a 0 and each run of blanks one blank.
fn normal(line: &str) -> String {
    let mut normal = String::new();
    for character in line.trim().chars() {
        let character = match character {
            '0'..='9' => '0',
            blank if blank.is_whitespace() => ' ',
            other => other,
        };
        if !(matches!(character, '0' | ' ') && normal.ends_with(character)) {
            normal.push(character);
        }
    }
    normal
}
