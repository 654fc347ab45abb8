//! Client → VIP → pod of this node: the client's address is kept, whichever way packets reach the pod.

use anyhow::{Result, ensure};
use ringway_tests::lab::{PodLink, RingwayOptions, Topology, address};

use crate::{VIP_80, VIP_URL, ensure_served, serving};

const LOCAL: [&str; 2] = ["a1", "a2"];
const BRIDGED: [PodLink; 2] = [PodLink::Bridge; 2];

fn pods_see_the_client(name: &str, topology: Topology, options: RingwayOptions) -> Result<()> {
    serving(name, topology, options, &LOCAL, |net, _| {
        let answer = net.client.curl(VIP_URL)?;
        ensure!(answer.contains(address::CLIENT), "answer: {answer}");
        ensure_served(&net.client.requests("tcp", VIP_80, 4, 200)?, &LOCAL, address::CLIENT)?;
        ensure_served(&net.client.requests("udp", VIP_80, 4, 200)?, &LOCAL, address::CLIENT)
    })
}

for_both!(edge_delivers_to_routed_pods, |family| {
    pods_see_the_client("local_edge", Topology::new().family(family), RingwayOptions::default())
});

for_both!(edge_delivers_to_bridged_pods, |family| {
    pods_see_the_client("local_edge_bridge", Topology::new().family(family).node1_pods(&BRIDGED), RingwayOptions::default())
});

for_both!(direct_delivers_to_routed_pods, |family| {
    pods_see_the_client("local_direct", Topology::new().family(family), RingwayOptions::direct())
});

for_both!(direct_delivers_to_bridged_pods, |family| {
    pods_see_the_client("local_direct_bridge", Topology::new().family(family).node1_pods(&BRIDGED), RingwayOptions::direct())
});

for_both!(edge_delivers_in_generic_mode, |family| {
    let options = RingwayOptions { mode: "generic", ..RingwayOptions::default() };
    pods_see_the_client("local_edge_generic", Topology::new().family(family), options)
});

for_both!(backends_here_and_elsewhere_share_the_load, |family| {
    let names = ["a1", "a2", "b1", "b2"];
    serving("local_and_remote", Topology::new().family(family), RingwayOptions::default(), &names, |net, _| {
        let load = net.client.requests("tcp", VIP_80, 4, 400)?;
        ensure!(load.errors == 0, "{load:?}");
        for name in names {
            // 100 each on average: far outside of chance.
            let answers = load.servers.get(name).copied().unwrap_or(0);
            ensure!((40..=200).contains(&answers), "{name} got {answers} of 400: {:?}", load.servers);
        }
        ensure!(load.seen_as.len() == 2, "one address for each kind of backend: {:?}", load.seen_as);
        Ok(())
    })
});

for_both!(host_network_backend_serves, |family| {
    serving("local_host_network", Topology::new().family(family), RingwayOptions::default(), &[], |net, ringway| {
        let server = net.start_server(&net.node1, "host1", 8080)?;
        net.lab.adopt(server);
        let service = crate::web(net, &[])?.endpoint(address::NODE1, "node1");
        ringway.publish(&[service])?;
        net.client.until("answer", VIP_80, std::time::Duration::from_secs(2), || Ok(()))?;
        ensure_served(&net.client.requests("tcp", VIP_80, 2, 100)?, &["host1"], address::CLIENT)?;
        ensure_served(&net.client.requests("udp", VIP_80, 2, 100)?, &["host1"], address::CLIENT)
    })
});
