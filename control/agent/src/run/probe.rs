//! The proof that the hostlink carries frames: one of our own, counted by `deliver`.

use std::time::Duration;

use anyhow::{Context, bail};
use ringway_engine::order::{Order, order_mac};
use ringway_io::{Dataplane, Port};
use xdp_redirect::Programs;

const COUNTER: &str = "deliver_probe";

/// A probe takes microseconds. New veth queues and their NAPI may need a moment, so several are sent.
const ATTEMPTS: u32 = 40;
const INTERVAL: Duration = Duration::from_millis(50);

/// A probe with the least length of an Ethernet frame. The protocol is the one for local experiments (IEEE 802.1 0x88b5).
fn frame() -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&order_mac(Order::Probe, 0));
    frame[6] = 0x02;
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame
}

/// Sends probes until one arrives.
///
/// # Errors
/// None arrives within two seconds.
pub async fn hostlink(dataplane: &Dataplane, programs: &Programs) -> anyhow::Result<()> {
    let count = || programs.counters.get(COUNTER).context("cannot read the counters of the BPF programs").map(Option::unwrap_or_default);
    let before = count()?;
    for _ in 0..ATTEMPTS {
        dataplane.inject(Port::Host, &frame()).context("cannot send a probe through the hostlink")?;
        tokio::time::sleep(INTERVAL).await;
        if count()? > before {
            return Ok(());
        }
    }
    bail!(
        "the hostlink carries no frames: {ATTEMPTS} probes were sent on rw0 and `deliver` saw none on rw1; is rw1 up, and does no tc program of others drop frames there?"
    )
}
