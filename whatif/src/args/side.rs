//! One side of a comparison, as `--before` and `--after` name it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Where the objects of a side are written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Side {
    /// A file, a directory, or `-` for standard input.
    Files(PathBuf),
    /// Files of a git revision: `git:REV:PATH`.
    Git {
        /// The revision, as `main`, `v1.2` or `HEAD~1`.
        revision: String,
        /// A file or directory, from the current directory.
        path: String,
    },
}

impl FromStr for Side {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("git:") else {
            return Ok(Self::Files(text.into()));
        };
        match rest.split_once(':') {
            Some((revision, path)) if !revision.is_empty() && !path.is_empty() => {
                Ok(Self::Git { revision: revision.to_owned(), path: path.to_owned() })
            }
            _ => Err("write git:REV:PATH, for example git:main:deploy; for a file that is called \
                      so, write ./git:…"
                .to_owned()),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(path) => write!(formatter, "{}", path.display()),
            Self::Git { revision, path } => write!(formatter, "git:{revision}:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_distinguished_from_a_path() {
        let git = |revision: &str, path: &str| {
            Ok(Side::Git { revision: revision.to_owned(), path: path.to_owned() })
        };
        assert_eq!("git:main:a/b".parse(), git("main", "a/b"));
        assert_eq!("git:HEAD~1:a:b".parse(), git("HEAD~1", "a:b"));
        assert_eq!("./git:x".parse(), Ok(Side::Files("./git:x".into())));
        assert_eq!("-".parse(), Ok(Side::Files("-".into())));
        for wrong in ["git:main", "git::a", "git:main:"] {
            assert!(wrong.parse::<Side>().is_err_and(|error| error.contains("git:REV:PATH")));
        }
    }
}
