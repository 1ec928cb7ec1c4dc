//! `denials`: what the agents of a live cluster denied, from their logs.

use std::io::Write;

use anyhow::{Result, bail};

use crate::args::{Denials, DenialsFormat};
use crate::denials::Record;
use crate::output::denials as written;
use crate::source::agents::{self, News};
use crate::source::connection::Connection;
use crate::{MIXED, YES};

pub(super) fn run(args: &Denials, out: &mut dyn Write) -> Result<u8> {
    if let Some(flag) = args.from.manifest_flag() {
        bail!(
            "{flag} reads manifests, and denials are in the logs of the agents of a live cluster"
        );
    }
    let connection = Connection::new(&args.from)?;
    let wanted = Wanted::new(args, connection.namespace());
    let namespace = &args.from.own_namespace;
    if args.follow {
        agents::follow(&connection, namespace, args.since, |news| match news {
            News::Record(record) if wanted.has(&record) => {
                write(args.output, &record, out)?;
                Ok(out.flush()?)
            }
            News::Record(_) => Ok(()),
            News::Failed(failure) => Ok(writeln!(std::io::stderr(), "note: {failure}")?),
        })?;
        return Ok(YES);
    }
    let (records, failures) = agents::denials(&connection, namespace, args.since)?;
    for failure in &failures {
        writeln!(std::io::stderr(), "note: {failure}")?;
    }
    for record in records.iter().filter(|record| wanted.has(record)) {
        write(args.output, record, out)?;
    }
    Ok(if failures.is_empty() { YES } else { MIXED })
}

fn write(format: DenialsFormat, record: &Record, out: &mut dyn Write) -> Result<()> {
    match format {
        DenialsFormat::Text => Ok(written::text(record, out)?),
        DenialsFormat::Json => written::json(record, out),
    }
}

/// Which records are asked for.
struct Wanted {
    /// The start of the name of one side: `shop/`.
    namespace: Option<String>,
    /// The name of one side.
    pod: Option<String>,
}

impl Wanted {
    fn new(args: &Denials, namespace: &str) -> Self {
        let full = |pod: &String| {
            if pod.contains('/') { pod.clone() } else { format!("{namespace}/{pod}") }
        };
        let pod = args.pod.as_ref().map(full);
        Self { namespace: args.from.namespace.as_ref().map(|name| format!("{name}/")), pod }
    }

    fn has(&self, record: &Record) -> bool {
        let sides = [&record.source, &record.destination];
        let mut sides = sides.into_iter().flatten();
        match (&self.pod, &self.namespace) {
            (Some(pod), _) => sides.any(|side| side == pod),
            (None, Some(namespace)) => sides.any(|side| side.starts_with(namespace.as_str())),
            (None, None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_or_a_namespace_on_either_side_is_asked_for() {
        let line = r#"INFO denied verdict="Denied" source="shop/web" destination="db/pg""#;
        let record = Record::read(line).expect("a record");
        let has = |namespace: Option<&str>, pod: Option<&str>| {
            let own = |text: &str| text.to_owned();
            Wanted { namespace: namespace.map(own), pod: pod.map(own) }.has(&record)
        };
        assert!(has(None, None) && has(Some("shop/"), None) && has(Some("db/"), None));
        assert!(has(None, Some("shop/web")) && has(Some("shop/"), Some("db/pg")));
        assert!(!has(Some("sho/"), None) && !has(Some("shop/"), Some("shop/we")));
    }
}
