//! The node's own sockets as clients of ClusterIPs and VIPs.

use anyhow::Result;
use ringway_tests::lab::{PodLink, RingwayOptions, Topology, address};

use crate::{CLUSTER_IP_80, VIP_80, ensure_served, serving};

fn node_is_served_by(name: &str, topology: Topology, servers: &[&str]) -> Result<()> {
    serving(name, topology, RingwayOptions::default(), servers, |net, _| {
        for target in [CLUSTER_IP_80, VIP_80] {
            ensure_served(&net.node1.requests("tcp", target, 2, 100)?, servers, address::NODE1)?;
            ensure_served(&net.node1.requests("udp", target, 2, 100)?, servers, address::NODE1)?;
        }
        Ok(())
    })
}

#[test]
fn node_reaches_pods_of_its_own() -> Result<()> {
    node_is_served_by("node_local", Topology::new(), &["a1", "a2"])
}

#[test]
fn node_reaches_bridged_pods() -> Result<()> {
    node_is_served_by("node_bridge", Topology::new().node1_pods(&[PodLink::Bridge; 2]), &["a1", "a2"])
}

#[test]
fn node_reaches_other_nodes() -> Result<()> {
    node_is_served_by("node_remote", Topology::new(), &["b1", "b2"])
}

#[test]
fn node_reaches_another_node_by_the_second_uplink() -> Result<()> {
    serving("node_two_uplinks", Topology::new().two_uplinks(), RingwayOptions::default(), &["b1"], |net, _| {
        let load = net.node1.requests("tcp", CLUSTER_IP_80, 2, 100)?;
        anyhow::ensure!(load.errors == 0, "{load:?}");
        Ok(())
    })
}
