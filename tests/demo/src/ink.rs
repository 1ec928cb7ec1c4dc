//! Emphasis on terminals, and plain text elsewhere.

/// How text is emphasised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ink {
    escapes: bool,
}

impl Ink {
    /// With escape sequences, or without any.
    pub(super) fn new(escapes: bool) -> Self {
        Self { escapes }
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub(super) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    pub(super) fn inverse(self, text: &str) -> String {
        self.wrap("1;7", text)
    }

    pub(super) fn alarm(self, text: &str) -> String {
        self.wrap("1;37;41", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.escapes { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
