//! A kube-apiserver with an etcd of its own.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Namespace as KubeNamespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::binaries::binaries;
use super::flags::{arguments, families, own_service, surroundings};
use super::forward::Forward;
use super::guard::Guarded;
use super::kubeconfig::{self, Credentials};
use super::pki::Pki;
use portcullis_lab::{Lab, Namespace};

/// How long a start may take on a machine that is busy with other tests; alone it takes 3 s.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How often a server that starts is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long one question may take.
const ASK_LIMIT: Duration = Duration::from_secs(5);
/// The port of the server in a lab, as in most clusters.
const LAB_PORT: u16 = 6443;
/// Everything who did what, and nothing of what was in it.
const AUDIT_POLICY: &str = r#"{"apiVersion": "audit.k8s.io/v1", "kind": "Policy",
    "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}]}"#;

/// How an API server is to be. By default it listens on this machine's loopback alone.
#[derive(Default)]
pub struct Options {
    namespace: Option<Namespace>,
    addresses: Vec<IpAddr>,
    audit: bool,
    whole_cluster: bool,
    binaries: Option<PathBuf>,
    api_server_args: Vec<String>,
    etcd_args: Vec<String>,
}

impl Options {
    /// An API server on the wire between a lab's nodes. They reach it, and so does this process.
    ///
    /// It listens in the namespace of [`Lab::fabric`], which no policy case asks about: neither a
    /// node nor the host outside.
    ///
    /// # Errors
    /// When this process has too many files open.
    pub fn beside(lab: &Lab) -> Result<Self> {
        let namespace = Some(lab.fabric().try_clone()?);
        Ok(Self { namespace, addresses: lab.fabric_addresses(), ..Self::default() })
    }

    /// Has it write an audit log: [`ApiServer::audit_log`].
    #[must_use]
    pub fn audit(mut self) -> Self {
        self.audit = true;
        self
    }

    /// The API server of a whole cluster: with a controller manager, kubelets that it reaches, and
    /// a Service of its own.
    #[must_use]
    pub fn whole_cluster(mut self) -> Self {
        self.whole_cluster = true;
        self
    }

    /// Takes kube-apiserver, etcd and kubectl from this directory.
    #[must_use]
    pub fn binaries(mut self, directory: impl Into<PathBuf>) -> Self {
        self.binaries = Some(directory.into());
        self
    }

    /// Adds a flag of kube-apiserver; of a flag that is set twice the last one counts.
    #[must_use]
    pub fn api_server_arg(mut self, flag: impl Into<String>) -> Self {
        self.api_server_args.push(flag.into());
        self
    }

    /// Adds a flag of etcd.
    #[must_use]
    pub fn etcd_arg(mut self, flag: impl Into<String>) -> Self {
        self.etcd_args.push(flag.into());
        self
    }
}

/// A running API server. Dropping it ends all its processes and removes all its files.
pub struct ApiServer {
    // In this order they are dropped.
    server: Option<Guarded>,
    _etcd: Guarded,
    forward: Option<Forward>,
    _port: Option<Socket>,
    namespace: Option<Namespace>,
    arguments: Vec<String>,
    binaries: PathBuf,
    /// Where programs beside it reach it: nodes of its lab.
    address: SocketAddr,
    pki: Pki,
    directory: TempDir,
}

impl ApiServer {
    /// Starts etcd and kube-apiserver and waits until it serves and has its first namespaces.
    ///
    /// # Errors
    /// When the binaries are not there and cannot be built, or when a server does not start: with
    /// the end of its log.
    pub fn start(options: Options) -> Result<Self> {
        let Options {
            namespace, addresses, audit, whole_cluster, api_server_args, etcd_args, ..
        } = options;
        let binaries = match options.binaries {
            Some(directory) => directory,
            None => binaries()?.to_owned(),
        };
        let directory = tempfile::Builder::new().prefix("portcullis-kube-").tempdir()?;
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let ip = addresses.first().copied().unwrap_or(loopback);
        let services: Vec<IpAddr> = families(&addresses).map(own_service).collect();
        let reached_at = [&[loopback], &*addresses, &*services].concat();
        let pki = Pki::create(&directory.path().join("pki"), &reached_at)?;
        let (port, address, forward) = if let Some(namespace) = &namespace {
            let address = SocketAddr::new(ip, LAB_PORT);
            (None, address, Some(Forward::start(namespace.try_clone()?, address)?))
        } else {
            let (port, address) = reserve_port(ip)?;
            (Some(port), address, None)
        };
        let etcd = start_etcd(&binaries, directory.path(), etcd_args)?;
        let mut arguments = arguments(directory.path(), &pki, address, &addresses);
        arguments.extend(surroundings(&pki, whole_cluster));
        if audit {
            let policy = directory.path().join("audit-policy.json");
            fs::write(&policy, AUDIT_POLICY)?;
            arguments.push(format!("--audit-policy-file={}", policy.display()));
            arguments.push(format!("--audit-log-path={}/audit.log", directory.path().display()));
        }
        arguments.extend(api_server_args);
        let mut server = Self {
            server: None,
            _etcd: etcd,
            forward,
            _port: port,
            namespace,
            arguments,
            binaries,
            address,
            pki,
            directory,
        };
        let (certificate, key) = (server.pki.file("admin.crt"), server.pki.file("admin.key"));
        let admin = Credentials::Certificate(&certificate, &key);
        fs::write(server.admin_kubeconfig(), server.render(server.address_here(), &admin))?;
        server.restart()?;
        Ok(server)
    }

    /// Kills kube-apiserver in the middle of whatever it does; etcd goes on.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Kills kube-apiserver if it runs, and starts it again: with the same data, address and port.
    ///
    /// # Errors
    /// When it does not serve again.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let program = self.binaries.join("kube-apiserver");
        let log = self.log();
        let mut server = Guarded::start(self.namespace.as_ref(), &program, &self.arguments, &log)?;
        self.wait_until_ready(&mut server)?;
        self.server = Some(server);
        Ok(())
    }

    /// Where kube-apiserver listens: nodes of its lab reach it there.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The kubeconfig of one whom RBAC allows everything. For programs that run where the test
    /// does, and not inside a lab.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.directory.path().join("admin.kubeconfig")
    }

    /// A kubeconfig with a fresh token of a ServiceAccount, which must exist. For programs on the
    /// nodes of its lab; without a lab, for those that run where the test does.
    ///
    /// # Errors
    /// When the API server gives no token.
    pub fn kubeconfig_for_service_account(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self.kubectl(
            &["create", "token", name, "--namespace", namespace, "--duration=24h"],
            None,
        )?;
        self.kubeconfig_for_token(token.trim())
    }

    /// A kubeconfig with a fresh token of an agent of `deploy/` on this node, which must exist. As in a
    /// token that a kubelet mounts, the node is a claim of it.
    ///
    /// # Errors
    /// When the API server gives no token.
    pub fn kubeconfig_for_agent(&self, node: &str) -> Result<PathBuf> {
        let account = ["create", "token", "portcullis-node", "--namespace=portcullis-system"];
        let bound = ["--duration=24h", "--bound-object-kind=Node", "--bound-object-name", node];
        let token = self.kubectl(&[&account[..], &bound].concat(), None)?;
        self.kubeconfig_for_token(token.trim())
    }

    /// A kubeconfig with this token, for the same programs as those of
    /// [`ApiServer::kubeconfig_for_service_account`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_for_token(&self, token: &str) -> Result<PathBuf> {
        let text = self.render(self.address, &Credentials::Token(token));
        let mut file = tempfile::Builder::new()
            .prefix("token-")
            .suffix(".kubeconfig")
            .disable_cleanup(true) // It goes with the directory.
            .tempfile_in(self.directory.path())?;
        file.write_all(text.as_bytes()).context("failed to write a kubeconfig")?;
        Ok(file.path().to_owned())
    }

    /// A kubeconfig of a user, by a client certificate, for the same programs as those of
    /// [`ApiServer::kubeconfig_for_service_account`]. The user's name names the files.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig_for_user(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let name = user.replace(':', "-");
        self.pki.issue_client(&name, user, group)?;
        let [certificate, key] =
            ["crt", "key"].map(|kind| self.pki_file(&format!("{name}.{kind}")));
        let text = self.render(self.address, &Credentials::Certificate(&certificate, &key));
        let file = self.directory.path().join(format!("{name}.kubeconfig"));
        fs::write(&file, text).context("failed to write a kubeconfig")?;
        Ok(file)
    }

    /// A file of its certificates and keys: `ca.crt`, `ca.key`, `tokens.key`.
    #[must_use]
    pub fn pki_file(&self, name: &str) -> PathBuf {
        self.pki.file(name)
    }

    /// As [`ApiServer::restart`], from now on with one flag more.
    ///
    /// # Errors
    /// When it does not serve again.
    pub fn restart_with(&mut self, flag: impl Into<String>) -> Result<()> {
        self.arguments.push(flag.into());
        self.restart()
    }

    /// A client of one whom RBAC allows everything; to be made, and used, inside of a tokio
    /// runtime.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn client(&self) -> Result<Client> {
        client(&self.admin_kubeconfig()).await
    }

    /// Installs our kinds, as `deploy/` does, and waits until the server knows them.
    ///
    /// # Errors
    /// When the server does not accept them.
    pub fn install_crds(&self) -> Result<()> {
        let crds = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds");
        self.kubectl(&["apply", "--server-side", "-k", crds], None)?;
        let established = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
        self.kubectl(&established, None).map(drop)
    }

    /// Runs the real kubectl as administrator; what it printed on standard output.
    ///
    /// # Errors
    /// When it fails: with what it said on standard error.
    pub fn kubectl(&self, arguments: &[&str], stdin: Option<&str>) -> Result<String> {
        let mut command = Command::new(self.binaries.join("kubectl"));
        command.args(arguments).env("KUBECONFIG", self.admin_kubeconfig());
        // Not a flag: arguments may end with a command for `exec`.
        command.env("KUBECACHEDIR", self.directory.path().join("kubectl-cache"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("failed to start kubectl")?;
        let mut pipe = child.stdin.take().context("kubectl's input is piped")?;
        let input = stdin.unwrap_or_default().to_owned();
        // Beside reading what it prints, or both could wait for each other.
        let writer = std::thread::spawn(move || pipe.write_all(input.as_bytes()));
        let output = child.wait_with_output()?;
        let _ = writer.join();
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "kubectl {arguments:?}: {}", said.trim());
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The answer to a GET of `path` as administrator; `null` where nothing is there.
    ///
    /// As `kubectl get --raw`, without a process: for what is asked until it is as wanted.
    ///
    /// # Errors
    /// When there is another answer, or none.
    pub fn get(&self, path: &str) -> Result<Value> {
        let kubeconfig = self.admin_kubeconfig();
        block_on(async move {
            let client = client(&kubeconfig).await?;
            match client.request(http::Request::get(path).body(Vec::new())?).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
                answer => answer.with_context(|| format!("failed to get {path}")),
            }
        })
    }

    /// The path of `kube-apiserver`, `etcd` or `kubectl`.
    ///
    /// # Errors
    /// When they are not there and cannot be built.
    pub fn binary(name: &str) -> Result<PathBuf> {
        Ok(binaries()?.join(name))
    }

    /// The audit log: a JSON object a line, one for each request that was answered. Not there
    /// without [`Options::audit`].
    #[must_use]
    pub fn audit_log(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }

    /// What kube-apiserver logs, over all its restarts.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("kube-apiserver.log")
    }

    fn address_here(&self) -> SocketAddr {
        self.forward.as_ref().map_or(self.address, Forward::address)
    }

    fn render(&self, server: SocketAddr, who: &Credentials<'_>) -> String {
        kubeconfig::render(server, &self.pki.file("ca.crt"), who)
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn wait_until_ready(&self, server: &mut Guarded) -> Result<()> {
        let kubeconfig = self.admin_kubeconfig();
        let deadline = Instant::now() + START_LIMIT;
        block_on(async {
            loop {
                let asked = tokio::time::timeout(ASK_LIMIT, is_ready(&kubeconfig)).await;
                let Err(reason) = asked.map_err(anyhow::Error::from).flatten() else {
                    return Ok(());
                };
                let status = server.ended()?;
                if status.is_some() || Instant::now() > deadline {
                    let status = status.map(|status| format!(" ({status})"));
                    let status = status.unwrap_or_default();
                    let log = server.last_words();
                    bail!("kube-apiserver does not serve{status}: {reason:#}\n{log}");
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        })
    }
}

/// Runs a task on a thread of its own: the caller may be inside of a runtime.
fn block_on<T: Send>(task: impl Future<Output = Result<T>> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(task)
        });
        running.join().unwrap_or_else(|_| bail!("a question to kube-apiserver panicked"))
    })
}

/// A port for the life of this process's server: no other process can get it in between.
///
/// kube-apiserver may share it, for it binds with `SO_REUSEPORT` too; a socket that does not listen
/// takes no connection away from it.
fn reserve_port(ip: IpAddr) -> Result<(Socket, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SocketAddr::new(ip, 0).into()).context("failed to reserve a port")?;
    let address = socket.local_addr()?.as_socket().context("a port has an address")?;
    Ok((socket, address))
}

/// Sockets in the file system: reached from every network namespace, and no port to collide on.
fn start_etcd(binaries: &Path, directory: &Path, arguments: Vec<String>) -> Result<Guarded> {
    let directory = directory.display();
    let mut all = vec![
        format!("--data-dir={directory}/etcd"),
        format!("--listen-client-urls=unix://{directory}/etcd.sock"),
        format!("--listen-peer-urls=unix://{directory}/etcd-peer.sock"),
        // Told to other members only, and there are none.
        "--advertise-client-urls=http://localhost:1".to_owned(),
        // The data lives as long as the test.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ];
    all.extend(arguments);
    let log = PathBuf::from(format!("{directory}/etcd.log"));
    Guarded::start(None, &binaries.join("etcd"), &all, &log)
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn is_ready(kubeconfig: &Path) -> Result<()> {
    let client = client(kubeconfig).await?;
    client.request_text(http::Request::get("/readyz").body(Vec::new())?).await?;
    // Made by the server itself, a moment after it says that it is ready.
    let namespaces: Api<KubeNamespace> = Api::all(client);
    for name in ["default", "kube-system"] {
        namespaces.get(name).await.with_context(|| format!("namespace {name}"))?;
    }
    Ok(())
}
