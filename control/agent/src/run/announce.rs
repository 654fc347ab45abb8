//! What tells the link that this node answers for an address: gratuitous ARP and unsolicited neighbor advertisements when it begins to, so
//! that stations and switches that know the address elsewhere learn at once; and the multicast groups by which others ask for IPv6 addresses.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ringway_engine::tables::Uplink;
use ringway_engine::{arp, ndp};
use ringway_io::{Dataplane, InjectError, Port};
use rustc_hash::FxHashSet;
use tokio::sync::watch;

use crate::netlink::{GroupRefused, Groups};

/// Pauses before each of the frames: the first at once, three more in case they are lost while a switch port settles.
const PAUSES: [Duration; 4] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(2)];

/// When the workers' queue of our own frames is full: as long as they need to send a batch.
const RETRY: Duration = Duration::from_millis(2);

/// From where to announce.
#[derive(Clone)]
pub struct Stations {
    pub dataplane: Arc<Dataplane>,
    /// By index; of one that is gone, what it was last.
    pub uplinks: Vec<Uplink>,
    pub announced: Arc<FxHashSet<IpAddr>>,
}

/// Sends bursts in tasks of their own, and keeps this node in the multicast groups of its announced addresses.
pub struct Announcer {
    stations: watch::Sender<Stations>,
}

impl Announcer {
    pub fn new(stations: Stations) -> Announcer {
        let stations = watch::Sender::new(stations);
        tokio::spawn(follow_groups(stations.subscribe()));
        Announcer { stations }
    }

    /// Follows new workers, MACs and addresses.
    pub fn set_stations(&self, stations: Stations) {
        self.stations.send_replace(stations);
    }

    /// Begins a burst for each address.
    pub fn announce(&self, addresses: Vec<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        tracing::info!("announcing {}", addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
        let stations = self.stations.subscribe();
        tokio::spawn(async move {
            for pause in PAUSES {
                tokio::time::sleep(pause).await;
                for address in &addresses {
                    let stations = stations.borrow().clone();
                    if stations.announced.contains(address) {
                        send(&stations, *address).await;
                    }
                }
            }
        });
    }
}

/// On every uplink. Of ARP both forms: some stations only believe requests, some only replies.
async fn send(stations: &Stations, address: IpAddr) {
    let snapshot = stations.dataplane.publisher().current();
    for (uplink, Uplink { mac, .. }) in (0..).zip(&stations.uplinks) {
        // Of a bond, one member that transmits is enough: it is one station on one link.
        let Some(port) = snapshot.node.port_to(uplink, 0).map(Port::Uplink) else { continue };
        match address {
            IpAddr::V4(address) => {
                for reply in [false, true] {
                    inject(&stations.dataplane, port, &arp::gratuitous(address, *mac, reply)).await;
                }
            }
            IpAddr::V6(address) => inject(&stations.dataplane, port, &ndp::unsolicited(address, *mac)).await,
        }
    }
}

async fn inject(dataplane: &Dataplane, port: Port, frame: &[u8]) {
    while let Err(InjectError::Full(_)) = dataplane.inject(port, frame) {
        tokio::time::sleep(RETRY).await;
    }
}

/// Ends with the announcer, and with it the memberships.
async fn follow_groups(mut stations: watch::Receiver<Stations>) {
    let mut groups = Groups::default();
    let mut followed = None;
    let mut logged = FxHashSet::default();
    loop {
        let (uplinks, announced) = {
            let stations = stations.borrow_and_update();
            (stations.uplinks.iter().map(|uplink| uplink.ifindex).collect::<Vec<u32>>(), Arc::clone(&stations.announced))
        };
        let is_followed = followed.as_ref().is_some_and(|(before, set)| *before == uplinks && Arc::ptr_eq(set, &announced));
        // What was refused is tried again with everything that is published.
        if !is_followed || !logged.is_empty() {
            let (devices, wanted) = (uplinks.clone(), Arc::clone(&announced));
            // Each of what may be thousands waits for the kernel's lock of all network configuration.
            let joined = tokio::task::spawn_blocking(move || {
                let refused = groups.follow(&devices, wanted.iter().filter_map(v6));
                (groups, refused)
            });
            let Ok((followed_groups, refused)) = joined.await else { return };
            groups = followed_groups;
            log_refused(&refused, &logged);
            logged = refused.iter().map(|refused| (refused.ifindex, refused.group)).collect();
            followed = Some((uplinks, announced));
        }
        if stations.changed().await.is_err() {
            return;
        }
    }
}

fn v6(address: &IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(address) = address { Some(*address) } else { None }
}

/// One line for all that are new: the reason is the same.
fn log_refused(refused: &[GroupRefused], logged: &FxHashSet<(u32, Ipv6Addr)>) {
    let mut new = refused.iter().filter(|refused| !logged.contains(&(refused.ifindex, refused.group)));
    if let Some(GroupRefused { ifindex, group, error }) = new.next() {
        let more = new.count();
        tracing::warn!(
            "cannot join the multicast group {group} on device {ifindex}, and {more} others: {error}; neighbors may not find announced addresses"
        );
    }
}
