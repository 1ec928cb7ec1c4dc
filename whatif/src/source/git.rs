//! Files of a git revision, read through the program `git`: the only place of this crate that runs
//! a program.
//!
//! ```text
//! REV ─ rev-parse ─► tree ─ ls-tree PATH ─► names and ids ─ cat-file --batch ─► contents
//! ```
//!
//! It uses no shell and no checkout, and neither writes nor fetches anything. Each call has a time
//! limit and a limit for its output.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::files::is_manifest;

/// How long one call of `git` may take.
const LIMIT: Duration = Duration::from_mins(1);

/// How often it is checked whether a process that closed its output has ended.
const POLL: Duration = Duration::from_millis(5);

/// One file of a revision.
pub(super) struct File {
    /// Its path, as `git ls-tree` prints it for the current directory.
    pub path: String,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// The files of a revision.
pub(super) struct Tree {
    /// The files, in the order of their paths.
    pub files: Vec<File>,
    /// Symbolic links and submodules, which are not followed.
    pub skipped: Vec<String>,
}

/// Which files of a path are read: the file that it names, or all manifests below the directory,
/// hidden ones left out.
pub(super) struct Wanted<'p>(&'p str);

impl<'p> Wanted<'p> {
    /// The files of `path`, as the command line names it.
    pub(super) fn new(path: &'p str) -> Self {
        let path = path.trim_end_matches('/');
        Self(path.trim_start_matches("./"))
    }

    /// Whether a file is read.
    pub(super) fn holds(&self, file: &str) -> bool {
        if file == self.0 {
            return true;
        }
        let below = file.strip_prefix(self.0).and_then(|rest| rest.strip_prefix('/'));
        let below = Path::new(below.unwrap_or(file));
        let hidden = |part: &OsStr| part.to_string_lossy().starts_with('.');
        is_manifest(below) && !below.iter().any(|part| part != ".." && hidden(part))
    }
}

/// Reads the files at `path` of `revision` for whose path `wanted` holds; at most `max_bytes` in all.
///
/// A path that the revision does not have contains no file.
///
/// # Errors
/// When there is no such revision, or `git` fails or does not answer in time.
pub(super) fn read(
    revision: &str,
    path: &str,
    max_bytes: u64,
    wanted: impl Fn(&str) -> bool,
) -> Result<Tree> {
    let call = |arguments: &[&str], input: String| {
        let mut command = Command::new("git");
        command.args(arguments);
        run(command, input, max_bytes, LIMIT)
    };
    let object = format!("{revision}^{{tree}}");
    let found = call(&["rev-parse", "--verify", "--end-of-options", &object], String::new())
        .with_context(|| {
            format!(
                "`{revision}` is not a revision of the git repository of this directory; fetch it \
                 first (a CI job may have a shallow clone)"
            )
        })?;
    let tree = String::from_utf8_lossy(&found).trim().to_owned();
    let list = ["--literal-pathspecs", "ls-tree", "-r", "-z", &tree, "--", path];
    let listed = call(&list, String::new())?;
    let (mut entries, mut skipped) = (Vec::new(), Vec::new());
    for entry in listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
        let entry = String::from_utf8_lossy(entry);
        let (about, path) = entry.split_once('\t').context("`git ls-tree` prints no paths")?;
        let mut words = about.split(' ');
        let (mode, id) = (words.next().unwrap_or_default(), words.next_back().unwrap_or_default());
        match mode {
            _ if !wanted(path) => {}
            // Symbolic links and submodules.
            "120000" | "160000" => skipped.push(path.to_owned()),
            _ => entries.push((path.to_owned(), id.to_owned())),
        }
    }
    let ids: String = entries.iter().flat_map(|(_, id)| [id.as_str(), "\n"]).collect();
    let printed = call(&["cat-file", "--batch"], ids)?;
    let mut rest = printed.as_slice();
    let mut files = Vec::with_capacity(entries.len());
    for (path, id) in entries {
        let bytes = blob(&mut rest).with_context(|| {
            format!("`git cat-file` does not print {path} ({id}): is the clone complete?")
        })?;
        files.push(File { path, bytes });
    }
    Ok(Tree { files, skipped })
}

/// The next object of the output of `cat-file --batch`: `ID blob SIZE`, the content, a line end.
fn blob(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (head, body) = rest.split_at_checked(end)?;
    let size: usize = std::str::from_utf8(head).ok()?.rsplit(' ').next()?.parse().ok()?;
    let (content, after) = body.get(1..)?.split_at_checked(size)?;
    *rest = after.get(1..)?;
    Some(content.to_vec())
}

/// Runs a command with `input`, and returns what it prints.
fn run(mut command: Command, input: String, max_bytes: u64, limit: Duration) -> Result<Vec<u8>> {
    let program = format!("`{}`", command.get_program().to_string_lossy());
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    let shown = [vec![command.get_program().to_string_lossy().into_owned()], words.collect()];
    let shown = shown.concat().join(" ");
    let mut child = command
        // `git` must not prompt, lock or download.
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to run {program}; install it, or name files instead"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // The process may exit before it reads its input; its exit code then has the reason.
        thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    }
    let output = child.stdout.take().map(|pipe| read_all(pipe, max_bytes));
    let problems = child.stderr.take().map(|pipe| read_all(pipe, 1 << 16));
    let deadline = Instant::now() + limit;
    let next = |pipe: Option<Receiver<Vec<u8>>>| {
        pipe?.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    };
    let (output, problems) = (next(output), next(problems));
    let (Some(output), Some(problems), Some(status)) =
        (output, problems, ended(&mut child, deadline)?)
    else {
        let _ = child.kill();
        let _ = child.wait();
        bail!("`{shown}` did not end within {} s", limit.as_secs_f32());
    };
    if output.len() as u64 > max_bytes {
        bail!("`{shown}` prints more than {max_bytes} bytes; name a smaller path");
    }
    if !status.success() {
        bail!("`{shown}`: {}", String::from_utf8_lossy(&problems).trim());
    }
    Ok(output)
}

/// Reads a pipe to its end, or to one byte more than is allowed.
fn read_all(pipe: impl Read + Send + 'static, max_bytes: u64) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    receiver
}

/// The exit status; `None` if the process still runs at `deadline`.
fn ended(child: &mut Child, deadline: Instant) -> Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(program: &str, arguments: &[&str], max_bytes: u64, millis: u64) -> String {
        let mut command = Command::new(program);
        command.args(arguments);
        match run(command, String::new(), max_bytes, Duration::from_millis(millis)) {
            Ok(output) => String::from_utf8_lossy(&output).into_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn a_program_that_hangs_fails_or_prints_too_much_is_an_error() {
        assert_eq!(check("sleep", &["600"], 9, 50), "`sleep 600` did not end within 0.05 s");
        assert_eq!(check("echo", &["ab"], 3, 60_000), "ab\n");
        let long = check("echo", &["abc"], 3, 60_000);
        assert_eq!(long, "`echo abc` prints more than 3 bytes; name a smaller path");
        assert!(check("ls", &["/nowhere"], 99, 60_000).starts_with("`ls /nowhere`: "));
        assert!(
            check("/nowhere", &[], 99, 60_000).starts_with("failed to run `/nowhere`; install")
        );
    }

    #[test]
    fn hidden_files_and_files_of_kustomize_are_left_out() {
        let wanted = |path, file| Wanted::new(path).holds(file);
        assert!(wanted("./deploy/", "deploy/a/b.yaml") && wanted(".", "a.json"));
        assert!(wanted("policy.txt", "policy.txt") && wanted(".ci/a", ".ci/a/b.yml"));
        assert!(wanted("../a", "../a/b.yml"));
        assert!(!wanted("deploy", "deploy/.a/b.yaml") && !wanted(".", ".ci/a.yaml"));
        assert!(!wanted("deploy", "deploy/kustomization.yaml") && !wanted("deploy", "deploy/a.md"));
    }

    #[test]
    fn objects_of_a_batch_are_split_by_their_size() {
        let mut rest = b"1a blob 3\na\n\n\n2b blob 0\n\n".as_slice();
        assert_eq!(blob(&mut rest), Some(b"a\n\n".to_vec()));
        assert_eq!(blob(&mut rest), Some(Vec::new()));
        assert_eq!(blob(&mut rest), None);
        assert_eq!(blob(&mut b"1a missing\n".as_slice()), None);
        assert_eq!(blob(&mut b"1a blob 9\nshort\n".as_slice()), None);
    }
}
