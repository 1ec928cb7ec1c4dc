//! Our reader of manifests against the one that kubectl has: tests/kube/yaml, a program in Go.
//!
//! Files that found a difference are in crds/tests/inputs/yaml, where they hold without Go.

mod generate;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use portcullis_crds::manifest::{Document, Manifest, decode};
use serde_json::Value;

use portcullis_tests::random::Random;

/// How many files are generated, unless `PROPTEST_CASES` says otherwise.
const FILES: u64 = 3000;

/// What no file of this repository or of its build is in.
const SKIPPED: &[&str] = &["target", ".git"];

#[test]
fn manifests_mean_what_they_mean_to_kubectl() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    // The same files are generated on every machine.
    files.sort_unstable();
    let corpus: Vec<Vec<u8>> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
    ensure!(corpus.len() > 100, "{} files of YAML in {}", corpus.len(), root.display());
    let count = match std::env::var("PROPTEST_CASES") {
        Ok(count) => count.parse()?,
        Err(_) => FILES,
    };
    let mut cases = corpus.clone();
    cases.extend((0..count).map(|seed| generated(seed, &corpus)));

    let answers = kubectl(&root, &cases)?;
    let mut read = 0;
    for (case, answer) in cases.iter().zip(answers) {
        read += answer.iter().filter(|document| document.get("value").is_some()).count();
        check(case, &answer)?;
    }
    ensure!(read * 4 > cases.len(), "only {read} documents in {} files can be read", cases.len());
    Ok(())
}

fn generated(seed: u64, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut random = Random::new(seed);
    let text = match seed % 4 {
        0 => decode(corpus[random.below(corpus.len())].clone()),
        _ => generate::file(&mut random),
    };
    let text = if seed % 4 == 1 { text } else { generate::mutate(&mut random, &text) };
    match seed % 50 {
        3 => [&[0xFF, 0xFE], &*text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>()]
            .concat(),
        _ => text.into_bytes(),
    }
}

/// The manifests below `path`.
fn collect(path: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(path)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !SKIPPED.contains(&&*name) {
            collect(&path, found)?;
        } else if path.is_file()
            && path.extension().is_some_and(|found| found == "yaml" || found == "yml")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(())
}

/// What kubectl reads in each of the files: `{"value": …}` or `{"error": …}` for each document.
fn kubectl(root: &Path, files: &[Vec<u8>]) -> Result<Vec<Vec<Value>>> {
    let build = Command::new(root.join("tests/kube/program.sh")).arg("yaml").output()?;
    ensure!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
    let program = String::from_utf8(build.stdout)?;
    let program = program.lines().last().context("program.sh prints no path")?;
    let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let (mut stdin, stdout) = (child.stdin.take().context("no stdin")?, child.stdout.take());
    let stdout = BufReader::new(stdout.context("no stdout")?);
    let answers = std::thread::scope(|scope| {
        let writer = scope.spawn(move || {
            files.iter().try_for_each(|file| {
                writeln!(stdin, "{}", file.len())?;
                stdin.write_all(file)
            })
        });
        let answers = stdout.lines().map(|line| Ok(serde_json::from_str(&line?)?));
        let answers = answers.collect::<Result<Vec<Vec<Value>>>>();
        writer.join().expect("writing does not panic")?;
        answers
    })?;
    ensure!(child.wait()?.success() && answers.len() == files.len(), "{program} failed");
    Ok(answers)
}

fn check(file: &[u8], answer: &[Value]) -> Result<()> {
    if answer.iter().any(|document| document.get("ambiguous").is_some()) {
        return Ok(());
    }
    let manifest = Manifest::parse("f", &decode(file.to_vec()));
    let ours: Vec<&Value> = manifest.documents.iter().map(Document::value).collect();
    let mut theirs = Vec::new();
    answer.iter().filter_map(|document| document.get("value")).for_each(|value| {
        flatten(value, &mut theirs);
    });
    // What kubectl ignores silently is reported.
    let is_error = |text: &str| !text.contains("a second document begins without a line `---`");
    let messages = manifest.diagnostics.iter().map(|diagnostic| diagnostic.message.as_str());
    let errors = messages.filter(|message| is_error(message)).count();
    let expected_errors = answer.iter().filter(|document| document.get("error").is_some()).count();
    // Where kubectl stops inside of a file, behind a JSON value, only what both have read is compared.
    let agrees = answer.iter().any(|document| document.get("stop").is_some())
        || (ours.len() == theirs.len() && errors == expected_errors);
    let agrees = agrees && ours.iter().zip(&theirs).all(|(ours, theirs)| is_same(ours, theirs));
    ensure!(
        agrees,
        "{:?}\nkubectl: {}\nours: {ours:?}\n{:#?}",
        String::from_utf8_lossy(file),
        Value::Array(answer.to_vec()),
        manifest.diagnostics
    );
    Ok(())
}

/// As the reader does with Lists.
fn flatten<'a>(value: &'a Value, found: &mut Vec<&'a Value>) {
    match (value["kind"].as_str(), &value["items"]) {
        (Some("List"), Value::Array(items)) => items.iter().for_each(|item| flatten(item, found)),
        (Some("List"), Value::Null) => {}
        _ => found.push(value),
    }
}

/// Whether both are the same value to JSON, which knows one type of number.
fn is_same(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || ((a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64())
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            let same = |(key, a)| b.get::<String>(key).is_some_and(|b| is_same(a, b));
            a.len() == b.len() && a.iter().all(same)
        }
        _ => ours == theirs,
    }
}
