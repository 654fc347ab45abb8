//! The configuration of `run` and `check`: flags, a YAML file with the same names, and defaults. Flags win over the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::IpNet;
use ringway_engine::tables::PodDelivery;
use ringway_model::NodePortAddresses;
use serde::Deserialize;

mod addresses;
mod choices;
mod limits;
mod timeouts;

pub use self::choices::{Delivery, Mode, OnStop};
use self::limits::{AFFINITY_MAX_DEFAULT, AFFINITY_MAX_RANGE, FLOWS_MAX_RANGE, flows_max_default, flows6_max_default};
pub use self::timeouts::FlowTimeouts;
use crate::apiserver::{Access, DaemonSetName, Endpoint, Pod};
use crate::units::{BindAddress, PortRange, Seconds};

/// Where the process keeps its lock, socket and pins. On `/run`, so that a reboot, which ends every program and map anyway, empties it.
pub const STATE_DIR_DEFAULT: &str = "/run/ringway";

/// Default of `--snat-ports`: below `net.ipv4.ip_local_port_range` as Linux sets it (32768-60999), below Kubernetes' NodePorts
/// (30000-32767) and above the ports that daemons listen on (kubelet 10250 stays reachable: only flows that the table knows are taken).
pub const SNAT_PORTS_DEFAULT: PortRange = PortRange { first: 10_000, last: 29_999 };

/// Ports of a dedicated `--snat-address`: all but the privileged ones, which some services distrust or trust too much.
pub const SNAT_PORTS_DEDICATED: PortRange = PortRange { first: 1_024, last: 65_535 };

/// Default of `--healthz-bind-address`, kube-proxy's: load balancers ask there.
const HEALTHZ_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10_256);

/// Default of `--metrics-bind-address`, kube-proxy's.
const METRICS_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10_249);

/// Most workers: the hostlink has one queue for each, and a kick per worker per batch is already rare at eight.
const WORKERS_MAX: usize = 64;

/// Most uplinks: the engine counts them in a `u8`, the BPF map of uplinks has 64 entries.
const UPLINKS_MAX: usize = 64;

/// Flags of `run` and `check`, and the keys of the configuration file: one struct, so that their names cannot differ.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Settings {
    /// NIC or bond to serve; repeat for several
    #[arg(long, value_name = "DEV")]
    #[serde(default)]
    pub uplink: Vec<String>,

    /// Name of this node, as endpoints carry it in `nodeName`
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,

    /// Folder with YAML of Services, EndpointSlices, Nodes and ServiceCIDRs; followed live
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Follow the cluster of this kubeconfig
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Another place where the apiserver answers; repeat for several; #NAME if its certificate is for another name
    #[arg(long, value_name = "URL[#NAME]")]
    #[serde(default)]
    pub apiserver: Vec<Endpoint>,

    /// Follow the cluster of this pod [default: if there is no other source and this is a pod with a service account]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub in_cluster: Option<bool>,

    /// Pinned worker threads [default: one per queue of the widest uplink, at most one per CPU]
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,

    /// How uplinks are driven [default: auto, the first of zero-copy, copy, generic that the driver takes]
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,

    /// Source address for connections to backends on other nodes; repeat for several, of either family [default: the node's own address]
    #[arg(long, value_name = "ADDR")]
    #[serde(default)]
    pub snat_address: Vec<IpAddr>,

    /// Ports of the node's own addresses that serve as SNAT ports [default: 10000-29999]
    #[arg(long, value_name = "LO-HI")]
    pub snat_ports: Option<PortRange>,

    /// How packets from outside reach pods here [default: edge, so that the node's firewall sees them]
    #[arg(long, value_enum)]
    pub pod_delivery: Option<Delivery>,

    /// Addresses of this node on which NodePorts answer: `primary`, `all`, or networks [default: primary]
    #[arg(long = "nodeport-addresses", value_name = "primary|all|CIDR,...")]
    #[serde(default, rename = "nodeport-addresses")]
    pub node_port_addresses: Vec<String>,

    /// Range of ClusterIPs, beside those of ServiceCIDR objects; repeat for several
    #[arg(long, value_name = "CIDR")]
    #[serde(default)]
    pub service_cidr: Vec<String>,

    /// Remove the taint ringway.dev/not-ready of this node when packets flow; needs the right to get and patch nodes
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub remove_taint: Option<bool>,

    /// Answer ARP and neighbor solicitations for LoadBalancer and external IPs on this node
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub announce: Option<bool>,

    /// Answer pings to the addresses of services [default: true]
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub answer_ping: Option<bool>,

    /// Most IPv4 flows at a time [default: 32768 for each CPU, 131072 to 1048576]
    #[arg(long, value_name = "N")]
    pub flows_max: Option<u32>,

    /// Most IPv6 flows at a time [default: half of --flows-max, for they need twice the room]
    #[arg(long, value_name = "N")]
    pub flows6_max: Option<u32>,

    /// Most clients that session affinity remembers, one for each service port [default: 131072]
    #[arg(long, value_name = "N")]
    pub affinity_max: Option<u32>,

    /// Idle time-out of a TCP connection whose SYN was not answered [default: 2m]
    #[arg(long, value_name = "DURATION")]
    pub timeout_tcp_syn: Option<Seconds>,

    /// Idle time-out of an established TCP connection [default: 24h]
    #[arg(long, value_name = "DURATION")]
    pub timeout_tcp_established: Option<Seconds>,

    /// Idle time-out of a TCP connection that one side closed [default: 1h]
    #[arg(long, value_name = "DURATION")]
    pub timeout_tcp_close_wait: Option<Seconds>,

    /// How long a TCP connection is remembered that both sides have closed [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub timeout_tcp_closed: Option<Seconds>,

    /// Idle time-out of a UDP flow without reply [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub timeout_udp_unreplied: Option<Seconds>,

    /// Idle time-out of a UDP flow with replies [default: 3m]
    #[arg(long, value_name = "DURATION")]
    pub timeout_udp: Option<Seconds>,

    /// What SIGTERM leaves behind [default: remove; keep is for updates: established flows live on, new ones wait for the next start]
    #[arg(long, value_enum)]
    pub on_stop: Option<OnStop>,

    /// The DaemonSet that runs this process: a stop after it was deleted removes everything, whatever --on-stop says
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub daemonset: Option<DaemonSetName>,

    /// Where /healthz, /livez and /readyz answer; an empty text switches them off [default: 0.0.0.0:10256]
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub healthz_bind_address: Option<BindAddress>,

    /// Where /metrics and /proxyMode answer; an empty text switches them off [default: 127.0.0.1:10249]
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub metrics_bind_address: Option<BindAddress>,

    /// Where the process keeps its lock, socket and pins [default: /run/ringway]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// error, warn, info, debug, trace, or a filter such as `ringway=debug` [default: info] [env: RINGWAY_LOG]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// What `run` and `check` work with: complete and within bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub uplinks: Vec<String>,
    pub node_name: String,
    pub manifests: Option<PathBuf>,
    /// At least one of the two sources is there.
    pub apiserver: Option<Access>,
    pub remove_taint: bool,
    /// `None`: decide by the uplinks' queues and the CPUs.
    pub workers: Option<usize>,
    pub mode: Mode,
    pub snat_addresses: Vec<IpAddr>,
    pub snat_ports: PortRange,
    pub pod_delivery: PodDelivery,
    pub announce: bool,
    pub answer_ping: bool,
    pub node_port_addresses: NodePortAddresses,
    pub service_cidrs: Vec<IpNet>,
    pub flows_max: u32,
    pub flows6_max: u32,
    pub affinity_max: u32,
    pub timeouts: FlowTimeouts,
    pub on_stop: OnStop,
    /// Always with an apiserver.
    pub daemonset: Option<DaemonSetName>,
    /// `None`: off.
    pub healthz: Option<SocketAddr>,
    /// `None`: off.
    pub metrics: Option<SocketAddr>,
    pub state_dir: PathBuf,
}

impl Settings {
    /// Reads a configuration file. Errors name the file and the field.
    pub fn from_file(path: &Path) -> anyhow::Result<Settings> {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
        Settings::from_yaml(&text).with_context(|| format!("configuration file {}", path.display()))
    }

    /// Parses the text of a configuration file. An empty one is allowed: every value then comes from flags.
    pub fn from_yaml(text: &str) -> anyhow::Result<Settings> {
        let value: Option<serde_json::Value> = serde_saphyr::from_str(text).context("is no YAML")?;
        let Some(value) = value else { return Ok(Settings::default()) };
        serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            let reason = error.into_inner();
            // Unknown keys are reported at the root: the reason names them.
            if path == "." { anyhow::anyhow!("{reason}") } else { anyhow::anyhow!("field `{path}`: {reason}") }
        })
    }

    /// These settings where given, else the others.
    pub fn or(self, file: Settings) -> Settings {
        let list = |flags: Vec<String>, file: Vec<String>| if flags.is_empty() { file } else { flags };
        Settings {
            uplink: list(self.uplink, file.uplink),
            node_name: self.node_name.or(file.node_name),
            manifests: self.manifests.or(file.manifests),
            kubeconfig: self.kubeconfig.or(file.kubeconfig),
            apiserver: if self.apiserver.is_empty() { file.apiserver } else { self.apiserver },
            in_cluster: self.in_cluster.or(file.in_cluster),
            remove_taint: self.remove_taint.or(file.remove_taint),
            workers: self.workers.or(file.workers),
            mode: self.mode.or(file.mode),
            snat_address: if self.snat_address.is_empty() { file.snat_address } else { self.snat_address },
            snat_ports: self.snat_ports.or(file.snat_ports),
            pod_delivery: self.pod_delivery.or(file.pod_delivery),
            node_port_addresses: list(self.node_port_addresses, file.node_port_addresses),
            service_cidr: list(self.service_cidr, file.service_cidr),
            announce: self.announce.or(file.announce),
            answer_ping: self.answer_ping.or(file.answer_ping),
            flows_max: self.flows_max.or(file.flows_max),
            flows6_max: self.flows6_max.or(file.flows6_max),
            affinity_max: self.affinity_max.or(file.affinity_max),
            timeout_tcp_syn: self.timeout_tcp_syn.or(file.timeout_tcp_syn),
            timeout_tcp_established: self.timeout_tcp_established.or(file.timeout_tcp_established),
            timeout_tcp_close_wait: self.timeout_tcp_close_wait.or(file.timeout_tcp_close_wait),
            timeout_tcp_closed: self.timeout_tcp_closed.or(file.timeout_tcp_closed),
            timeout_udp_unreplied: self.timeout_udp_unreplied.or(file.timeout_udp_unreplied),
            timeout_udp: self.timeout_udp.or(file.timeout_udp),
            on_stop: self.on_stop.or(file.on_stop),
            daemonset: self.daemonset.or(file.daemonset),
            healthz_bind_address: self.healthz_bind_address.or(file.healthz_bind_address),
            metrics_bind_address: self.metrics_bind_address.or(file.metrics_bind_address),
            state_dir: self.state_dir.or(file.state_dir),
            log_level: self.log_level.or(file.log_level),
        }
    }

    /// Fills in defaults and checks bounds. The error lists everything that is missing or out of bounds.
    pub fn resolve(self) -> anyhow::Result<Config> {
        let mut wrong = Vec::new();
        let mut require = |given: bool, what: &str| {
            if !given {
                wrong.push(format!("{what} is missing: give the flag, or the key in the file of --config"));
            }
        };
        require(!self.uplink.is_empty(), "--uplink");
        require(self.node_name.as_ref().is_some_and(|name| !name.is_empty()), "--node-name");
        let apiserver = access(&self, Pod::here(), &mut wrong);
        if self.uplink.len() > UPLINKS_MAX {
            wrong.push(format!("--uplink: {} devices, at most {UPLINKS_MAX} are possible", self.uplink.len()));
        }
        if self.remove_taint == Some(true) && apiserver.is_none() {
            wrong.push("--remove-taint: the node is the apiserver's: give --kubeconfig or --apiserver".into());
        }
        if self.daemonset.is_some() && apiserver.is_none() {
            wrong.push("--daemonset: it is the apiserver's: give --kubeconfig or --apiserver".into());
        }
        let workers = self.workers;
        if workers.is_some_and(|workers| workers == 0 || workers > WORKERS_MAX) {
            wrong.push(format!("--workers: must be between 1 and {WORKERS_MAX}"));
        }
        let flows_max = self.flows_max.unwrap_or_else(flows_max_default);
        let flows6_max = self.flows6_max.unwrap_or_else(|| flows6_max_default(flows_max));
        for (flag, flows) in [("--flows-max", flows_max), ("--flows6-max", flows6_max)] {
            if !FLOWS_MAX_RANGE.contains(&flows) {
                wrong.push(format!("{flag}: must be between {} and {}", FLOWS_MAX_RANGE.start(), FLOWS_MAX_RANGE.end()));
            }
        }
        let node_port_addresses = addresses::node_port_addresses(&self.node_port_addresses, &mut wrong);
        let service_cidrs = addresses::service_cidrs(&self.service_cidr, &mut wrong);
        let affinity_max = self.affinity_max.unwrap_or(AFFINITY_MAX_DEFAULT);
        if !AFFINITY_MAX_RANGE.contains(&affinity_max) {
            wrong.push(format!("--affinity-max: must be between {} and {}", AFFINITY_MAX_RANGE.start(), AFFINITY_MAX_RANGE.end()));
        }
        for address in self.snat_address.iter().filter(|address| !addresses::can_be_source(address)) {
            wrong.push(format!("--snat-address: {address} cannot be the source of a connection"));
        }
        if !wrong.is_empty() {
            bail!("{}", wrong.join("\n"));
        }
        let timeouts = FlowTimeouts::default();
        Ok(Config {
            uplinks: self.uplink,
            node_name: self.node_name.unwrap_or_default(),
            manifests: self.manifests,
            apiserver,
            remove_taint: self.remove_taint.unwrap_or(false),
            workers,
            mode: self.mode.unwrap_or_default(),
            snat_addresses: self.snat_address,
            snat_ports: self.snat_ports.unwrap_or(SNAT_PORTS_DEFAULT),
            pod_delivery: match self.pod_delivery {
                None | Some(Delivery::Edge) => PodDelivery::Edge,
                Some(Delivery::Direct) => PodDelivery::Direct,
            },
            announce: self.announce.unwrap_or(false),
            // People look for a service with ping first.
            answer_ping: self.answer_ping.unwrap_or(true),
            node_port_addresses,
            service_cidrs,
            flows_max,
            flows6_max,
            affinity_max,
            timeouts: FlowTimeouts {
                tcp_syn: self.timeout_tcp_syn.unwrap_or(timeouts.tcp_syn),
                tcp_established: self.timeout_tcp_established.unwrap_or(timeouts.tcp_established),
                tcp_close_wait: self.timeout_tcp_close_wait.unwrap_or(timeouts.tcp_close_wait),
                tcp_closed: self.timeout_tcp_closed.unwrap_or(timeouts.tcp_closed),
                udp_unreplied: self.timeout_udp_unreplied.unwrap_or(timeouts.udp_unreplied),
                udp: self.timeout_udp.unwrap_or(timeouts.udp),
            },
            on_stop: self.on_stop.unwrap_or_default(),
            daemonset: self.daemonset,
            healthz: self.healthz_bind_address.map_or(Some(HEALTHZ_DEFAULT), |address| address.with_default_port(HEALTHZ_DEFAULT.port())),
            metrics: self.metrics_bind_address.map_or(Some(METRICS_DEFAULT), |address| address.with_default_port(METRICS_DEFAULT.port())),
            state_dir: self.state_dir.unwrap_or_else(|| STATE_DIR_DEFAULT.into()),
        })
    }
}

/// How to reach the apiserver, if one is asked for.
fn access(settings: &Settings, pod: Option<Pod>, wrong: &mut Vec<String>) -> Option<Access> {
    let nothing_else = settings.manifests.is_none() && settings.kubeconfig.is_none() && settings.apiserver.is_empty();
    let in_cluster = settings.in_cluster.unwrap_or(nothing_else && pod.is_some());
    if nothing_else && !in_cluster {
        wrong.push("no source of services: give --kubeconfig, --apiserver or --manifests, or run in a pod with a service account".into());
    }
    if in_cluster && pod.is_none() {
        wrong.push("--in-cluster: this is no pod with a service account (KUBERNETES_SERVICE_HOST or the token is missing)".into());
    }
    if settings.kubeconfig.is_none() && settings.apiserver.is_empty() && !in_cluster {
        return None;
    }
    let endpoints = settings.apiserver.iter().cloned().chain(pod.filter(|_| in_cluster).map(|pod| pod.endpoint)).collect();
    Some(Access::new(endpoints, settings.kubeconfig.clone()))
}

#[cfg(test)]
mod tests;
