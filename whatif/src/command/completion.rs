//! `completion SHELL`, and what kubectl asks to complete `kubectl whatif`.
//!
//! kubectl runs an executable `kubectl_complete-whatif` from `PATH` with the words so far, and
//! reads one word a line and a last line `:DIRECTIVE` (cobra's; 4: do not offer files as well).

use std::io::Write;

use anyhow::Result;
use clap::{Arg, Command, CommandFactory as _};

use crate::YES;
use crate::args::{Args, CompletionFor};

const FOR_KUBECTL: &str = "\
#!/bin/sh
# Completes `kubectl whatif`: put this into PATH as `kubectl_complete-whatif`, executable.
exec kubectl-whatif complete-for-kubectl -- \"$@\"
";

pub(super) fn script(shell: CompletionFor, out: &mut dyn Write) -> Result<u8> {
    let Some(shell) = shell.shell() else {
        out.write_all(FOR_KUBECTL.as_bytes())?;
        return Ok(YES);
    };
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "kubectl-whatif", &mut script);
    out.write_all(&script)?;
    Ok(YES)
}

/// Writes the words with which the last of `words` can continue.
pub(super) fn words(words: &[String], out: &mut dyn Write) -> Result<u8> {
    /// Only these words.
    const NO_FILES: u8 = 4;
    /// Names of files, which the shell completes.
    const FILES: u8 = 0;
    let mut command = Args::command();
    command.build();
    let (last, before) = words.split_last().map_or(("", &[] as &[_]), |(l, b)| (l.as_str(), b));
    let chosen = before.iter().find_map(|word| command.find_subcommand(word));
    let argument = chosen.zip(before.last()).and_then(|(command, word)| option(command, word));
    let mut directive = NO_FILES;
    let offered: Vec<String> = match (chosen, argument) {
        (None, _) => subcommands(&command),
        (Some(_), Some(argument)) => {
            let values = possible_values(argument);
            if values.is_empty() {
                directive = FILES;
            }
            values
        }
        (Some(command), None) if last.starts_with('-') => {
            let longs = command.get_arguments().filter(|arg| !arg.is_hide_set());
            longs.filter_map(|arg| Some(format!("--{}", arg.get_long()?))).collect()
        }
        (Some(command), None) => command.get_positionals().flat_map(possible_values).collect(),
    };
    for word in offered.iter().filter(|word| word.starts_with(last)) {
        writeln!(out, "{word}")?;
    }
    writeln!(out, ":{directive}")?;
    Ok(YES)
}

fn subcommands(command: &Command) -> Vec<String> {
    let shown = command.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| command.get_name().to_owned()).collect()
}

/// The option that `word` is, when it takes a value.
fn option<'c>(command: &'c Command, word: &str) -> Option<&'c Arg> {
    let is_it = |arg: &&Arg| {
        let long = arg.get_long().is_some_and(|long| word == format!("--{long}"));
        let short = arg.get_short().is_some_and(|short| word == format!("-{short}"));
        (long || short) && arg.get_action().takes_values()
    };
    command.get_arguments().find(is_it)
}

fn possible_values(argument: &Arg) -> Vec<String> {
    let values = argument.get_possible_values().into_iter();
    values.filter(|value| !value.is_hide_set()).map(|value| value.get_name().to_owned()).collect()
}
