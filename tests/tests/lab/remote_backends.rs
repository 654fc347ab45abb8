//! Client → VIP or NodePort → backend on another node: every packet by the workers, source replaced by an address of ours.

use anyhow::ensure;
use ringway_tests::lab::{RingwayOptions, Service, Topology, address};

use crate::{VIP_80, VIP_URL, ensure_served, lab_of, serving, web};

const REMOTE: [&str; 2] = ["b1", "b2"];

for_both!(curl_reaches_a_backend_on_another_node, |family| {
    serving("remote_curl", Topology::new().family(family), RingwayOptions::default(), &["b1"], |net, ringway| {
        let answer = net.client.curl(VIP_URL)?;
        ensure!(answer.starts_with("b1 10.0.0.11:"), "answer: {answer}");
        let flows = ringway.ask("flows")?.to_string();
        ensure!(flows.contains("10.0.0.100") && flows.contains("10.244.2.2"), "the flow is not shown: {flows}");
        Ok(())
    })
});

for_both!(requests_spread_over_all_backends, |family| {
    serving("remote_spread", Topology::new().family(family), RingwayOptions::default(), &REMOTE, |net, _| {
        ensure_served(&net.client.requests("tcp", VIP_80, 4, 200)?, &REMOTE, address::NODE1)?;
        ensure_served(&net.client.requests("udp", VIP_80, 4, 200)?, &REMOTE, address::NODE1)
    })
});

for_both!(one_worker_serves_all_queues, |family| {
    let options = RingwayOptions { workers: 1, ..RingwayOptions::default() };
    serving("remote_one_worker", Topology::new().family(family).queues(4), options, &REMOTE, |net, _| {
        ensure_served(&net.client.requests("tcp", VIP_80, 8, 200)?, &REMOTE, address::NODE1)
    })
});

for_both!(more_workers_than_queues_serve, |family| {
    serving("remote_one_queue", Topology::new().family(family).queues(1), RingwayOptions::default(), &REMOTE, |net, _| {
        ensure_served(&net.client.requests("tcp", VIP_80, 8, 200)?, &REMOTE, address::NODE1)
    })
});

for_both!(generic_mode_serves, |family| {
    let options = RingwayOptions { mode: "generic", ..RingwayOptions::default() };
    serving("remote_generic", Topology::new().family(family), options, &["a1", "b1"], |net, _| {
        let load = net.client.requests("tcp", VIP_80, 4, 100)?;
        ensure!(load.errors == 0, "{load:?}");
        ensure!(load.servers.len() == 2, "{load:?}");
        Ok(())
    })
});

for_both!(dedicated_snat_address_is_what_backends_see, |family| {
    // The router sends the replies to this address to node1, as it would for an address that node1 announces.
    lab_of("remote_snat_address", family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.node2.ip("route add 10.9.9.9/32 via 10.0.0.11")?;
        let options = RingwayOptions::default().with(&["--snat-address", "10.9.9.9"]);
        let _ringway = ringway_tests::lab::Ringway::start(&net, &options, &[web(&net, &REMOTE)?])?;
        ensure_served(&net.client.requests("tcp", VIP_80, 2, 50)?, &REMOTE, "10.9.9.9")
    })
});

for_both!(node_port_serves_tcp_and_udp, |family| {
    serving("remote_node_port", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        let pods = [net.pod("b1")?, net.pod("a1")?];
        let service =
            Service::new("np").cluster_ip(address::CLUSTER_IP2).tcp_node_port(80, 8080, 30080).udp_node_port(80, 8080, 30081).pods(pods);
        ringway.publish(&[service])?;
        net.client.until("answer", "10.0.0.11:30080", std::time::Duration::from_secs(2), || Ok(()))?;
        for (protocol, target) in [("tcp", "10.0.0.11:30080"), ("udp", "10.0.0.11:30081")] {
            let load = net.client.requests(protocol, target, 2, 100)?;
            ensure!(load.errors == 0 && load.servers.len() == 2, "{protocol}: {load:?}");
        }
        Ok(())
    })
});

for_both!(backend_behind_a_router, |family| {
    let topology = Topology::new().family(family).node2_behind_router();
    serving("remote_behind_router", topology, RingwayOptions::default(), &REMOTE, |net, _| {
        ensure_served(&net.client.requests("tcp", VIP_80, 4, 100)?, &REMOTE, address::NODE1)?;
        ensure_served(&net.client.requests("udp", VIP_80, 4, 100)?, &REMOTE, address::NODE1)
    })
});

for_both!(backends_on_two_other_nodes, |family| {
    let names = ["b1", "b2", "c1"];
    serving("remote_third_node", Topology::new().family(family).node3(), RingwayOptions::default(), &names, |net, _| {
        ensure_served(&net.client.requests("tcp", VIP_80, 4, 150)?, &names, address::NODE1)
    })
});

for_both!(backend_behind_another_uplink, |family| {
    serving("remote_two_uplinks", Topology::new().family(family).two_uplinks(), RingwayOptions::default(), &["a1", "b1", "b2"], |net, _| {
        for protocol in ["tcp", "udp"] {
            let load = net.client.requests(protocol, VIP_80, 4, 150)?;
            ensure!(load.errors == 0 && load.servers.len() == 3, "{protocol}: {load:?}");
        }
        Ok(())
    })
});

for_both!(two_uplinks_with_one_worker, |family| {
    let options = RingwayOptions { workers: 1, ..RingwayOptions::default() };
    serving("remote_two_uplinks_one_worker", Topology::new().family(family).two_uplinks(), options, &["b1", "b2"], |net, _| {
        let load = net.client.requests("tcp", VIP_80, 4, 100)?;
        ensure!(load.errors == 0 && load.servers.len() == 2, "{load:?}");
        Ok(())
    })
});
