//! Notifications are lost when nobody reads them in time; the tables become equal to the kernel's all the same.

use std::fmt::Write;
use std::net::IpAddr;

use ringway_agent::netlink::{FollowerConfig, Update};

use crate::namespace::{Known, Namespace, ip_batch};

#[test]
fn after_a_loss_the_tables_equal_the_kernels() {
    Namespace::new().run(async || {
        // The smallest buffer that the kernel gives: a handful of messages.
        let tiny = FollowerConfig { receive_buffer_bytes: 2048, ..FollowerConfig::default() };
        let mut known = Known::start(tiny).await;
        let mut lines = String::from("link add d0 type bridge\nlink set d0 up\naddr add 10.0.0.1/8 dev d0\n");
        for number in 0..200 {
            writeln!(lines, "link add e{number} type bridge").unwrap();
            writeln!(lines, "route add 10.{number}.0.0/16 dev d0 table 116").unwrap();
            writeln!(lines, "neigh add 10.0.1.{number} dev d0 lladdr 02:00:00:00:00:{number:02x}").unwrap();
        }
        for number in 0..100 {
            writeln!(lines, "link del e{number}\nneigh del 10.0.1.{number} dev d0\nroute del 10.{number}.0.0/16 table 116").unwrap();
        }
        lines.push_str("rule add pref 100 lookup 116\n");
        // Runs while this thread, and with it the follower's task, is blocked: nobody reads.
        assert_eq!(ip_batch(&lines), "");
        known.settle().await;
        let fresh = Known::start(FollowerConfig::default()).await;
        assert_eq!(known.now.devices, fresh.now.devices);
        assert_eq!(known.now.neighbors, fresh.now.neighbors);
        assert_eq!(known.now.addresses, fresh.now.addresses);
        let ours = known.now.neighbors.as_ref().unwrap().by_address.keys().filter(|(_, address)| address.is_ipv4());
        assert_eq!(ours.count(), 100);
        let ways = |now: &Update| {
            let fib = now.fib.as_ref().unwrap();
            (0..=255u8).map(|number| fib.lookup(IpAddr::from([10, 0, 0, 9]), IpAddr::from([10, number, 1, 1]), None, 0)).collect::<Vec<_>>()
        };
        assert_eq!(ways(&known.now), ways(&fresh.now));
    });
}
