//! Gratuitous ARP when this node begins to answer for an address: stations and switches that know it elsewhere learn at once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ringway_engine::arp;
use ringway_io::{Dataplane, InjectError, Port};
use rustc_hash::FxHashSet;
use tokio::sync::watch;

/// Pauses before each of the frames: the first at once, three more in case they are lost while a switch port settles.
const PAUSES: [Duration; 4] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(2)];

/// When the workers' queue of our own frames is full: as long as they need to send a batch.
const RETRY: Duration = Duration::from_millis(2);

/// From where to announce.
#[derive(Clone)]
pub struct Stations {
    pub dataplane: Arc<Dataplane>,
    /// MAC of each uplink.
    pub macs: Vec<[u8; 6]>,
    pub announced: Arc<FxHashSet<Ipv4Addr>>,
}

/// Sends bursts in tasks of their own.
pub struct Announcer {
    stations: watch::Sender<Stations>,
}

impl Announcer {
    pub fn new(stations: Stations) -> Announcer {
        Announcer { stations: watch::Sender::new(stations) }
    }

    /// Follows new workers, MACs and addresses.
    pub fn set_stations(&self, stations: Stations) {
        self.stations.send_replace(stations);
    }

    /// Begins a burst for each address.
    pub fn announce(&self, addresses: Vec<Ipv4Addr>) {
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

/// Both forms on every uplink: some stations only believe requests, some only replies.
async fn send(stations: &Stations, address: Ipv4Addr) {
    for (uplink, mac) in stations.macs.iter().enumerate() {
        for reply in [false, true] {
            let frame = arp::gratuitous(address, *mac, reply);
            while let Err(InjectError::Full(_)) = stations.dataplane.inject(Port::Uplink(uplink as u8), &frame) {
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}
