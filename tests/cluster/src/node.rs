//! One node: its files, and the processes that run on it.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use portcullis_lab::{self as lab, Family, IptablesVariant, Namespace, Node as LabNode};
use portcullis_tests::kube::{ApiServer, Guarded};
use serde_json::{Value, json};

use crate::cni;
use crate::options::{KubeProxy, Options};
use crate::state::State;

const INIT: &str = include_str!("node-init.sh");

/// The names by which programs call iptables.
const IPTABLES: [&str; 6] = [
    "iptables",
    "iptables-save",
    "iptables-restore",
    "ip6tables",
    "ip6tables-save",
    "ip6tables-restore",
];

/// Removes from a network namespace what the kernel of a real machine forgets when it restarts:
/// rules, sets, tracked connections, and the links of pods.
const FORGET: &str = "
for family in iptables ip6tables; do
    for variant in nft legacy; do
        for table in $($family-$variant-save 2>/dev/null | sed -n 's/^\\*//p'); do
            $family-$variant -w -t $table -F
            $family-$variant -w -t $table -X
        done
    done
done
nft flush ruleset
ipset destroy
conntrack -F 2>/dev/null
for link in $(ip -o link show | sed -n 's/^[0-9]*: \\([^:@]*\\).*/\\1/p'); do
    case $link in lo|eth0|sit0|ip6tnl0|tunl0|gre0|gretap0|erspan0) ;; *) ip link del $link || true ;; esac
done
";

/// A node of a cluster. Dropping it kills every process on it, those of its pods included.
pub struct Node {
    name: String,
    directory: PathBuf,
    binaries: PathBuf,
    netns: Namespace,
    processes: Option<Guarded>,
}

impl Node {
    /// Writes the files of a node. Nothing runs yet.
    pub(crate) fn create(
        state: &State,
        options: &Options,
        node: &LabNode,
        server: &ApiServer,
        binaries: &Path,
        images: &[PathBuf],
    ) -> Result<Self> {
        let name = node.name().to_owned();
        let directory = state.node(&name);
        fs::create_dir_all(directory.join("images"))?;
        fs::create_dir_all(directory.join("bin"))?;
        for image in images {
            let file = image.file_name().context("an image is a file")?;
            symlink(image, directory.join("images").join(file))?;
        }
        state.create_cgroup(&name)?;
        let user = format!("system:node:{name}");
        let kubeconfig = server.kubeconfig_for_user(&user, Some("system:nodes"))?;
        fs::copy(kubeconfig, directory.join("kubelet.kubeconfig"))?;
        let proxy = server.kubeconfig_for_user("system:kube-proxy", None)?;
        let write = |file: &str, text: String| {
            fs::write(directory.join(file), text)
                .with_context(|| format!("failed to write {file} of node {name}"))
        };
        let addresses: Vec<String> = node.addresses().iter().map(ToString::to_string).collect();
        write("node-ip", addresses.join(","))?;
        write("init.sh", INIT.to_owned())?;
        write("containerd.toml", containerd(&directory))?;
        let authority = server.pki_file("ca.crt");
        write("kubelet.yaml", kubelet(&authority, &state.cgroup(&name)).to_string())?;
        write("kube-proxy.yaml", kube_proxy(options, &proxy).to_string())?;
        fs::create_dir_all(directory.join("cni"))?;
        let network = cni::configuration(options.cni, node.pod_cidrs());
        write("cni/10-pods.conflist", network.to_string())?;
        if options.cni.is_flannel() {
            let pods =
                node.pod_cidrs().iter().map(|cidr| lab::pod_network(Family::of(cidr.network())));
            let pods: Vec<_> = pods.collect();
            write("flannel.json", cni::flannel_network(options.cni, &pods).to_string())?;
            let admin = server.kubeconfig_for_user("flannel", Some("system:masters"))?;
            write("flanneld.sh", cni::flanneld(&name, &admin.display().to_string()))?;
        }
        choose_iptables(&directory, options.lab_iptables())?;
        if options.needs_containerd_2() {
            for program in ["containerd", "containerd-shim-runc-v2", "ctr"] {
                let source = binaries.join("containerd-2").join(program);
                symlink(source, directory.join("bin").join(program))?;
            }
        }
        Ok(Self {
            name,
            directory,
            binaries: binaries.to_owned(),
            netns: node.netns().try_clone()?,
            processes: None,
        })
    }

    /// The name of its Node object.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its network namespace, where kube-proxy, the agent and pods with hostNetwork are.
    #[must_use]
    pub fn netns(&self) -> &Namespace {
        &self.netns
    }

    /// The directory with its logs: `kubelet.log`, `containerd.log`, `kube-proxy.log`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Starts its processes, when they do not run.
    ///
    /// # Errors
    /// When the first one cannot be started.
    pub fn start(&mut self) -> Result<()> {
        if self.processes.is_none() {
            let init = self.directory.join("init.sh");
            let paths = [&init, &self.directory].map(|path| path.display().to_string());
            let [init, directory] = paths;
            let binaries = self.binaries.display().to_string();
            let arguments = [
                "--mount",
                "--uts",
                "--ipc",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sh",
                &init,
                &directory,
                &self.name,
                &binaries,
            ];
            let arguments = arguments.map(ToOwned::to_owned);
            let log = self.directory.join("init.log");
            let unshare = Path::new("unshare");
            self.processes = Some(Guarded::start(Some(&self.netns), unshare, &arguments, &log)?);
        }
        Ok(())
    }

    /// Runs a script with `sh -e` on the node: in its namespaces of every kind; its standard output.
    ///
    /// # Errors
    /// When the node does not run, or when the script fails: with its standard error.
    pub fn shell(&self, script: &str) -> Result<String> {
        let pid =
            self.first_process()?.with_context(|| format!("node {} does not run", self.name))?;
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid.to_string(), "--all", "--wd=/", "sh", "-ec", script]);
        let output = command.output().context("failed to run nsenter")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{script}` on {}: {}", self.name, errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Process 1 of the node, by its number on this machine.
    fn first_process(&self) -> Result<Option<u32>> {
        let netns = fs::metadata(self.netns.path())?.ino();
        let is_first = |directory: &Path| {
            let status = fs::read_to_string(directory.join("status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let numbers: Vec<&str> = numbers.unwrap_or_default().split_whitespace().collect();
            let namespace = fs::metadata(directory.join("ns/net")).map(|namespace| namespace.ino());
            numbers.len() == 2 && numbers[1] == "1" && namespace.is_ok_and(|inode| inode == netns)
        };
        let processes = fs::read_dir("/proc")?.flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Ok(numbers.into_iter().find(|pid: &u32| is_first(Path::new(&format!("/proc/{pid}")))))
    }

    /// Kills all its processes, as a power failure does. Its kernel's state stays as it is.
    pub fn kill(&mut self) {
        self.processes = None;
    }

    /// Restarts the node as a machine: its processes are killed, its kernel forgets rules, sets,
    /// connections and the links of pods, and its processes start again. Before these, it runs a
    /// script, as a service that the kubelet waits for.
    ///
    /// # Errors
    /// When the kernel's state cannot be removed, the script fails, or the first process cannot be
    /// started.
    pub fn reboot(&mut self, service: &str) -> Result<()> {
        self.kill();
        self.netns.shell(FORGET)?;
        self.netns.shell(service)?;
        self.start()
    }

    /// The last lines of its logs, for a message about a failure.
    #[must_use]
    pub fn last_log_lines(&self) -> String {
        const LINES: usize = 8;
        let mut text = String::new();
        for file in ["init.log", "images.log", "containerd.log", "kubelet.log", "kube-proxy.log"] {
            let log = fs::read(self.directory.join(file)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(LINES)..].join("\n");
            if !last.is_empty() {
                let _ = writeln!(text, "== {} {file}\n{last}", self.name);
            }
        }
        text
    }
}

/// Makes `iptables` and its relatives of the node those of one variant.
fn choose_iptables(directory: &Path, variant: IptablesVariant) -> Result<()> {
    let program = match variant {
        IptablesVariant::Legacy => "xtables-legacy-multi",
        IptablesVariant::Nft => "xtables-nft-multi",
    };
    for name in IPTABLES {
        symlink(Path::new("/usr/sbin").join(program), directory.join("bin").join(name))?;
    }
    Ok(())
}

fn containerd(directory: &Path) -> String {
    let cni = directory.join("cni");
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
restrict_oom_score_adj = true
disable_apparmor = true
sandbox_image = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        cni.display()
    )
}

fn kubelet(authority: &Path, cgroup: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": "unix:///run/containerd/containerd.sock",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup,
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false,
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "100Mi"},
        "makeIPTablesUtilChains": true,
        "resolvConf": "",
        "registerNode": true,
        // Faster than the defaults: tests wait for what these delay.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "fileCheckFrequency": "5s",
        "shutdownGracePeriod": "0s",
    })
}

fn kube_proxy(options: &Options, kubeconfig: &Path) -> Value {
    let mode = match options.kube_proxy {
        KubeProxy::Iptables => "iptables",
        KubeProxy::Nftables => "nftables",
    };
    let families = options.lab_families();
    let pods: Vec<String> =
        families.each().iter().map(|family| lab::pod_network(*family).to_string()).collect();
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "mode": mode,
        "clusterCIDR": pods.join(","),
        // The kernel's limits of connection tracking belong to the whole machine.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    })
}
