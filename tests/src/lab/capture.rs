//! Frames on a device, by tcpdump.
//!
//! A packet socket does not see frames that an XDP program redirects: capture at the other end of the veth to see what an
//! uplink receives, and anywhere to see what it transmits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::namespace::Namespace;
use super::process::Process;
use super::wait_for;

/// A running capture into a pcap file.
pub struct Capture {
    tcpdump: Process,
    file: PathBuf,
}

/// One captured frame, cut at 1 600 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the Ethernet header on; VLAN tags stand in it.
    pub bytes: Vec<u8>,
    /// Length on the wire.
    pub len: usize,
}

impl Capture {
    /// Starts tcpdump with a filter of its own language (`""` = all) and waits until it listens.
    pub fn start(namespace: &Namespace, device: &str, filter: &str, dir: &Path) -> Result<Capture> {
        // A file of its own: another capture of this device may be running, and two that write into one file spoil it.
        let names = std::iter::once(device.to_owned()).chain((2..).map(|number| format!("{device}-{number}")));
        let mut files = names.map(|name| (dir.join(format!("{}-{name}.pcap", namespace.role())), name));
        let (file, name) = files.find(|(file, _)| !file.exists()).context("no name left for a capture")?;
        let label = format!("tcpdump-{name}");
        let path = file.to_string_lossy().into_owned();
        let mut words =
            vec!["tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-s", "1600", "-B", "8192", "-i", device, "-w", &path];
        if !filter.is_empty() {
            words.push(filter);
        }
        let log = namespace.log_path(&label);
        let _ = std::fs::remove_file(&log);
        let tcpdump = namespace.spawn(&label, &words)?;
        wait_for("tcpdump listening", Duration::from_secs(5), || {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.contains("listening on") { Ok(()) } else { bail!("tcpdump says: {text}") }
        })?;
        Ok(Capture { tcpdump, file })
    }

    /// Ends the capture; what was captured stays in the file.
    pub fn stop(&mut self) {
        // tcpdump flushes on SIGTERM.
        let _ = self.tcpdump.signal("TERM");
        let _ = self.tcpdump.wait(Duration::from_secs(2));
    }

    /// What was captured so far. Only for Ethernet devices, not for `any`.
    pub fn frames(&self) -> Result<Vec<Frame>> {
        let bytes = std::fs::read(&self.file).with_context(|| format!("cannot read {}", self.file.display()))?;
        parse_pcap(&bytes)
    }

    /// Waits until a captured frame satisfies `wanted`.
    pub fn wait_frame(&self, what: &str, timeout: Duration, wanted: impl Fn(&Frame) -> bool) -> Result<Frame> {
        wait_for(what, timeout, || match self.frames()?.into_iter().find(|frame| wanted(frame)) {
            Some(frame) => Ok(frame),
            None => bail!("no such frame among {} in {}", self.frames()?.len(), self.file.display()),
        })
    }
}

/// The classic pcap format, as written on this machine (<https://www.ietf.org/archive/id/draft-gharris-opsawg-pcap-00.html>).
/// A record that is not complete yet ends the list.
fn parse_pcap(bytes: &[u8]) -> Result<Vec<Frame>> {
    const FILE_HEADER: usize = 24;
    const RECORD_HEADER: usize = 16;
    const ETHERNET: u32 = 1;
    if bytes.len() < FILE_HEADER {
        return Ok(Vec::new());
    }
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
    if word(20) != Some(ETHERNET) {
        bail!("the capture is not of an Ethernet device");
    }
    let mut frames = Vec::new();
    let mut at = FILE_HEADER;
    while let (Some(kept), Some(len)) = (word(at + 8), word(at + 12)) {
        let start = at + RECORD_HEADER;
        let Some(frame) = bytes.get(start..start + kept as usize) else { break };
        frames.push(Frame { bytes: frame.to_vec(), len: len as usize });
        at = start + kept as usize;
    }
    Ok(frames)
}
