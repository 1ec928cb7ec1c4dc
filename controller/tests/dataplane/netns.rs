//! Network namespaces: one for each test, gone when the test ends.

use std::fs::File;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};

/// A network namespace.
pub struct Netns {
    name: String,
}

impl Netns {
    pub fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pc-test-{}-{number}", std::process::id());
        run(&["ip", "netns", "add", &name]);
        let netns = Self { name };
        netns.sh(
            "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
        );
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a script inside; gives its output.
    pub fn sh(&self, script: &str) -> String {
        run(&["ip", "netns", "exec", &self.name, "sh", "-ec", script])
    }

    /// Runs `work` on a thread inside. The threads and processes it starts are inside too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let file = File::open(format!("/run/netns/{}", self.name)).unwrap();
                setns(file, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0]).args(&command[1..]).stdin(Stdio::null()).output();
    let output = output.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed; these tests need root: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}
