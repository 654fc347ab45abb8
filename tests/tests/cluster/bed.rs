//! What the stories stand on: the cluster of `make cluster`, pods that answer, clients that count.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

const IMAGE: &str = "docker.io/library/ringway-lab:latest";
/// Of every server in a pod.
pub const PORT: u16 = 8080;
/// How long clients wait: as HTTP clients do, several repetitions of a SYN.
const PATIENCE_MS: &str = "10000";
/// How long a pod goes on after SIGTERM: until everybody knows that it leaves.
const DRAIN_SECONDS: u32 = 5;

/// The cluster that is up.
pub struct Bed {
    state: PathBuf,
    script: PathBuf,
}

impl Bed {
    /// # Panics
    /// There is none: the story did not run.
    pub fn open() -> Result<Bed> {
        let state = std::env::var_os("RINGWAY_CLUSTER_DIR").map_or_else(|| PathBuf::from("/var/lib/ringway-cluster"), PathBuf::from);
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/cluster.sh");
        ensure!(state.join("settings").exists(), "THE STORY DID NOT RUN: there is no cluster: make cluster");
        let bed = Bed { state, script };
        static IMAGE_IS_THERE: OnceLock<Result<(), String>> = OnceLock::new();
        let result = IMAGE_IS_THERE.get_or_init(|| bed.load_image().map_err(|error| format!("{error:#}")));
        result.clone().map_err(anyhow::Error::msg)?;
        Ok(bed)
    }

    fn load_image(&self) -> Result<()> {
        let (server, client) = (env!("CARGO_BIN_EXE_lab-server"), env!("CARGO_BIN_EXE_lab-client"));
        let (folder, file) = (self.state.join("lab-image"), self.state.join("lab.tar"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder)?;
        let mut pack = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/pack.sh"));
        pack.arg(folder).arg(&file).args([IMAGE, "\"Entrypoint\":[\"/lab-server\"]"]);
        run(pack.arg(format!("{server}=/lab-server")).arg(format!("{client}=/lab-client")))?;
        for node in self.nodes() {
            let mut import = self.node(&node, &["ctr", "-n", "k8s.io", "images", "import", "--snapshotter", "overlayfs", "-"]);
            run(import.stdin(std::fs::File::open(&file)?))?;
        }
        Ok(())
    }

    fn setting(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.state.join("settings")).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    }

    /// `ringway` or `kube-proxy`. What is asked of the one is told of the other.
    pub fn proxy(&self) -> String {
        self.setting("PROXY")
    }

    pub fn nodes(&self) -> Vec<String> {
        let count: u32 = self.setting("NODES").parse().unwrap_or(2);
        (1..=count).map(|number| format!("node{number}")).collect()
    }

    /// `cluster.sh WORDS`.
    pub fn cluster(&self, words: &[&str]) -> Result<String> {
        run(Command::new(&self.script).args(words).stdin(Stdio::null()))
    }

    /// A command on a node.
    pub fn node(&self, node: &str, words: &[&str]) -> Command {
        let mut command = Command::new(&self.script);
        command.args(["node", node]).args(words).stdin(Stdio::null());
        command
    }

    /// `ip` in the switch's namespace: wires of nodes have their names there.
    pub fn fabric(&self, arguments: &str) -> Result<String> {
        run(Command::new("ip").args(["-n", "rwc-fabric"]).args(arguments.split_whitespace()))
    }

    fn kubectl_command(&self) -> Command {
        let mut command = Command::new(self.state.join("bin/kubectl"));
        command.env("KUBECONFIG", self.state.join("pki/admin.kubeconfig"));
        command
    }

    pub fn kubectl(&self, arguments: &str) -> Result<String> {
        run(self.kubectl_command().args(arguments.split_whitespace()).stdin(Stdio::null()))
    }

    pub fn helm(&self, words: &[&str]) -> Result<String> {
        let mut command = Command::new(self.state.join("bin/helm"));
        run(command.env("KUBECONFIG", self.state.join("pki/admin.kubeconfig")).args(words).stdin(Stdio::null()))
    }

    pub fn apply(&self, yaml: &str) -> Result<()> {
        let mut child = self.kubectl_command().args(["apply", "-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        child.stdin.take().context("kubectl has no standard input")?.write_all(yaml.as_bytes())?;
        ensure!(child.wait()?.success(), "the apiserver does not take {yaml}");
        Ok(())
    }

    /// A namespace with a Deployment of servers, its Service of all types, and a client pod on each node.
    pub fn web(&self, name: &str, replicas: u32) -> Result<Web<'_>> {
        let _ = self.kubectl(&format!("delete namespace {name} --ignore-not-found --wait"));
        let container = format!("image: {IMAGE}, imagePullPolicy: Never");
        let mut yaml = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n---\napiVersion: apps/v1\nkind: Deployment\n\
             metadata: {{name: web, namespace: {name}}}\nspec:\n  replicas: {replicas}\n  selector: {{matchLabels: {{app: web}}}}\n  template:\n\
             \x20   metadata: {{labels: {{app: web}}}}\n    spec:\n      terminationGracePeriodSeconds: 20\n      containers:\n      - name: web\n        \
             {}\n        command: [/lab-server, $(POD), '{PORT}', '{DRAIN_SECONDS}']\n        \
             env: [{{name: POD, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}]\n        \
             readinessProbe: {{tcpSocket: {{port: {PORT}}}, periodSeconds: 1}}\n---\n\
             apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: {name}}}\nspec:\n  type: LoadBalancer\n  selector: {{app: web}}\n  \
             ports: [{{port: 80, targetPort: {PORT}}}]\n",
            container.replace(", ", "\n        ")
        );
        for node in self.nodes() {
            yaml += &format!(
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: client-{node}, namespace: {name}}}\nspec:\n  nodeName: {node}\n  \
                 terminationGracePeriodSeconds: 0\n  containers: [{{name: client, {container}, command: [/lab-server, client, '9']}}]\n"
            );
        }
        self.apply(&yaml)?;
        // Each story has its own: an address stays its Service's until that is gone.
        let load_balancer = [192, 0, 2, name.bytes().fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte)).clamp(1, 254)];
        let status = format!("{{\"status\":{{\"loadBalancer\":{{\"ingress\":[{{\"ip\":\"{}\"}}]}}}}}}", IpAddr::from(load_balancer));
        self.kubectl(&format!("-n {name} patch service web --subresource=status --type=merge -p {status}"))?;
        if replicas > 0 {
            self.kubectl(&format!("-n {name} rollout status deployment/web --timeout=180s"))?;
        }
        self.kubectl(&format!("-n {name} wait --for=condition=Ready pod --all --timeout=60s"))?;
        let service: Value = serde_json::from_str(&self.kubectl(&format!("-n {name} get service web -o json"))?)?;
        let cluster_ip = service["spec"]["clusterIP"].as_str().context("no ClusterIP")?.parse()?;
        let node_port = service["spec"]["ports"][0]["nodePort"].as_u64().context("no NodePort")? as u16;
        let web = Web {
            bed: self,
            name: name.to_owned(),
            cluster_ip: SocketAddr::new(cluster_ip, 80),
            node_port: SocketAddr::new([192, 168, 99, 11].into(), node_port),
            load_balancer: SocketAddr::new(load_balancer.into(), 80),
        };
        if replicas > 0 {
            wait_for("all ways to the Service answer", Duration::from_secs(30), || {
                let report = web.loads(30)?.after(Duration::from_millis(300))?;
                ensure!(report.errors == 0 && report.requests > 0, "{report:?}");
                Ok(())
            })?;
        }
        Ok(web)
    }
}

/// Servers, their Service, and clients.
pub struct Web<'a> {
    pub bed: &'a Bed,
    pub name: String,
    pub cluster_ip: SocketAddr,
    pub node_port: SocketAddr,
    pub load_balancer: SocketAddr,
}

impl Web<'_> {
    pub fn kubectl(&self, arguments: &str) -> Result<String> {
        self.bed.kubectl(&format!("-n {} {arguments}", self.name))
    }

    /// A command of `lab-client` outside of the cluster.
    pub fn outside(&self, words: &[&str]) -> Result<Client> {
        let mut command = Command::new("nsenter");
        command.args(["--net=/run/netns/rwc-client", "setpriv", "--pdeathsig", "KILL", env!("CARGO_BIN_EXE_lab-client")]);
        Client::start(command.args(words))
    }

    /// The same in a pod.
    pub fn in_pod(&self, node: &str, words: &[&str]) -> Result<Client> {
        let mut command = self.bed.kubectl_command();
        command.args(["-n", &self.name, "exec", "-i", &format!("client-{node}"), "--", "/lab-client"]);
        Client::start(command.args(words))
    }

    /// New connections at `rate` a second in all, evenly from pods to the ClusterIP, and from outside to NodePort and load-balancer address.
    pub fn loads(&self, rate: u32) -> Result<Loads> {
        let each = (f64::from(rate) / 3.0).to_string();
        let start = |target: SocketAddr, is_in_pod: bool| {
            let target = target.to_string();
            let words = ["load", "tcp", &target, "50", "--rate", &each, "--until-eof", "--patience-ms", PATIENCE_MS];
            if is_in_pod { self.in_pod("node2", &words) } else { self.outside(&words) }
        };
        Ok(Loads { clients: vec![start(self.cluster_ip, true)?, start(self.node_port, false)?, start(self.load_balancer, false)?] })
    }

    /// `count` connections in all that stay open, on the same three ways, each used ten times a second.
    pub fn holds(&self, count: u32) -> Result<Holds> {
        let each = (count / 3).to_string();
        let mut clients = vec![self.in_pod("node2", &["hold", &self.cluster_ip.to_string(), &each])?];
        for target in [self.node_port, self.load_balancer] {
            clients.push(self.outside(&["hold", &target.to_string(), &each])?);
        }
        for client in &mut clients {
            ensure!(client.line()? == "held", "connections cannot be opened");
            client.say("every 100")?;
        }
        Ok(Holds { clients })
    }
}

impl Drop for Web<'_> {
    fn drop(&mut self) {
        // The next story deletes it at its beginning, too.
        let _ = self.bed.kubectl(&format!("delete namespace {} --wait=false", self.name));
    }
}

/// A running `lab-client`.
pub struct Client {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Client {
    fn start(command: &mut Command) -> Result<Client> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start a client")?;
        let lines = BufReader::new(child.stdout.take().context("a client has no standard output")?);
        Ok(Client { child, lines })
    }

    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }

    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("a client's standard input is closed")?;
        writeln!(stdin, "{line}").context("a client has ended")
    }

    fn finish(mut self) -> Result<Value> {
        self.child.stdin = None;
        let mut text = String::new();
        self.lines.read_to_string(&mut text)?;
        let _ = self.child.wait();
        serde_json::from_str(text.trim()).with_context(|| format!("a client said {text:?}"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What clients have counted together.
#[derive(Debug, Default)]
pub struct Report {
    pub requests: u64,
    pub errors: u64,
    /// Of the errors, those that were told at once.
    pub refused: u64,
    /// One that was not told, if there is any.
    pub first_error: Option<String>,
    /// Of one connection with its answer; of one that was open, from question to answer.
    pub longest_ms: f64,
}

impl Report {
    fn add(&mut self, value: &Value) {
        let is_silent = value["errors"].as_u64() > value["refused"].as_u64();
        if is_silent || self.first_error.is_none() {
            self.first_error = value["first_error"].as_str().map(str::to_owned);
        }
        self.requests += value["requests"].as_u64().or(value["exchanges"].as_u64()).unwrap_or(0);
        self.errors += value["errors"].as_u64().unwrap_or(0);
        self.refused += value["refused"].as_u64().unwrap_or(0);
        let longest = value["longest_ms"].as_f64().or(value["longest_gap_ms"].as_f64());
        self.longest_ms = self.longest_ms.max(longest.unwrap_or(0.0));
    }
}

pub struct Loads {
    clients: Vec<Client>,
}

impl Loads {
    pub fn after(self, time: Duration) -> Result<Report> {
        std::thread::sleep(time);
        self.finish()
    }

    pub fn finish(self) -> Result<Report> {
        let mut report = Report::default();
        for client in self.clients {
            report.add(&client.finish()?);
        }
        Ok(report)
    }
}

pub struct Holds {
    clients: Vec<Client>,
}

impl Holds {
    pub fn finish(self) -> Result<Report> {
        let mut report = Report::default();
        for mut client in self.clients {
            client.say("stop")?;
            report.add(&serde_json::from_str(&client.line()?)?);
        }
        Ok(report)
    }
}

/// Tells what a story has seen, and asks it of Ringway: kube-proxy's figure stands beside it.
pub fn judge(bed: &Bed, story: &str, report: &Report, is_right: bool) -> Result<()> {
    println!("story {story}, {}: {report:?}", bed.proxy());
    ensure!(is_right || bed.proxy() != "ringway", "{story}: {report:?}");
    Ok(())
}

pub fn wait_for(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    loop {
        match condition() {
            Ok(()) => return Ok(()),
            Err(error) if start.elapsed() > timeout => bail!("{what}: not within {timeout:?}: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}

/// Runs to the end; what it printed.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
