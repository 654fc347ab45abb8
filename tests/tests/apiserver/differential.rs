//! kubernetes' own kube-proxy and Ringway on the same node with the same objects: they must agree on who is reached from where.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringway_tests::kubernetes::{Cluster, ClusterOptions, KubeProxy};
use ringway_tests::lab::{self, Lab, Namespace, Net, Ringway, RingwayOptions, Topology, address, wait_for};
use serde_json::{Value, json};

/// kube-proxy programs once a second at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// More requests than a fair choice among three servers needs to meet all: it misses one with a probability of 10^-6.
const REQUESTS: u32 = 36;

/// Where the probes go: (what it is about, target).
const TARGETS: &[(&str, &str)] = &[
    ("ClusterIP", "10.96.1.1:80"),
    ("a port that the ClusterIP does not have", "10.96.1.1:81"),
    ("second port, resolved by name", "10.96.1.1:8000"),
    ("NodePort", "10.0.0.11:30001"),
    ("a NodePort that nobody has", "10.0.0.11:30999"),
    ("LB IP", "10.0.0.101:80"),
    ("externalIP", "10.0.0.151:80"),
    ("internal policy Local", "10.96.1.2:80"),
    ("internal policy Local, NodePort", "10.0.0.11:30002"),
    ("internal policy Local, remote endpoints only", "10.96.1.3:80"),
    ("external policy Local, ClusterIP", "10.96.1.4:80"),
    ("external policy Local, NodePort", "10.0.0.11:30004"),
    ("external policy Local, LB IP", "10.0.0.104:80"),
    ("external policy Local, remote endpoints only, NodePort", "10.0.0.11:30005"),
    ("external policy Local, remote endpoints only, LB IP", "10.0.0.105:80"),
    ("source ranges without the client, LB IP", "10.0.0.106:80"),
    ("source ranges without the client, NodePort", "10.0.0.11:30006"),
    ("no endpoints, ClusterIP", "10.96.1.7:80"),
    ("no endpoints, NodePort", "10.0.0.11:30007"),
    ("no endpoints, LB IP", "10.0.0.107:80"),
    ("only terminating endpoints that serve", "10.96.1.8:80"),
    ("ready and terminating endpoints", "10.96.1.9:80"),
    ("hints for this zone", "10.96.1.10:80"),
    ("a hint is missing", "10.96.1.11:80"),
    ("ipMode Proxy, ClusterIP", "10.96.1.12:80"),
    ("another proxy's service", "10.96.1.13:80"),
];

/// Where Ringway keeps the contract and kube-proxy does not; the README tells of each.
const DEVIATIONS: &[&str] = &[
    // An endpoint nowhere is a refusal for every client. kube-proxy rejects the node's own datagrams where their socket does not hear of it.
    "no endpoints, ClusterIP (10.96.1.7:80/udp) from the node",
    "no endpoints, LB IP (10.0.0.107:80/udp) from the node",
];

/// What a client met.
#[derive(Clone, PartialEq, Eq)]
enum Met {
    Servers(BTreeSet<String>),
    Refused,
    Silence,
}

impl fmt::Debug for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Met::Servers(servers) => write!(f, "{}", servers.iter().cloned().collect::<Vec<_>>().join(" ")),
            Met::Refused => f.write_str("refused"),
            Met::Silence => f.write_str("silence"),
        }
    }
}

/// One endpoint: pod, conditions, further fields.
fn endpoint(net: &Net, pod: &str, conditions: Value, more: Value) -> Result<Value> {
    let pod = net.pod(pod)?;
    let mut endpoint = json!({"addresses": [pod.address], "nodeName": pod.node, "conditions": conditions});
    merge(&mut endpoint, more);
    Ok(endpoint)
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

/// Service `s<number>` with the ClusterIP 10.96.1.<number>, TCP and UDP.
fn make(cluster: &Cluster, number: u32, spec: Value, labels: Value, ingress: Value, endpoints: &[Value]) -> Result<()> {
    let name = format!("s{number}");
    let mut whole = json!({
        "clusterIP": format!("10.96.1.{number}"),
        "ports": [
            {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},
            {"name": "dns", "port": 80, "targetPort": 8080, "protocol": "UDP"},
            {"name": "more", "port": 8000, "targetPort": "named", "protocol": "TCP"},
        ],
    });
    let kind = spec["type"].as_str().unwrap_or("ClusterIP").to_owned();
    merge(&mut whole, spec);
    if kind != "ClusterIP" {
        for port in [0, 1] {
            whole["ports"][port]["nodePort"] = json!(30_000 + number);
        }
    }
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": labels}, "spec": whole});
    cluster.create(&yaml(&service))?;
    if !ingress.is_null() {
        let status = json!({"status": {"loadBalancer": {"ingress": [ingress]}}});
        cluster.patch(&format!("/api/v1/namespaces/default/services/{name}/status"), &status)?;
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
        "metadata": {"name": format!("{name}-1"), "labels": {"kubernetes.io/service-name": name}},
        "ports": [
            {"name": "http", "port": 8080, "protocol": "TCP"},
            {"name": "dns", "port": 8080, "protocol": "UDP"},
            {"name": "more", "port": 8080, "protocol": "TCP"},
        ],
    });
    cluster.create(&yaml(&slice))
}

/// JSON is YAML; kind and version stand on lines of their own.
fn yaml(object: &Value) -> String {
    let field = |name: &str| format!("{name}: {}\n", object[name].as_str().unwrap_or_default());
    let mut rest = object.clone();
    if let Value::Object(fields) = &mut rest {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    let mut text = field("apiVersion") + &field("kind");
    if let Value::Object(fields) = rest {
        for (name, value) in fields {
            text += &format!("{name}: {value}\n");
        }
    }
    text
}

fn make_all(net: &Net, cluster: &Cluster) -> Result<()> {
    let ready = |pod: &str| endpoint(net, pod, json!({"ready": true, "serving": true, "terminating": false}), json!({}));
    let unready = |pod: &str| endpoint(net, pod, json!({"ready": false, "serving": false, "terminating": false}), json!({}));
    let leaving = |pod: &str| endpoint(net, pod, json!({"ready": false, "serving": true, "terminating": true}), json!({}));
    let hinted =
        |pod: &str, zone: &str| endpoint(net, pod, json!({"ready": true}), json!({"zone": zone, "hints": {"forZones": [{"name": zone}]}}));
    let none = || json!({});
    let lb = |ip: &str| json!({"ip": ip});
    make(
        cluster,
        1,
        json!({"type": "LoadBalancer", "externalIPs": ["10.0.0.151"]}),
        none(),
        lb("10.0.0.101"),
        &[ready("a1")?, ready("b1")?, unready("b2")?],
    )?;
    let local = "Local";
    make(cluster, 2, json!({"type": "NodePort", "internalTrafficPolicy": local}), none(), Value::Null, &[ready("a1")?, ready("b1")?])?;
    make(cluster, 3, json!({"internalTrafficPolicy": local}), none(), Value::Null, &[ready("b1")?])?;
    let external = json!({"type": "LoadBalancer", "externalTrafficPolicy": local});
    make(cluster, 4, external.clone(), none(), lb("10.0.0.104"), &[ready("a1")?, ready("b1")?])?;
    make(cluster, 5, external, none(), lb("10.0.0.105"), &[ready("b1")?])?;
    let ranges = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["203.0.113.0/24", "10.244.1.0/24"]});
    make(cluster, 6, ranges, none(), lb("10.0.0.106"), &[ready("a1")?])?;
    make(cluster, 7, json!({"type": "LoadBalancer"}), none(), lb("10.0.0.107"), &[])?;
    make(cluster, 8, none(), none(), Value::Null, &[leaving("a1")?, leaving("b1")?, unready("b2")?])?;
    make(cluster, 9, none(), none(), Value::Null, &[ready("b1")?, leaving("a1")?])?;
    make(cluster, 10, none(), none(), Value::Null, &[hinted("a1", "here")?, hinted("b1", "there")?])?;
    make(cluster, 11, none(), none(), Value::Null, &[hinted("a1", "here")?, ready("b1")?])?;
    make(cluster, 12, json!({"type": "LoadBalancer"}), none(), json!({"ip": "10.0.0.112", "ipMode": "Proxy"}), &[ready("b1")?])?;
    make(cluster, 13, none(), json!({"service.kubernetes.io/service-proxy-name": "other"}), Value::Null, &[ready("b1")?])
}

fn meet(client: &Namespace, protocol: &str, target: &str) -> Result<Met> {
    let first = client.requests(protocol, target, 1, 1)?;
    if first.errors > 0 {
        let refused = first.first_error.as_deref().is_some_and(|error| error.contains("refused"));
        return Ok(if refused { Met::Refused } else { Met::Silence });
    }
    let load = client.requests(protocol, target, 4, REQUESTS)?;
    ensure!(load.errors == 0, "{target} answers now and then: {load:?}");
    Ok(Met::Servers(load.servers.into_keys().collect()))
}

fn meet_all(net: &Net) -> Result<BTreeMap<String, Met>> {
    let clients = [("client", &net.client), ("pod", &net.pod("a2")?.namespace), ("node", &net.node1)];
    let mut met = BTreeMap::new();
    for (who, client) in clients {
        for (what, target) in TARGETS {
            // No route leads a client outside to a ClusterIP.
            if who == "client" && target.starts_with("10.96.") {
                continue;
            }
            // UDP where it may differ: refusals and policies are the same code.
            let protocols: &[&str] = if what.contains("endpoints") || *what == "ClusterIP" { &["tcp", "udp"] } else { &["tcp"] };
            for protocol in protocols.iter().filter(|protocol| **protocol == "tcp" || !target.ends_with(":8000")) {
                met.insert(format!("{what} ({target}/{protocol}) from the {who}"), meet(client, protocol, target)?);
            }
        }
    }
    Ok(met)
}

fn wait_served(net: &Net) -> Result<()> {
    wait_for("the first service", PATIENCE, || {
        ensure!(net.pod("a2")?.namespace.line("10.96.1.13:80", 0).is_err());
        net.pod("a2")?.namespace.line("10.96.1.9:80", 0).map(drop)
    })
}

#[test]
fn ringway_and_kube_proxy_agree() -> Result<()> {
    lab::run("differential", |lab: &Rc<Lab>| {
        let net = Topology::new().build(lab)?;
        // kube-proxy announces nothing.
        for last in [101, 104, 105, 106, 107, 112, 151] {
            net.router.ip(&format!("route add 10.0.0.{last}/32 via {}", address::NODE1))?;
        }
        let cluster = Cluster::start(lab, &net.node2, "10.0.0.12", ClusterOptions::default())?;
        for (node, address, zone) in [("node1", address::NODE1, "here"), ("node2", "10.0.0.12", "there")] {
            let cidr = format!("10.244.{}.0/24", &node[4..]);
            cluster.create(&format!(
                "apiVersion: v1\nkind: Node\nmetadata: {{name: {node}, labels: {{topology.kubernetes.io/zone: {zone}}}}}\nspec: {{podCIDR: {cidr}}}\n"
            ))?;
            let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": address}]}});
            cluster.patch(&format!("/api/v1/nodes/{node}/status"), &status)?;
        }
        make_all(&net, &cluster)?;

        let proxy = KubeProxy::start(&cluster, &net.node1, "node1")?;
        wait_served(&net).with_context(|| proxy.log_tail())?;
        let theirs = meet_all(&net)?;
        drop(proxy);

        let sources = vec!["--kubeconfig".into(), cluster.kubeconfig()?.display().to_string()];
        let options = RingwayOptions { sources, announce: false, ..RingwayOptions::default() };
        let ringway = Ringway::start(&net, &options, &[])?;
        wait_served(&net)?;
        let ours = meet_all(&net)?;
        ensure!(ringway.is_running(), "ringway ended: {}", ringway.log());

        let differences: Vec<String> = theirs
            .iter()
            .filter(|(what, met)| ours.get(*what) != Some(met) && !DEVIATIONS.contains(&what.as_str()))
            .map(|(what, met)| format!("{what}: kube-proxy {met:?}, ringway {:?}", ours.get(what)))
            .collect();
        ensure!(theirs.len() > 80, "only {} probes were made", theirs.len());
        let refused = DEVIATIONS.iter().all(|what| ours.get(*what) == Some(&Met::Refused));
        ensure!(refused, "what is known to differ is not refused");
        ensure!(differences.is_empty(), "{} of {} differ:\n  {}", differences.len(), theirs.len(), differences.join("\n  "));
        Ok(())
    })
}
