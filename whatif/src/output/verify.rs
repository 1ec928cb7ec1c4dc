//! Whether nodes enforce what the API objects say, for people.

use std::io::{self, Write};

use crate::verify::Finding;

/// Writes a line for each node, and its differences below.
///
/// # Errors
/// When the output cannot be written.
pub fn text(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    let width = findings.iter().map(|found| found.node.len()).max().unwrap_or(0);
    for Finding { node, hash, compared, differences, unknown } in findings {
        let hash = hash.as_deref().unwrap_or("-");
        let compared = match compared {
            Some((rules, sets)) => format!("{rules} rules and {sets} sets of the kernel compared"),
            None => "not compared".to_owned(),
        };
        let state = match (differences.is_empty(), unknown) {
            (_, Some(_)) => "Unknown",
            (true, None) => "Agrees ",
            (false, None) => "DIFFERS",
        };
        writeln!(out, "{node:width$}  {state}  {hash:16}  {compared}")?;
        for difference in differences.iter().chain(unknown) {
            writeln!(out, "  {difference}")?;
        }
    }
    Ok(())
}
