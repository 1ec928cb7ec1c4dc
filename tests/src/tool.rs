//! Tools that misbehave: a wrapper stands before the real one.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};

/// Puts a wrapper around `tool` into `directory`: while a file `TOOL.broken` is there, it does `fault`, some
/// lines of shell in which `$real` is the path of the real tool, and then becomes the real tool.
///
/// # Errors
/// When there is no such tool, or the wrapper cannot be written.
pub fn wrap(directory: &Path, tool: &str, fault: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let real =
        std::env::split_paths(&path).map(|place| place.join(tool)).find(|file| file.is_file());
    let real = real.with_context(|| format!("no {tool}"))?;
    // An agent may have no other tools than wrapped ones: these need those of the test.
    let script = format!(
        "#!/bin/sh\nPATH={}\nreal={}\nif [ -e \"$0.broken\" ]; then {fault}\nfi\nexec \"$real\" \"$@\"\n",
        path.display(),
        real.display()
    );
    let wrapper = directory.join(tool);
    fs::write(&wrapper, script)?;
    fs::set_permissions(wrapper, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Wraps every tool that an agent may start, as [`wrap`] does.
///
/// # Errors
/// As [`wrap`].
pub fn wrap_all(directory: &Path, fault: &str) -> Result<()> {
    for command in ["iptables", "ip6tables"] {
        for variant in ["", "-nft", "-legacy"] {
            for what in ["", "-save", "-restore"] {
                wrap(directory, &format!("{command}{variant}{what}"), fault)?;
            }
        }
    }
    wrap(directory, "ipset", fault)
}
