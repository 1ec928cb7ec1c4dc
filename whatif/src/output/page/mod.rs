//! A map or a plan as one interactive page: it uses no network, and runs only its built-in script.
//!
//! Names of a cluster reach the page as JSON in a data block and are inserted as text; the
//! Content-Security-Policy allows exactly this script and this style by their hashes.

mod about;
mod data;

use std::io::Write;

use anyhow::Result;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use sha2::{Digest as _, Sha256};

pub use about::{About, cluster};

use crate::plan::Plan;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = concat!(include_str!("palette.css"), include_str!("style.css"));
const SCRIPT: &str = include_str!("script.js");

/// Writes the page of a plan, or of a map: a plan of which both sides are the same cluster.
///
/// # Errors
/// When the output cannot be written.
pub fn page(plan: &Plan<'_>, about: &About, out: &mut dyn Write) -> Result<()> {
    for piece in PAGE.split("{{") {
        let Some((name, text)) = piece.split_once("}}") else {
            out.write_all(piece.as_bytes())?;
            continue;
        };
        match name {
            "csp" => write!(out, "{}", policy())?,
            "style" => write!(out, "{STYLE}")?,
            "script" => write!(out, "{SCRIPT}")?,
            _ => {
                // Whatever a name contains, it cannot end the data block or open a comment in it.
                let data = serde_json::to_string(&data::Data::new(plan, about))?;
                write!(out, "{}", data.replace('<', "\\u003c"))?;
            }
        }
        out.write_all(text.as_bytes())?;
    }
    Ok(())
}

/// The hash of a script or style, as a Content-Security-Policy has it.
pub(super) fn hash(text: &str) -> String {
    BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()))
}

fn policy() -> String {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; \
         form-action 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}
