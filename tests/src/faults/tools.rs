//! Tools that misbehave, and kernels that refuse what they are asked for.

use std::time::Duration;

use anyhow::Result;
use portcullis_lab::IptablesVariant;

use super::row::{Exception, Fault};
use super::stage::Stage;

/// The tool is not there.
pub(super) const MISSING: &str = "missing";

/// What a tool does, as lines of shell before the real one.
const MISBEHAVIOURS: [(&str, &str); 8] = [
    ("is missing", MISSING),
    ("hangs", "while [ -e \"$0.broken\" ]; do sleep 0.05; done; exit 1"),
    ("is slow (1 s)", "sleep 1"),
    ("is killed", "kill -9 $$"),
    ("fails", "echo \"$0 is out of order\" >&2; exit 1"),
    ("does nothing, with exit code 0", "exit 0"),
    ("prints garbage, with exit code 0", "head -c 5000 /dev/urandom; echo; exit 0"),
    ("prints half, with exit code 0", "\"$real\" \"$@\" | head -c 200; exit 0"),
];

/// What the kernel answers through `ipset` or a restore tool.
const REFUSALS: [(&str, &str); 3] = [
    ("ENOMEM", "Cannot allocate memory"),
    ("ENOBUFS", "No buffer space available"),
    ("ENOSPC", "No space left on device"),
];

/// The tools of both families.
fn both(variant: &str, what: &str) -> Vec<String> {
    ["iptables", "ip6tables"].map(|tool| format!("{tool}-{variant}-{what}")).into()
}

fn broken(
    name: String,
    tools: impl Fn(&Stage) -> Vec<String> + Clone + 'static,
    fault: String,
) -> Fault {
    let same = tools.clone();
    Fault::new(
        name,
        move |stage| stage.break_tools(&tools(stage), &fault),
        move |stage| stage.fix_tools(&same(stage)),
    )
}

fn ipset(_: &Stage) -> Vec<String> {
    vec!["ipset".to_owned()]
}

/// All faults of tools.
pub(super) fn faults() -> Vec<Fault> {
    let mut all = Vec::new();
    for (name, fault) in MISBEHAVIOURS {
        let fault = broken(format!("`ipset` {name}"), ipset, fault.to_owned());
        all.push(fault.except(Exception::Denies).lasting(Duration::from_secs(3)));
    }
    // It is killed after 20 s, and gets 5 s as long as it hangs.
    let fault = "case \"$*\" in *restore*) exec sleep 600;; esac".to_owned();
    let fault = broken("`ipset` hangs for good".to_owned(), ipset, fault);
    all.push(fault.except(Exception::Denies).lasting(Duration::from_secs(4)).within(30));
    let restore = |stage: &Stage| both(stage.variant(), "restore");
    let save = |stage: &Stage| both(stage.variant(), "save");
    for (name, fault) in MISBEHAVIOURS {
        let fault = fault.replace("head -c 200", "head -c 0");
        all.push(broken(format!("`iptables-restore` {name}"), restore, fault));
    }
    for (name, fault) in MISBEHAVIOURS {
        // It is only needed for comparisons, every 5 s here. Changes are applied without it.
        let fault = broken(format!("`iptables-save` {name}"), save, fault.to_owned());
        all.push(fault.lasting(Duration::from_secs(6)));
    }
    for (name, text) in REFUSALS {
        let fault = format!("cat > /dev/null; echo 'Kernel error: {text}' >&2; exit 1");
        all.push(broken(format!("{name} for every ipset"), ipset, fault).except(Exception::Denies));
    }
    let fault = "sed /COMMIT/q > /dev/null; echo 'No buffer space available' >&2; exit 4";
    all.push(broken("ENOBUFS for every change of chains".to_owned(), restore, fault.to_owned()));
    // That changes are missing is seen with the next comparison.
    let fault = broken(
        "`iptables-restore` takes all, and does nothing".to_owned(),
        restore,
        "exec cat > /dev/null".to_owned(),
    );
    all.push(fault.lasting(Duration::from_secs(7)));
    all.push(one_set_is_full());
    all.push(lock_is_held());
    let (name, fault) = MISBEHAVIOURS[4];
    all.push(
        broken(format!("`iptables-restore` {name} (legacy)"), restore, fault.to_owned()).legacy(),
    );
    all
}

/// The kernel refuses members of the one set that an opening needs.
fn one_set_is_full() -> Fault {
    Fault::new(
        "one ipset is full",
        |stage| {
            let addresses = stage.lab().pod("shop/stranger")?.addresses();
            let texts: Vec<String> = addresses.iter().map(|ip| format!("-e ' {ip}'")).collect();
            let fault = format!(
                "case \"$*\" in *restore*) script=$(cat)
                 if printf '%s\\n' \"$script\" | grep -q -F {}; then echo 'Hash is full' >&2; exit 1; fi
                 printf '%s\\n' \"$script\" | \"$real\" \"$@\"; exit $?;; esac",
                texts.join(" ")
            );
            stage.break_tools(&ipset(stage), &fault)
        },
        |stage| stage.fix_tools(&ipset(stage)),
    )
    .except(Exception::Denies)
}

/// Of a lock of this row's own: that of the machine is used by other labs.
fn lock_is_held() -> Fault {
    let tools = |stage: &Stage| -> Vec<String> {
        ["", "-save", "-restore"]
            .into_iter()
            .flat_map(|what| ["iptables", "ip6tables"].map(|tool| format!("{tool}-legacy{what}")))
            .filter(|_| stage.variant() == IptablesVariant::Legacy.name())
            .collect()
    };
    Fault::new(
        "the xtables lock is held for a minute",
        move |stage| {
            let lock = stage.tools.path().join("xtables.lock");
            let lock = lock.display();
            let held = format!("export XTABLES_LOCKFILE={lock}");
            stage.break_tools(&tools(stage), &held)?;
            hold(&format!("flock {lock} sleep 60"))
        },
        move |stage| stage.fix_tools(&tools(stage)),
    )
    .lasting(Duration::from_mins(1))
    .legacy()
}

/// Begins a command, and does not wait for its end.
fn hold(command: &str) -> Result<()> {
    let mut child = std::process::Command::new("sh").args(["-c", command]).spawn()?;
    std::thread::spawn(move || child.wait());
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}
