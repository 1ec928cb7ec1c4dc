//! Findings as workflow commands, which GitHub Actions shows beside the lines of a pull request.

use std::io::{self, Write};

use super::sentence;
use portcullis_lint::{Finding, Severity};

/// One line for each finding: `::warning file=…,line=…,col=…,title=…::message`.
///
/// # Errors
/// When the output cannot be written.
pub fn github(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        let command = match finding.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "notice",
        };
        let mut properties = Vec::new();
        if let Some(origin) = &finding.origin {
            properties.push(format!("file={}", property(&origin.file)));
            properties.push(format!("line={},col={}", origin.line, origin.column));
        }
        properties.push(format!("title={} {}", finding.code, finding.code.name()));
        let message = data(&format!("{} ({})", sentence(finding), finding.code.docs()));
        writeln!(out, "::{command} {}::{message}", properties.join(","))?;
    }
    Ok(())
}

/// Text behind the last `::`, escaped as the runner reads it.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of a property.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_crds::diagnostic::{About, Origin};
    use portcullis_crds::path::FieldPath;
    use portcullis_lint::Code;

    #[test]
    fn names_cannot_end_a_command_or_a_property() {
        let finding = Finding {
            code: Code::Odd,
            severity: Severity::Warning,
            about: About::nothing(),
            field: FieldPath::default(),
            message: "100%\n::error::no".to_owned(),
            origin: Some(Origin { file: "a,line=9:b.yaml".into(), line: 1, column: 2 }),
            related: Vec::new(),
        };
        let mut out = Vec::new();
        github(&[finding], &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "::warning file=a%2Cline=9%3Ab.yaml,line=1,col=2,title=PCL002 odd::100%25%0A::error::no \
             (docs/lint.md#pcl002-odd)\n"
        );
    }
}
