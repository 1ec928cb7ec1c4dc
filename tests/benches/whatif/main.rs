//! What questions about clusters of different shapes and sizes cost, from the file to the last byte of
//! the answer: CPU seconds, memory and bytes, and the exponent with which CPU seconds grow.
//!
//! `cargo bench -p portcullis-tests --bench whatif`; with `-- PATH` another `kubectl-whatif` is measured.

mod shapes;

use std::env;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use portcullis_whatif::args::Args;
use portcullis_whatif::command;

use self::shapes::{Shape, for_one_namespace, one_namespace};

const PODS: [u32; 4] = [500, 2_000, 10_000, 50_000];

/// Where a process of this program measures one command.
const MEASURE: &str = "--measure";

/// CPU seconds beyond which a command is not run on larger clusters.
const PATIENCE: f64 = 60.0;

/// What one command cost.
struct Cost {
    cpu: f64,
    megabytes: i64,
    bytes: u64,
}

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    match args.as_slice() {
        [measure, program, words @ ..] if measure == MEASURE => measured(program, words),
        [] => tables("-"),
        [program] => tables(program),
        more => anyhow::bail!("one program at most: {more:?}"),
    }
}

fn tables(program: &str) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = |name: &str, text: String| -> Result<PathBuf> {
        let path = directory.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path)
    };
    let change = file("change.json", Shape::change(20))?;
    for shape in Shape::ALL {
        let name = |pods| format!("{}-{pods}.json", shape.name());
        let files: Vec<PathBuf> = PODS
            .iter()
            .map(|pods| file(&name(pods), shape.cluster(*pods)))
            .collect::<Result<_>>()?;
        for question in questions(shape, &change) {
            let runs = PODS.iter().zip(&files).map(|(pods, path)| (*pods, question.clone(), path));
            row(program, &format!("{} `{}`", shape.name(), question.join(" ")), runs)?;
        }
        files.iter().try_for_each(std::fs::remove_file)?;
    }
    let cluster = Shape::Microservices.cluster(50_000);
    let cluster = file("microservices.json", cluster)?;
    let with = |kind: &str, number: u32, text: String| -> Result<(u32, Vec<String>)> {
        let path = file(&format!("{kind}-{number}.json"), text)?;
        Ok((number, vec!["plan".to_owned(), "--with".to_owned(), path.display().to_string()]))
    };
    let changes: Vec<_> = [100, 500, 2_000]
        .into_iter()
        .map(|number| with("objects", number, Shape::change(number)))
        .collect::<Result<_>>()?;
    let runs = changes.into_iter().map(|(number, words)| (number, words, &cluster));
    row(program, "changed policies in 50,000 pods: `plan`", runs)?;
    let shop = file("shop.json", one_namespace(50))?;
    let changes: Vec<_> = [25, 50, 100]
        .into_iter()
        .map(|number| with("policies", number, for_one_namespace(number, 50)))
        .collect::<Result<_>>()?;
    let runs = changes.into_iter().map(|(number, words)| (number, words, &shop));
    row(program, "policies for 50 apps of one namespace: `plan`", runs)
}

/// The commands that are measured.
fn questions(shape: Shape, change: &Path) -> Vec<Vec<String>> {
    let (from, to) = match shape {
        Shape::Microservices => ("ns-1/deploy/app-1", "ns-2/deploy/app-2"),
        _ => ("ns-1/pod-1", "ns-2/pod-2"),
    };
    let change = change.display().to_string();
    let all: [&[&str]; 6] = [
        &["map"],
        &["map", "-o", "json"],
        &["who", to],
        &["check", from, to],
        &["lint"],
        &["plan", "--with", &change],
    ];
    all.into_iter().map(|words| words.iter().map(ToString::to_string).collect()).collect()
}

/// One row of the table: the command at each size, and the exponent between the last two.
fn row<'f>(
    program: &str,
    name: &str,
    runs: impl Iterator<Item = (u32, Vec<String>, &'f PathBuf)>,
) -> Result<()> {
    let mut costs: Vec<(u32, Cost)> = Vec::new();
    let mut out = io::stdout();
    write!(out, "{}", name.replace(&*env::temp_dir().display().to_string(), ""))?;
    for (size, words, path) in runs {
        if costs.last().is_some_and(|(_, cost)| cost.cpu > PATIENCE) {
            break;
        }
        let cost = cost(program, &words, path)?;
        let Cost { cpu, megabytes, bytes } = &cost;
        write!(out, " | {size}: {cpu:.2} s, {megabytes} MB, {bytes} bytes")?;
        out.flush()?;
        costs.push((size, cost));
    }
    if let [.., (small, before), (large, after)] = costs.as_slice() {
        let exponent = (after.cpu / before.cpu).ln() / (f64::from(*large) / f64::from(*small)).ln();
        write!(out, " | exponent {exponent:.2}")?;
    }
    writeln!(out)?;
    Ok(())
}

/// Measures a command in a process of its own.
fn cost(program: &str, words: &[String], path: &Path) -> Result<Cost> {
    let mut command = Command::new(env::current_exe()?);
    let child = command.args([MEASURE, program]).args(words).arg("-f").arg(path);
    let output = child.stderr(Stdio::null()).output()?;
    ensure!(output.status.success(), "{words:?} on {} failed", path.display());
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace();
    let mut number = || numbers.next().context("three numbers");
    Ok(Cost { cpu: number()?.parse()?, megabytes: number()?.parse()?, bytes: number()?.parse()? })
}

/// Runs a command and prints what it cost.
fn measured(program: &str, words: &[String]) -> Result<()> {
    let (who, bytes) = if program == "-" {
        let mut out = Counted(0);
        let name = ["kubectl-whatif".to_owned()];
        command::run(Args::parse_from(name.iter().chain(words)), &mut out)?;
        (UsageWho::RUSAGE_SELF, out.0)
    } else {
        let mut child = Command::new(program).args(words).stdout(Stdio::piped()).spawn()?;
        let mut pipe = child.stdout.take().context("a pipe")?;
        let (mut bytes, mut buffer) = (0, vec![0; 1 << 16]);
        loop {
            match pipe.read(&mut buffer)? {
                0 => break,
                read => bytes += u64::try_from(read)?,
            }
        }
        // Exit codes are answers.
        child.wait()?;
        (UsageWho::RUSAGE_CHILDREN, bytes)
    };
    let usage = getrusage(who)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    let cpu = f64::from(u32::try_from(micros / 1_000)?) / 1e3;
    println!("{cpu} {} {bytes}", usage.max_rss() / 1024);
    Ok(())
}

/// Counts what is written.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
