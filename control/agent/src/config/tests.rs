//! Files, flags and bounds.

use ringway_engine::flow::TICKS_PER_SECOND;

use super::*;

const COMPLETE: &str = "uplink: [eth1]\nnode-name: n1\nmanifests: /m\n";

fn error(text: &str) -> String {
    format!("{:#}", Settings::from_yaml(text).unwrap_err())
}

#[test]
fn a_complete_file() {
    let yaml = "uplink: [eth1, eth2]\nnode-name: n1\nmanifests: /m\nmode: zero-copy\nsnat-address: [192.0.2.1, '2001:db8::1']\n\
                snat-ports: 1024-2047\npod-delivery: direct\nannounce: true\nflows-max: 1000\nflows6-max: 300\ntimeout-udp: 5m\ntimeout-tcp-syn: 60\nworkers: 2\n";
    let config = Settings::from_yaml(yaml).unwrap().resolve().unwrap();
    assert_eq!(config.uplinks, ["eth1", "eth2"]);
    assert_eq!(config.mode, Mode::ZeroCopy);
    assert_eq!(config.snat_ports, PortRange { first: 1024, last: 2047 });
    assert_eq!(config.pod_delivery, PodDelivery::Direct);
    assert!(config.announce);
    assert_eq!((config.flows_max, config.flows6_max, config.workers), (1000, 300, Some(2)));
    assert_eq!(config.snat_addresses, ["192.0.2.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap()));
    assert_eq!((config.timeouts.udp, config.timeouts.tcp_syn), (Seconds(300), Seconds(60)));
    assert_eq!(config.timeouts.tcp_established, Seconds(86_400));
}

#[test]
fn errors_name_the_field() {
    assert!(error("uplnk: [a]").contains("`uplnk`"), "{}", error("uplnk: [a]"));
    assert!(error("workers: many").contains("field `workers`"), "{}", error("workers: many"));
    assert!(error("snat-address: [1.2.3.4, nonsense]").contains("snat-address[1]"));
    assert!(error("snat-ports: 5").contains("field `snat-ports`"));
    assert!(error("mode: fast").contains("field `mode`"));
    assert!(error("timeout-udp: soon").contains("field `timeout-udp`"));
    assert!(error("- a\n- b").contains("invalid type"));
    assert!(error("a: b: c:").contains("is no YAML"));
}

#[test]
fn an_unreadable_file_is_named() {
    let error = Settings::from_file(Path::new("/nonexistent/ringway.yaml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ringway.yaml"));
}

#[test]
fn flags_win() {
    let flags = Settings { uplink: vec!["eth9".into()], flows_max: Some(128), ..Settings::default() };
    let config = flags.or(Settings::from_yaml(COMPLETE).unwrap()).resolve().unwrap();
    assert_eq!((config.uplinks[0].as_str(), config.flows_max, config.node_name.as_str()), ("eth9", 128, "n1"));
    assert_eq!(config.flows6_max, 64, "a part of the IPv4 flows, and not less than the least");
}

#[test]
fn everything_missing_is_listed_at_once() {
    let settings = Settings { flows_max: Some(1), flows6_max: Some(16_777_217), workers: Some(0), ..Settings::default() };
    let message = settings.resolve().unwrap_err().to_string();
    for flag in ["--uplink", "--node-name", "no source of services", "--flows-max", "--flows6-max", "--workers"] {
        assert!(message.contains(flag), "{flag} in {message}");
    }
}

#[test]
fn an_empty_file_leaves_all_to_flags() {
    assert_eq!(Settings::from_yaml("").unwrap(), Settings::default());
    assert_eq!(Settings::from_yaml("# nothing\n").unwrap(), Settings::default());
}

#[test]
fn sources_that_cannot_be() {
    let wrong = ["127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.82.3", "::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.1"];
    let list = wrong.map(|address| format!("'{address}'")).join(", ");
    let settings = Settings::from_yaml(&format!("{COMPLETE}snat-address: [{list}, 192.0.2.1, 'fd00::1']\n")).unwrap();
    let message = settings.resolve().unwrap_err().to_string();
    assert_eq!(message.lines().count(), wrong.len(), "{message}");
    assert!(wrong.iter().all(|address| message.contains(&format!(" {address} "))), "{message}");
}

#[test]
fn taints_are_an_apiservers() {
    let settings = Settings::from_yaml(&format!("{COMPLETE}remove-taint: true\n")).unwrap();
    assert!(settings.resolve().unwrap_err().to_string().contains("--remove-taint"), "manifests alone have none");
    let settings = Settings::from_yaml(&format!("{COMPLETE}remove-taint: true\nkubeconfig: /k\n")).unwrap();
    assert!(settings.resolve().unwrap().remove_taint);
}

#[test]
fn timeouts_in_ticks() {
    assert_eq!(FlowTimeouts::default().ticks().tcp_syn, 120 * TICKS_PER_SECOND);
}

#[test]
fn what_a_stop_leaves() {
    let of = |more: &str| Settings::from_yaml(&format!("{COMPLETE}{more}")).unwrap().resolve().unwrap().on_stop;
    assert_eq!((of(""), of("on-stop: keep\n"), of("on-stop: remove\n")), (OnStop::Remove, OnStop::Keep, OnStop::Remove));
    assert!(error("on-stop: explode").contains("field `on-stop`"));
}

#[test]
fn where_the_servers_listen() {
    let of = |more: &str| {
        let config = Settings::from_yaml(&format!("{COMPLETE}{more}")).unwrap().resolve().unwrap();
        (config.healthz.map(|at| at.to_string()), config.metrics.map(|at| at.to_string()))
    };
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(of(""), (text("0.0.0.0:10256"), text("127.0.0.1:10249")));
    assert_eq!(of("healthz-bind-address: ''\nmetrics-bind-address: 0.0.0.0\n"), (None, text("0.0.0.0:10249")));
    assert_eq!(of("healthz-bind-address: 127.0.0.1:1\nmetrics-bind-address: ''\n"), (text("127.0.0.1:1"), None));
    assert!(error("metrics-bind-address: nowhere").contains("field `metrics-bind-address`"));
}

#[test]
fn where_objects_come_from() {
    let pod = || Some(Pod { endpoint: "https://10.96.0.1:443".parse().unwrap() });
    let of = |yaml: &str, pod: Option<Pod>| {
        let mut wrong = Vec::new();
        let access = access(&Settings::from_yaml(yaml).unwrap(), pod, &mut wrong);
        let urls = |access: Access| access.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        if wrong.is_empty() { Ok(access.map(urls)) } else { Err(wrong.join("; ")) }
    };
    let urls = |text: &str| Ok(Some(text.to_owned()));
    assert_eq!(of("manifests: /m", pod()), Ok(None), "a pod that is given manifests");
    assert_eq!(of("node-name: n1", pod()), urls("https://10.96.0.1:443"));
    assert_eq!(of("manifests: /m\nin-cluster: true", pod()), urls("https://10.96.0.1:443"));
    assert_eq!(of("kubeconfig: /k", pod()), urls(""));
    assert_eq!(of("apiserver: ['https://a:6443#n', 'https://b:6443']", None), urls("https://a:6443 https://b:6443"));
    assert!(of("node-name: n1", None).unwrap_err().contains("no source"));
    assert!(of("in-cluster: true", None).unwrap_err().contains("KUBERNETES_SERVICE_HOST"));
    assert!(of("in-cluster: false", pod()).unwrap_err().contains("no source"));
    assert!(error("apiserver: ['https://a', nonsense]").contains("apiserver[1]"));
}
