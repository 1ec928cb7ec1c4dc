//! The head of a page: the question, the objects, the time and the version.

use jiff::Timestamp;
use serde::Serialize;

use crate::args::SourceArgs;
use crate::source::{Sides, Sources};

/// The origin of a page.
#[derive(Serialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
pub struct About {
    /// Whether it shows one state, and not a change.
    pub is_map: bool,
    /// The source of the objects.
    source: String,
    /// The time of the question, in RFC 3339.
    time: String,
    /// The version of this program.
    version: &'static str,
}

impl About {
    /// A page that is written now.
    #[must_use]
    pub fn new(is_map: bool, args: &SourceArgs, sides: Sides<'_>, sources: &Sources) -> Self {
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let source = source(args, sides, sources.is_live);
        Self { is_map, source, time, version: env!("CARGO_PKG_VERSION") }
    }
}

/// The live cluster that the flags name.
#[must_use]
pub fn cluster(args: &SourceArgs) -> String {
    match &args.context {
        Some(context) => format!("the cluster of context {context}"),
        None => "the cluster of the kubeconfig".to_owned(),
    }
}

/// The flags that name the source.
fn source(args: &SourceArgs, sides: Sides<'_>, is_live: bool) -> String {
    let cluster = is_live.then(|| cluster(args));
    let files = args.filename.iter().map(|path| format!("-f {}", path.display()));
    let before = sides.before.iter().map(|side| format!("--before {side}"));
    let after = sides.after.iter().map(|side| format!("--after {side}"));
    let with = args.with.iter().map(|path| format!("--with {}", path.display()));
    let without = args.without.iter().map(|name| format!("--without {name}"));
    let all = cluster.into_iter().chain(files).chain(before).chain(after).chain(with);
    let all = all.chain(without);
    all.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_what_the_flags_name() {
        let sides = Sides { before: &[], after: &[] };
        let args = SourceArgs {
            filename: vec!["a.yaml".into()],
            with: vec!["b.yaml".into()],
            without: vec!["netpol/shop/db".to_owned()],
            ..SourceArgs::default()
        };
        let found = source(&args, sides, false);
        assert_eq!(found, "-f a.yaml --with b.yaml --without netpol/shop/db");
        let args = SourceArgs { context: Some("prod".to_owned()), ..SourceArgs::default() };
        assert_eq!(source(&args, sides, true), "the cluster of context prod");
    }
}
