//! The smallest XDP program: every packet to the XSK of its queue. For tests and the empty forward, so that they need no other crate.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use ringway_io::XskmapSlot;

/// The program on one device, with its map. Detached when dropped.
pub struct Redirect {
    map: Arc<OwnedFd>,
    _program: OwnedFd,
    _link: OwnedFd,
}

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 4;
/// As `SEC("xdp.frags")`.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

impl Redirect {
    /// Attaches in native mode to a device of the caller's network namespace.
    pub fn attach(ifindex: u32, queues: u32) -> io::Result<Redirect> {
        let map = create_map(queues)?;
        let program = load(map.as_raw_fd())?;
        let link = link(program.as_raw_fd(), ifindex)?;
        Ok(Redirect { map: Arc::new(map), _program: program, _link: link })
    }

    pub fn slot(&self, key: u32) -> XskmapSlot {
        XskmapSlot { map: self.map.clone(), key }
    }
}

fn create_map(entries: u32) -> io::Result<OwnedFd> {
    // map_type, key_size, value_size, max_entries
    bpf(BPF_MAP_CREATE, &[BPF_MAP_TYPE_XSKMAP, 4, 4, entries])
}

fn load(map: i32) -> io::Result<OwnedFd> {
    let instructions = [
        instruction(0x61, 2, 1, 16, 0),  // r2 = ctx->rx_queue_index
        instruction(0x18, 1, 1, 0, map), // r1 = map
        instruction(0, 0, 0, 0, 0),
        instruction(0xb7, 3, 0, 0, 1),  // r3 = XDP_DROP, when no socket is there
        instruction(0x85, 0, 0, 0, 51), // bpf_redirect_map
        instruction(0x95, 0, 0, 0, 0),  // return r0
    ];
    let license = c"Apache-2.0";
    let (code, license) = (instructions.as_ptr() as u64, license.as_ptr() as u64);
    let (code, license) = ([code as u32, (code >> 32) as u32], [license as u32, (license >> 32) as u32]);
    // prog_type, insn_cnt, insns, license, log_level, log_size, log_buf (two words), kern_version, prog_flags
    let (head, tail) = ([BPF_PROG_TYPE_XDP, instructions.len() as u32], [0, 0, 0, 0, 0, BPF_F_XDP_HAS_FRAGS]);
    let words: Vec<u32> = [&head[..], &code, &license, &tail].concat();
    bpf(BPF_PROG_LOAD, &words)
}

fn link(program: i32, ifindex: u32) -> io::Result<OwnedFd> {
    // prog_fd, target_ifindex, attach_type, flags
    bpf(BPF_LINK_CREATE, &[program as u32, ifindex, BPF_XDP, XDP_FLAGS_DRV_MODE])
}

/// `struct bpf_insn` on a little-endian machine.
fn instruction(code: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
    u64::from(code) | u64::from(src << 4 | dst) << 8 | u64::from(offset as u16) << 16 | u64::from(imm as u32) << 32
}

/// `attributes` are the first words of `union bpf_attr`.
fn bpf(command: libc::c_int, attributes: &[u32]) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads the words, which are aligned for the 64-bit members in use, and what they point to, all alive here.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
