//! Parts of the model that no table shows yet: affinity, health check ports, nodes, and what a refusal leaves known.
#![forbid(unsafe_code)]

use ringway_model::convert::{Converted, convert};
use ringway_model::{Kind, Model, NodeModel, ObjectRef, Problem, ServiceModel, SessionAffinity, manifest};

fn only(text: &str) -> Result<Converted, ringway_model::convert::Refused> {
    let parsed = manifest::parse(text);
    assert_eq!(parsed.problems, []);
    convert(&parsed.objects[0].1)
}

/// A Service whose spec ends in `spec`.
fn service(spec: &str) -> (ServiceModel, Vec<Problem>) {
    let text = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: web}}, spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}], {spec}}}}}"
    );
    match only(&text) {
        Ok(Converted::Ours(Model::Service(service), notices)) => ((*service).clone(), notices),
        other => panic!("{other:?}"),
    }
}

fn node(text: &str) -> NodeModel {
    match only(text) {
        Ok(Converted::Ours(Model::Node(node), _)) => (*node).clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn session_affinity_has_kubernetes_default_and_limit() {
    assert_eq!(service("").0.session_affinity, SessionAffinity::None);
    assert_eq!(service("sessionAffinity: None").0.session_affinity, SessionAffinity::None);
    assert_eq!(service("sessionAffinity: ClientIP").0.session_affinity, SessionAffinity::ClientIp { timeout_s: 10_800 });
    let longest = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86400}}";
    assert_eq!(service(longest).0.session_affinity, SessionAffinity::ClientIp { timeout_s: 86_400 });
}

#[test]
fn a_health_check_port_needs_a_load_balancer_with_policy_local() {
    let port = |spec| {
        let (service, notices) = service(spec);
        (service.health_check_node_port.map(u16::from), notices.len())
    };
    assert_eq!(port("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 32000"), (Some(32_000), 0));
    assert_eq!(port("type: LoadBalancer, externalTrafficPolicy: Cluster, healthCheckNodePort: 32000"), (None, 1));
    assert_eq!(port("type: LoadBalancer, externalTrafficPolicy: Local, healthCheckNodePort: 0"), (None, 0));
    assert_eq!(port("type: NodePort, externalTrafficPolicy: Local, healthCheckNodePort: 32000").0, None);
}

#[test]
fn both_families_are_kept_side_by_side() {
    let (service, _) = service(
        "clusterIPs: [10.96.0.1, 'fd00::1'], externalIPs: ['2001:db8::1', 192.0.2.1], type: LoadBalancer, loadBalancerSourceRanges: ['fd00::/8']",
    );
    assert_eq!(service.cluster_ips.len(), 2);
    assert_eq!(service.external_ips.len(), 2);
    assert_eq!(service.source_ranges.len(), 1);
}

#[test]
fn a_node_has_internal_addresses_a_zone_and_pod_cidrs() {
    let full = node(
        "{apiVersion: v1, kind: Node, metadata: {name: n1.example.com, labels: {topology.kubernetes.io/zone: east}}, spec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.0/24, 'fd00:1::/64']}, \
         status: {addresses: [{type: ExternalIP, address: 192.0.2.1}, {type: InternalIP, address: 10.0.0.1}, {type: InternalIP, address: 'fd00::1'}]}}",
    );
    assert_eq!((full.internal_ips.len(), full.zone.as_deref(), full.pod_cidrs.len()), (2, Some("east"), 2));
    let bare = node("{apiVersion: v1, kind: Node, metadata: {name: n1}, spec: {podCIDR: 10.1.0.0/24}}");
    assert_eq!((bare.internal_ips.len(), bare.zone, bare.pod_cidrs.len()), (0, None, 1));
}

#[test]
fn a_pod_counts_while_it_has_addresses_of_its_own() {
    let pod = |spec: &str, status: &str| {
        let text = format!(r#"{{"metadata": {{"name": "a"}}, "spec": {{"containers": [], {spec}}}, "status": {{{status}}}}}"#);
        convert(&manifest::Object::Pod(serde_json::from_str(&text).unwrap()))
    };
    let ips = |spec: &str, status: &str| match pod(spec, status) {
        Ok(Converted::Ours(Model::Pod(pod), _)) => Some(pod.ips.iter().map(ToString::to_string).collect::<Vec<_>>()),
        Ok(Converted::NotOurs(object, _)) => {
            assert_eq!(object, ObjectRef { kind: Kind::Pod, namespace: "default".into(), name: "a".into() });
            None
        }
        other => panic!("{other:?}"),
    };
    let (here, both) = (r#""nodeName": "n""#, r#""podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}, {"ip": "fd00::1"}]"#);
    assert_eq!(ips(here, both), Some(vec!["10.1.0.1".to_owned(), "fd00::1".to_owned()]));
    for (spec, status) in [
        (here, r#""phase": "Pending""#),
        (here, r#""podIPs": [{"ip": ""}]"#),
        (r#""hostNetwork": false"#, both),
        (r#""nodeName": "n", "hostNetwork": true"#, both),
        (here, &format!(r#""phase": "Failed", {both}"#)),
    ] {
        assert_eq!(ips(spec, status), None, "{spec} {status}");
    }
    let refused = pod(here, r#""podIPs": [{"ip": "10.1.0.1"}, {"ip": "nonsense"}]"#).unwrap_err();
    assert_eq!(refused.problems[0].field.as_deref(), Some("status.podIPs[1].ip"));
}

#[test]
fn a_refused_object_is_known_by_name_unless_the_name_is_wrong() {
    let refused = |text| only(text).expect_err("breaks a rule").object;
    let web = ObjectRef { kind: Kind::Service, namespace: "default".into(), name: "web".into() };
    assert_eq!(refused("{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1}}"), Some(web));
    assert_eq!(refused("{apiVersion: v1, kind: Service, metadata: {name: '-'}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}"), None);
}

#[test]
fn a_node_that_is_about_to_go() {
    let eligible = |metadata: &str, spec: &str| {
        let text = format!("{{apiVersion: v1, kind: Node, metadata: {{name: node-a{metadata}}}, spec: {{{spec}}}}}");
        node(&text).is_eligible()
    };
    assert!(eligible("", ""));
    assert!(eligible("", "unschedulable: true, taints: [{key: node.kubernetes.io/unschedulable, effect: NoSchedule}]"));
    assert!(!eligible("", "taints: [{key: a, effect: NoExecute}, {key: ToBeDeletedByClusterAutoscaler, value: '1', effect: NoSchedule}]"));
    assert!(!eligible(", deletionTimestamp: '2026-01-01T00:00:00Z'", ""));
}

#[test]
fn the_trigger_of_a_slice_is_no_part_of_equality() {
    let slice = |annotation: &str| {
        let text = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [], metadata: \
             {{name: web-1, labels: {{kubernetes.io/service-name: web}}, annotations: {{{annotation}}}}}}}"
        );
        match only(&text) {
            Ok(Converted::Ours(Model::EndpointSlice(slice), notices)) => {
                assert_eq!(notices, []);
                slice
            }
            other => panic!("{other:?}"),
        }
    };
    let (none, some) = (slice(""), slice("endpoints.kubernetes.io/last-change-trigger-time: '2026-11-22T05:00:00.25Z'"));
    assert_eq!(some.last_change_trigger.map(|time| time.to_string()).as_deref(), Some("2026-11-22T05:00:00.25Z"));
    assert_eq!(none.last_change_trigger, None);
    assert_eq!(slice("endpoints.kubernetes.io/last-change-trigger-time: yesterday").last_change_trigger, None);
    assert_eq!(none, some);
}

#[test]
fn changes_are_counted_with_their_triggers() {
    let mut compiler = ringway_model::Compiler::new(ringway_model::Settings::default());
    let change = |address: &str, second: u32| {
        let text = format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, endpoints: [{{addresses: [{address}]}}], metadata: \
             {{name: web-1, labels: {{kubernetes.io/service-name: web}}, \
             annotations: {{endpoints.kubernetes.io/last-change-trigger-time: '2026-11-22T05:00:{second:02}Z'}}}}}}"
        );
        match only(&text) {
            Ok(Converted::Ours(model, _)) => ringway_model::Change::Upsert(model),
            other => panic!("{other:?}"),
        }
    };
    let triggers = |update: ringway_model::Update| -> (u64, Vec<String>) {
        (update.changed.endpoint_slices, update.changed.triggers.iter().map(|(family, time)| format!("{family} {time}")).collect())
    };
    assert_eq!(triggers(compiler.apply([change("10.1.0.1", 1)])), (1, vec!["IPv4 2026-11-22T05:00:01Z".to_owned()]));
    assert_eq!(triggers(compiler.apply([change("10.1.0.1", 2)])), (0, vec![]), "the same endpoints");
    assert_eq!(triggers(compiler.apply([change("10.1.0.2", 3)])), (1, vec!["IPv4 2026-11-22T05:00:03Z".to_owned()]));
    let object = ObjectRef { kind: Kind::EndpointSlice, namespace: "default".into(), name: "web-1".into() };
    assert_eq!(triggers(compiler.apply([ringway_model::Change::Delete(object)])), (1, vec![]));
}
