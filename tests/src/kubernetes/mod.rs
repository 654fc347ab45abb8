//! A real control plane in a namespace of the lab: etcd, and as many kube-apiservers as a test wants.
//!
//! ```text
//! test ─ curl (admin) ─▶ apiserver 0 :6443 ─┐
//! ringway (token) ─────▶ apiserver 1 :6444 ─┴─▶ etcd :2379        all in one namespace, all state in the lab's folder
//! ```

mod binaries;
mod kube_proxy;
mod pki;
mod store;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{Lab, Namespace, Process, wait_for};

pub use binaries::program;
pub use kube_proxy::KubeProxy;
pub use pki::SERVER_NAME;
pub use store::Stored;

/// A cold start on a busy machine with two cores.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// First apiserver; the others count from here.
pub const PORT: u16 = 6443;

/// Everything of `deploy/rbac.yaml`, for the user of [`Cluster::kubeconfig`].
const RBAC: &str = include_str!("../../../deploy/rbac.yaml");

/// How a control plane differs from the usual one.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub servers: u16,
    /// Further arguments of each apiserver.
    pub more: Vec<String>,
    /// The user `ringway` may do what `deploy/rbac.yaml` says.
    pub granted: bool,
    /// The servers' certificates are for [`SERVER_NAME`] only, not for their address.
    pub named: bool,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions { servers: 1, more: Vec::new(), granted: true, named: false }
    }
}

/// A running control plane.
pub struct Cluster {
    dir: PathBuf,
    namespace: Namespace,
    address: String,
    options: ClusterOptions,
    etcd: RefCell<Option<Process>>,
    servers: Vec<RefCell<Option<Process>>>,
    /// See [`Cluster::cut_off`].
    cut_off: Cell<Option<usize>>,
}

impl Cluster {
    /// Starts everything at `address` of a namespace and waits until it is ready.
    pub fn start(lab: &Lab, namespace: &Namespace, address: &str, options: ClusterOptions) -> Result<Cluster> {
        let dir = lab.state_dir().join("cluster");
        pki::make(&dir, address, options.named)?;
        let servers = (0..options.servers).map(|_| RefCell::default()).collect();
        let cluster = Cluster {
            dir,
            namespace: namespace.clone(),
            address: address.to_owned(),
            options,
            etcd: RefCell::default(),
            servers,
            cut_off: Cell::new(None),
        };
        cluster.launch_etcd()?;
        cluster.set_token("ringway-token")?;
        for server in 0..cluster.servers.len() {
            cluster.launch(server, &[])?;
        }
        for server in 0..cluster.servers.len() {
            cluster.wait_ready(server)?;
        }
        if cluster.options.granted {
            cluster.grant()?;
        }
        Ok(cluster)
    }

    fn launch_etcd(&self) -> Result<()> {
        let (program, dir) = (program("etcd")?, self.dir.join("etcd"));
        let (program, dir) = (program.to_string_lossy(), dir.to_string_lossy());
        let peers = ["--listen-peer-urls", "http://127.0.0.1:2380", "--unsafe-no-fsync", "--log-level", "warn"];
        let words = [&[&*program, "--data-dir", &*dir][..], &peers].concat();
        *self.etcd.borrow_mut() = Some(self.namespace.spawn("etcd", &words)?);
        Ok(())
    }

    /// Ends everything and begins anew with an empty etcd at its first version. No server runs afterwards.
    pub fn wipe(&self) -> Result<()> {
        for server in 0..self.servers.len() {
            self.kill(server);
        }
        self.etcd.borrow_mut().take();
        std::fs::remove_dir_all(self.dir.join("etcd")).context("cannot remove etcd's data")?;
        self.launch_etcd()
    }

    /// Where a server answers.
    pub fn url(&self, server: usize) -> String {
        format!("https://{}:{}", self.address, usize::from(PORT) + server)
    }

    /// Starts a server (again); `more` are further arguments.
    pub fn launch(&self, server: usize, more: &[&str]) -> Result<()> {
        let path = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let port = usize::from(PORT) + server;
        let arguments = [
            format!("--bind-address={}", self.address),
            format!("--advertise-address={}", self.address),
            format!("--secure-port={port}"),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--client-ca-file={}", path("ca.crt")),
            format!("--token-auth-file={}", path("tokens.csv")),
            format!("--service-account-key-file={}", path("server.pub")),
            format!("--service-account-signing-key-file={}", path("server.key")),
        ];
        let fixed = [
            "--etcd-servers=http://127.0.0.1:2379",
            "--authorization-mode=RBAC",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.96.0.0/16",
            "--disable-admission-plugins=ServiceAccount",
            // Tests say themselves where apiservers are.
            "--endpoint-reconciler-type=none",
            "--enable-priority-and-fairness=false",
            "--max-requests-inflight=0",
            "--max-mutating-requests-inflight=0",
        ];
        let program = program("kube-apiserver")?;
        let mut words = vec![program.to_string_lossy().into_owned()];
        words.extend(arguments);
        words.extend(fixed.map(str::to_owned));
        words.extend(self.options.more.iter().cloned());
        words.extend(more.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        *self.servers[server].borrow_mut() = Some(self.namespace.spawn(&format!("apiserver-{server}"), &words)?);
        Ok(())
    }

    pub fn wait_ready(&self, server: usize) -> Result<()> {
        wait_for(&format!("apiserver {server} ready"), READY_TIMEOUT, || {
            let mut process = self.servers[server].borrow_mut();
            let process = process.as_mut().context("it was not started")?;
            if !process.is_running() {
                panic!("apiserver {server} ended; its log: {}", process.log_tail());
            }
            let text = self.curl(server, "GET", "/readyz", None)?;
            ensure!(text.0 == 200, "/readyz: {text:?}");
            std::thread::sleep(Duration::from_millis(20));
            Ok(())
        })
    }

    /// SIGKILL.
    pub fn kill(&self, server: usize) {
        self.servers[server].borrow_mut().take();
    }

    /// A signal by name: `STOP` makes it hang, `CONT` ends that.
    pub fn signal(&self, server: usize, name: &str) -> Result<()> {
        self.servers[server].borrow().as_ref().context("the apiserver does not run")?.signal(name)
    }

    /// Nothing reaches the server from now on and nothing comes back, as behind a router that has died: not even a RST.
    pub fn cut_off(&self, server: usize) -> Result<()> {
        self.cut_off.set(Some(server));
        let port = usize::from(PORT) + server;
        self.namespace.nft(&format!(
            "table inet cut {{\nchain output {{\ntype filter hook output priority 0;\ntcp dport {port} drop\ntcp sport {port} drop\n}}\n}}\n"
        ))
    }

    /// Ends [`Cluster::cut_off`].
    pub fn reconnect(&self) -> Result<()> {
        self.cut_off.set(None);
        self.namespace.nft("delete table inet cut")
    }

    /// Lets the user of [`Cluster::kubeconfig`] do what `deploy/rbac.yaml` says.
    pub fn grant(&self) -> Result<()> {
        self.create(RBAC)?;
        self.create(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: ringway-user}\n\
             roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: ringway}\nsubjects: [{kind: User, name: ringway}]\n",
        )
    }

    /// The token that the servers accept from their next start on.
    pub fn set_token(&self, token: &str) -> Result<()> {
        std::fs::write(self.dir.join("tokens.csv"), format!("{token},ringway,1,\n")).context("cannot write the tokens")
    }

    /// The file with the token that `ringway` shows.
    pub fn token_file(&self) -> PathBuf {
        self.dir.join("token")
    }

    /// A kubeconfig for the user `ringway`, whose token stands in [`Cluster::token_file`].
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        std::fs::write(self.token_file(), "ringway-token")?;
        self.kubeconfig_with("kubeconfig", &format!("tokenFile: '{}'", self.token_file().display()))
    }

    /// A kubeconfig for an administrator.
    pub fn admin_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig_with("admin.kubeconfig", "client-certificate: admin.crt, client-key: admin.key")
    }

    /// A kubeconfig for whoever [`Cluster::set_client`] says.
    pub fn client_kubeconfig(&self) -> Result<PathBuf> {
        self.kubeconfig_with("client.kubeconfig", "client-certificate: client.crt, client-key: client.key")
    }

    /// Replaces the certificate of [`Cluster::client_kubeconfig`] by a new one of this user.
    pub fn set_client(&self, user: &str) -> Result<()> {
        pki::make_client(&self.dir, user)
    }

    fn kubeconfig_with(&self, name: &str, user: &str) -> Result<PathBuf> {
        let path = self.dir.join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{{name: x, context: {{cluster: c, user: u}}}}]\n\
             clusters: [{{name: c, cluster: {{server: '{}', certificate-authority: ca.crt}}}}]\nusers: [{{name: u, user: {{{user}}}}}]\n",
            self.url(0)
        );
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// A folder like the one that Kubernetes mounts into pods.
    pub fn service_account_dir(&self) -> Result<PathBuf> {
        std::fs::write(self.token_file(), "ringway-token")?;
        Ok(self.dir.clone())
    }

    /// Creates each document of a YAML text.
    pub fn create(&self, yaml: &str) -> Result<()> {
        for document in yaml.split("---\n").filter(|document| document.contains("kind:")) {
            let value = |key: &str| {
                let line = document.lines().find_map(|line| line.strip_prefix(key));
                line.map(|value| value.trim_start_matches(':').trim().to_owned()).with_context(|| format!("no {key} in {document}"))
            };
            let collection = collection(&value("apiVersion")?, &value("kind")?, document)?;
            self.expect(201, "POST", &collection, Some(document))?;
        }
        Ok(())
    }

    pub fn delete(&self, path: &str) -> Result<()> {
        self.expect(200, "DELETE", path, None).map(drop)
    }

    /// A JSON merge patch.
    pub fn patch(&self, path: &str, patch: &Value) -> Result<()> {
        self.expect(200, "PATCH", path, Some(&patch.to_string())).map(drop)
    }

    pub fn get(&self, path: &str) -> Result<Value> {
        let text = self.expect(200, "GET", path, None)?;
        serde_json::from_str(&text).with_context(|| format!("{path} is no JSON"))
    }

    /// Forgets all revisions of etcd before now, as the apiserver does every five minutes.
    pub fn compact(&self) -> Result<()> {
        let status = self.etcd("/v3/maintenance/status", "{}")?;
        let revision = status["header"]["revision"].as_str().context("etcd tells no revision")?;
        let answer = self.etcd("/v3/kv/compaction", &format!("{{\"revision\": {revision}, \"physical\": true}}"))?;
        ensure!(answer["header"].is_object(), "etcd does not compact: {answer}");
        Ok(())
    }

    fn expect(&self, code: u16, method: &str, path: &str, body: Option<&str>) -> Result<String> {
        let answers = |server: &usize| self.servers[*server].borrow().is_some() && self.cut_off.get() != Some(*server);
        let running = (0..self.servers.len()).find(answers).context("no apiserver runs")?;
        let (found, text) = self.curl(running, method, path, body)?;
        ensure!(found == code, "{method} {path}: {found} {text}");
        Ok(text)
    }

    /// Asks a server as an administrator; the code and the text of the answer.
    fn curl(&self, server: usize, method: &str, path: &str, body: Option<&str>) -> Result<(u16, String)> {
        let file = |name: &str| self.dir.join(name);
        let mut command = self.namespace.command("curl");
        command.args(["-sS", "--noproxy", "*", "--max-time", "10", "-w", "\n%{http_code}", "-X", method, "--cacert"]);
        command.arg(file("ca.crt")).arg("--cert").arg(file("admin.crt")).arg("--key").arg(file("admin.key"));
        if let Some(body) = body {
            let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/yaml" };
            command.args(["-H", &format!("Content-Type: {kind}"), "--data-binary", body]);
        }
        if self.options.named {
            let port = usize::from(PORT) + server;
            command
                .args(["--resolve", &format!("{SERVER_NAME}:{port}:{}", self.address)])
                .arg(format!("https://{SERVER_NAME}:{port}{path}"));
        } else {
            command.arg(format!("{}{path}", self.url(server)));
        }
        let text = run(&mut command)?;
        let (text, code) = text.rsplit_once('\n').context("curl printed no code")?;
        Ok((code.parse().context("curl printed no code")?, text.to_owned()))
    }

    /// Where certificates and configurations lie.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The URL at which objects of a kind are created.
fn collection(api_version: &str, kind: &str, document: &str) -> Result<String> {
    let namespace = document.split("namespace: ").nth(1).and_then(|rest| rest.split([',', '}', '\n']).next()).unwrap_or("default").trim();
    Ok(match (api_version, kind) {
        ("v1", "Service") => format!("/api/v1/namespaces/{namespace}/services"),
        ("v1", "ServiceAccount") => format!("/api/v1/namespaces/{namespace}/serviceaccounts"),
        ("discovery.k8s.io/v1", "EndpointSlice") => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        ("v1", "Node") => "/api/v1/nodes".into(),
        ("v1", "Pod") => format!("/api/v1/namespaces/{namespace}/pods"),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => "/apis/rbac.authorization.k8s.io/v1/clusterroles".into(),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings".into(),
        ("rbac.authorization.k8s.io/v1", "Role") => format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/roles"),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => {
            format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings")
        }
        ("networking.k8s.io/v1", "ServiceCIDR") => "/apis/networking.k8s.io/v1/servicecidrs".into(),
        other => bail!("no collection is known for {other:?}"),
    })
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
