//! Backends behind an overlay device (vxlan): clients outside, the node, pods.

use anyhow::{Result, ensure};
use ringway_tests::lab::{Family, RingwayOptions, Topology};

use crate::{CLUSTER_IP_80, VIP_80, ensure_served, serving};

/// The node's address in the overlay: replies come back by it.
const OVERLAY_ADDRESS: &str = "10.244.1.0";

fn overlay_is_served(family: Family, name: &str, options: RingwayOptions) -> Result<()> {
    serving(name, Topology::new().family(family).overlay(), options, &["b1", "b2"], |net, _| {
        for protocol in ["tcp", "udp"] {
            ensure_served(&net.client.requests(protocol, VIP_80, 4, 200)?, &["b1", "b2"], OVERLAY_ADDRESS)?;
            ensure_served(&net.node1.requests(protocol, CLUSTER_IP_80, 2, 100)?, &["b1", "b2"], OVERLAY_ADDRESS)?;
            let a1 = net.pod("a1")?;
            ensure_served(&a1.namespace.requests(protocol, CLUSTER_IP_80, 2, 100)?, &["b1", "b2"], &a1.address)?;
        }
        // The kernel sends into the overlay by the entry that the CNI has set for good.
        let neighbors = net.node1.ip("neighbor show dev vxlan0")?;
        ensure!(neighbors.contains("PERMANENT") && !neighbors.contains("FAILED"), "{neighbors}");
        Ok(())
    })
}

for_both!(backends_behind_an_overlay_serve, |family| { overlay_is_served(family, "overlay_edge", RingwayOptions::default()) });

for_both!(backends_behind_an_overlay_serve_with_direct_delivery, |family| {
    overlay_is_served(family, "overlay_direct", RingwayOptions::direct())
});
