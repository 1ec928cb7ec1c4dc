//! Field selectors of the Kubernetes API.

/// Selects objects whose field has this value.
pub(super) fn is(field: &str, value: &str) -> String {
    format!("{field}={}", escaped(value))
}

/// Selects objects whose field has another value.
pub(super) fn differs(field: &str, value: &str) -> String {
    format!("{field}!={}", escaped(value))
}

/// A value as the API server reads it, whatever the value contains.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_add_a_requirement() {
        assert_eq!(is("metadata.name", "n1"), "metadata.name=n1");
        assert_eq!(differs("spec.nodeName", r"a\,b=c"), r"spec.nodeName!=a\\\,b\=c");
    }
}
