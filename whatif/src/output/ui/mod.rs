//! The live page of `ui`. It is the same for every cluster: what it shows comes as JSON, and is
//! inserted as text.

use crate::output::page::hash;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = concat!(include_str!("../page/palette.css"), include_str!("style.css"));
const SCRIPT: &str = include_str!("script.js");

/// The Content-Security-Policy of an answer that loads and runs nothing.
pub const NOTHING: &str = "default-src 'none'; frame-ancestors 'self'";

/// The text of the page.
#[must_use]
pub fn page() -> String {
    PAGE.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT)
}

/// The Content-Security-Policy of the page: its own script and style, requests to its server, and
/// the map in a frame.
#[must_use]
pub fn policy() -> String {
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; \
         frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_loads_nothing_and_inserts_what_it_gets_as_text() {
        let page = page();
        let from_elsewhere = ["http:", "https:", "//cdn", "src=", "href=", "url(", "@import"];
        let as_code = ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("];
        for word in from_elsewhere.iter().chain(&as_code).chain(&["{{", "setAttribute(\"on"]) {
            assert!(!page.contains(word), "{word}");
        }
        assert!(page.contains(SCRIPT) && page.contains(STYLE));
    }
}
