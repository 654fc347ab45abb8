//! Attaching by links that are pinned, so that programs outlive the process, and taking them over.
//!
//! A link is pinned at `<pin_dir>/link/<program>-<ifindex>`. Where one is pinned and its device lives, a new start
//! puts its program into it in place, and no packet passes between. A link whose device is gone, or that runs XDP in
//! another mode, is removed and made anew.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use libbpf_sys as sys;

use crate::cgroup::Cgroup;
use crate::probe::{self, XdpAttached};
use crate::program::ProgramName;
use crate::{Error, Programs, syscall};

/// How XDP runs on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, before the skb.
    Native,
    /// In the stack, after the skb: works with every driver, slowly.
    Generic,
}

impl XdpMode {
    pub fn as_str(self) -> &'static str {
        match self {
            XdpMode::Native => "native",
            XdpMode::Generic => "generic",
        }
    }

    /// `XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE` of linux/if_link.h. Without one the kernel falls back silently.
    fn flags(self) -> u32 {
        match self {
            XdpMode::Native => sys::XDP_FLAGS_DRV_MODE,
            XdpMode::Generic => sys::XDP_FLAGS_SKB_MODE,
        }
    }
}

/// What an attach did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// There was nothing of ours.
    Attached,
    /// The pinned link of an earlier process now runs our program.
    TakenOver,
    /// The pinned link was removed and a new one made.
    Replaced { why: String },
}

/// A link of ours, found by its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    pub program: ProgramName,
    /// The device that it was pinned for; 0 for a program on the root cgroup.
    pub ifindex: u32,
    /// False if the device or cgroup is gone; nothing runs then.
    pub live: bool,
    pub path: PathBuf,
}

impl Programs {
    /// `uplink` on an uplink.
    ///
    /// # Errors
    /// [`Error::Conflict`] names the XDP program of somebody else; [`Error::Attach`] if the driver cannot do the mode.
    pub fn attach_uplink(&self, ifindex: u32, mode: XdpMode) -> Result<Attachment, Error> {
        self.attach_xdp(ProgramName::Uplink, ifindex, mode)
    }

    /// `hostlink` on `rw0`: native only, for generic XDP never sees redirected frames.
    pub fn attach_hostlink(&self, rw0: u32) -> Result<Attachment, Error> {
        self.attach_xdp(ProgramName::Hostlink, rw0, XdpMode::Native)
    }

    /// `edge` on both directions of a pod's host-side device (a veth, or the port of a bridge).
    pub fn attach_edge_pod(&self, ifindex: u32) -> Result<Attachment, Error> {
        // The way back first: a reply must not leave untranslated because its request was translated already.
        self.attach_tcx(ProgramName::EdgePodOut, ifindex)?;
        self.attach_tcx(ProgramName::EdgePodIn, ifindex)
    }

    /// `edge` on both directions of an uplink.
    pub fn attach_edge_uplink(&self, ifindex: u32) -> Result<Attachment, Error> {
        self.attach_tcx(ProgramName::EdgeUplinkOut, ifindex)?;
        self.attach_tcx(ProgramName::EdgeUplinkIn, ifindex)
    }

    /// `edge` on the ingress of an overlay device; `ethernet` tells whether its packets have Ethernet headers.
    pub fn attach_edge_overlay(&self, ifindex: u32, ethernet: bool) -> Result<Attachment, Error> {
        match ethernet {
            true => self.attach_tcx(ProgramName::EdgeOverlayIn, ifindex),
            false => self.attach_tcx(ProgramName::EdgeTunnelIn, ifindex),
        }
    }

    /// `edge` on the egress of `rw1`, for the node's own sockets.
    pub fn attach_edge_node(&self, rw1: u32) -> Result<Attachment, Error> {
        self.attach_tcx(ProgramName::EdgeNodeOut, rw1)
    }

    /// `deliver` on the ingress of `rw1`.
    pub fn attach_deliver(&self, rw1: u32) -> Result<Attachment, Error> {
        self.attach_tcx(ProgramName::Deliver, rw1)
    }

    /// `node` on the sockets of all processes of the machine; it acts on those in the network namespace in which it was loaded.
    pub fn attach_node(&self, root: &Cgroup) -> Result<Attachment, Error> {
        // The way back first, as with pods.
        for name in [
            ProgramName::NodeRecvmsg4,
            ProgramName::NodeRecvmsg6,
            ProgramName::NodeGetpeername4,
            ProgramName::NodeGetpeername6,
            ProgramName::NodeSendmsg4,
            ProgramName::NodeSendmsg6,
            ProgramName::NodeConnect6,
        ] {
            self.attach_cgroup(name, root)?;
        }
        self.attach_cgroup(ProgramName::NodeConnect4, root)
    }

    /// Takes `edge` off a pod's device, or removes its pins if the device is gone already.
    pub fn detach_pod(&self, ifindex: u32) -> Result<(), Error> {
        self.detach(ProgramName::EdgePodIn, ifindex)?;
        self.detach(ProgramName::EdgePodOut, ifindex)
    }

    /// Takes `edge` off an overlay device, or removes its pins if the device is gone already.
    pub fn detach_overlay(&self, ifindex: u32) -> Result<(), Error> {
        self.detach(ProgramName::EdgeOverlayIn, ifindex)?;
        self.detach(ProgramName::EdgeTunnelIn, ifindex)
    }

    /// Takes `uplink` and `edge` off a device that is no uplink any more.
    pub fn detach_uplink(&self, ifindex: u32) -> Result<(), Error> {
        self.detach(ProgramName::Uplink, ifindex)?;
        self.detach(ProgramName::EdgeUplinkIn, ifindex)?;
        self.detach(ProgramName::EdgeUplinkOut, ifindex)
    }

    fn detach(&self, program: ProgramName, ifindex: u32) -> Result<(), Error> {
        remove_link(&self.link_path(program, ifindex))
    }

    fn link_path(&self, program: ProgramName, ifindex: u32) -> PathBuf {
        link_dir(&self.pin_dir).join(pin_name(program, ifindex))
    }

    fn attach_xdp(&self, name: ProgramName, ifindex: u32, mode: XdpMode) -> Result<Attachment, Error> {
        let (path, prog) = (self.link_path(name, ifindex), self.fds.get(name));
        let attached = probe::xdp_attached(ifindex)?;
        let misfit = |link: &syscall::LinkFacts| match &attached {
            Some(XdpAttached { mode: Some(found), prog_id, .. }) if *prog_id == link.prog_id && *found != mode => {
                Some(format!("it ran in {} mode, wanted is {}", found.as_str(), mode.as_str()))
            }
            _ => None,
        };
        let taken = take_over(&path, prog, ifindex.into(), misfit)?;
        if taken == Some(Attachment::TakenOver) {
            return Ok(Attachment::TakenOver);
        }
        create(name, prog, ifindex, mode.flags(), &path).map_err(|error| match probe::xdp_attached(ifindex) {
            // Whatever the errno: if somebody's program is there, that is what is in the way.
            Ok(Some(XdpAttached { prog_id, prog_name, mode })) => Error::Conflict {
                program: name.as_str(),
                ifindex,
                prog_id,
                prog_name,
                mode: mode.map_or("hardware or several modes", XdpMode::as_str),
            },
            _ => error,
        })?;
        Ok(taken.unwrap_or(Attachment::Attached))
    }

    fn attach_tcx(&self, name: ProgramName, ifindex: u32) -> Result<Attachment, Error> {
        let (path, prog) = (self.link_path(name, ifindex), self.fds.get(name));
        let taken = take_over(&path, prog, ifindex.into(), |_| None)?;
        if taken == Some(Attachment::TakenOver) {
            return Ok(Attachment::TakenOver);
        }
        create(name, prog, ifindex, 0, &path)?;
        Ok(taken.unwrap_or(Attachment::Attached))
    }

    fn attach_cgroup(&self, name: ProgramName, root: &Cgroup) -> Result<Attachment, Error> {
        let (path, prog) = (self.link_path(name, 0), self.fds.get(name));
        let taken = take_over(&path, prog, root.id, |_| None)?;
        if taken == Some(Attachment::TakenOver) {
            return Ok(Attachment::TakenOver);
        }
        let (attach_type, flags) = name.attach_point();
        let link = syscall::link_create(prog, root.folder.as_raw_fd(), attach_type, flags)
            .map_err(|source| Error::AttachCgroup { program: name.as_str(), source })?;
        pin_link(&link, &path)?;
        Ok(taken.unwrap_or(Attachment::Attached))
    }
}

/// Puts `prog` into the link pinned at `path`. `None`: nothing was pinned. `Replaced`: there was a link that cannot be used, it is
/// gone now, and the caller makes another.
fn take_over(
    path: &Path,
    prog: BorrowedFd<'_>,
    target: u64,
    misfit: impl Fn(&syscall::LinkFacts) -> Option<String>,
) -> Result<Option<Attachment>, Error> {
    let link = match syscall::open_pinned(path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Pin { action: "opening the link", path: path.into(), source }),
    };
    let why = match syscall::link_facts(link.as_fd()) {
        Err(error) => format!("it could not be read: {error}"),
        Ok(facts) if facts.target == 0 => "its device or cgroup was gone".to_string(),
        Ok(facts) if facts.target != target => format!("it was on device or cgroup {}", facts.target),
        Ok(facts) => match misfit(&facts) {
            Some(why) => why,
            None => match syscall::link_update(link.as_fd(), prog) {
                Ok(()) => return Ok(Some(Attachment::TakenOver)),
                Err(error) => format!("its program could not be replaced: {error}"),
            },
        },
    };
    drop(link);
    remove_link(path)?;
    Ok(Some(Attachment::Replaced { why }))
}

/// A new link to a device; `mode` is that of XDP.
fn create(name: ProgramName, prog: BorrowedFd<'_>, ifindex: u32, mode: u32, path: &Path) -> Result<(), Error> {
    let program = name.as_str();
    let (attach_type, flags) = name.attach_point();
    let link = syscall::link_create(prog, ifindex as i32, attach_type, flags | mode).map_err(|source| Error::Attach {
        program,
        ifindex,
        source,
    })?;
    pin_link(&link, path)
}

fn pin_link(link: &OwnedFd, path: &Path) -> Result<(), Error> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|source| Error::Pin { action: "creating", path: dir.into(), source })?;
    }
    syscall::pin(link.as_fd(), path).map_err(|source| Error::Pin { action: "pinning the link", path: path.into(), source })
}

/// Detaches and unpins. What is not there is no error.
fn remove_link(path: &Path) -> Result<(), Error> {
    if let Ok(link) = syscall::open_pinned(path) {
        // At once; the last reference alone would detach some time later, and a new attach would meet EBUSY. A link without its
        // device says ENOLINK: fine.
        let _ = syscall::link_detach(link.as_fd());
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Pin { action: "unpinning the link", path: path.into(), source: error })
        }
        _ => Ok(()),
    }
}

fn link_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join("link")
}

/// All links of ours below `pin_dir`, of this process or an earlier one. Empty if there is no such folder.
pub fn pinned_links(pin_dir: &Path) -> Result<Vec<PinnedLink>, Error> {
    let dir = link_dir(pin_dir);
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(Error::Pin { action: "listing", path: dir, source }),
    };
    let mut links = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| Error::Pin { action: "listing", path: dir.clone(), source })?.path();
        let Some((program, ifindex)) = path.file_name().and_then(|name| parse_pin_name(name.to_str()?)) else { continue };
        let live = syscall::open_pinned(&path).and_then(|link| syscall::link_facts(link.as_fd())).is_ok_and(|facts| facts.target != 0);
        links.push(PinnedLink { program, ifindex, live, path });
    }
    links.sort_by_key(|link| (link.ifindex, link.program.as_str()));
    Ok(links)
}

/// Removes the pins of links whose device is gone (pods that left while nobody ran, an earlier hostlink) and returns them.
pub fn prune(pin_dir: &Path) -> Result<Vec<PinnedLink>, Error> {
    let mut dead = pinned_links(pin_dir)?;
    dead.retain(|link| !link.live);
    for link in &dead {
        remove_link(&link.path)?;
    }
    Ok(dead)
}

fn pin_name(program: ProgramName, ifindex: u32) -> String {
    format!("{}-{ifindex}", program.as_str())
}

fn parse_pin_name(name: &str) -> Option<(ProgramName, u32)> {
    let (program, ifindex) = name.rsplit_once('-')?;
    Some((ProgramName::ALL.into_iter().find(|p| p.as_str() == program)?, ifindex.parse().ok()?))
}

/// Detaches all programs and removes all pins below `pin_dir`, whoever left them. Needs no running process; an
/// empty or missing folder is no error. The bpffs itself is [`crate::bpffs::unmount`]'s.
pub fn cleanup(pin_dir: &Path) -> Result<(), Error> {
    for link in pinned_links(pin_dir)? {
        remove_link(&link.path)?;
    }
    for dir in [link_dir(pin_dir), crate::pins::map_dir(pin_dir)] {
        remove_folder(&dir)?;
    }
    Ok(())
}

fn remove_folder(dir: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::Pin { action: "removing", path: dir.into(), source: error }),
        _ => Ok(()),
    }
}
