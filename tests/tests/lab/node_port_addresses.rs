//! On which addresses of the node NodePorts answer, and that a change of them acts at once.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, Net, Ringway, RingwayOptions, Service, Topology, address};

use crate::lab_of;

const PATIENCE: Duration = Duration::from_secs(3);

fn with_node_port(family: Family, name: &str, addresses: &str, test: impl FnOnce(&Net) -> Result<()>) -> Result<()> {
    lab_of(name, family, |lab| {
        let net = Topology::new().family(family).build(lab)?;
        net.node1.ip_batch("address add 10.0.0.50/24 dev eth0\naddress add 172.16.7.1/32 dev eth0\n")?;
        net.router.ip("route add 172.16.7.0/24 via 10.0.0.11")?;
        let web = Service::new("web").cluster_ip(address::CLUSTER_IP).tcp_node_port(80, 8080, 30080).pods(&net.pods);
        let _ringway = Ringway::start(&net, &RingwayOptions::default().with(&["--nodeport-addresses", addresses]), &[web])?;
        test(&net)
    })
}

fn answers(net: &Net, address: &str) -> Result<bool> {
    let load = net.client.requests("tcp", &format!("{address}:30080"), 1, 2)?;
    Ok(load.errors == 0)
}

for_both!(primary_is_the_nodes_own_address_only, |family| {
    with_node_port(family, "np_primary", "primary", |net| {
        ensure!(answers(net, address::NODE1)? && !answers(net, "10.0.0.50")? && !answers(net, "172.16.7.1")?);
        Ok(())
    })
});

for_both!(networks_choose_and_new_addresses_count_at_once, |family| {
    with_node_port(family, "np_networks", "172.16.0.0/12,10.0.0.50/32", |net| {
        ensure!(!answers(net, address::NODE1)? && answers(net, "10.0.0.50")? && answers(net, "172.16.7.1")?);
        net.client.until("answer", "172.16.7.2:30080", PATIENCE, || net.node1.ip("address add 172.16.7.2/32 dev eth0").map(drop))?;
        net.client.until("refuse", "172.16.7.2:30080", PATIENCE, || net.node1.ip("address del 172.16.7.2/32 dev eth0").map(drop))?;
        Ok(())
    })
});

for_both!(all_are_all, |family| {
    with_node_port(family, "np_all", "all", |net| {
        for address in [address::NODE1, "10.0.0.50", "172.16.7.1"] {
            ensure!(answers(net, address)?, "{address} does not answer");
        }
        ensure!(net.node1.requests("tcp", "10.0.0.50:30080", 1, 2)?.errors == 0, "the node itself is not served");
        Ok(())
    })
});
