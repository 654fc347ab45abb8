//! Running the programs on one frame (`BPF_PROG_TEST_RUN`), for the shared packet fixtures and for measuring.
//! Nothing leaves the machine; counters and flow entries change as with a real packet.

use std::mem;
use std::os::fd::BorrowedFd;
use std::slice;

use libbpf_sys as sys;

use crate::syscall::{self, TestRun};
use crate::{Error, ProgramName, Programs};

/// What `uplink` decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAction {
    /// To the kernel.
    Pass,
    /// To the AF_XDP socket of the queue. Also if there is no socket, which the kernel turns into `XDP_DROP`.
    Redirect,
    /// Sent to a VIP, but to nothing that it serves (the counter `uplink_drop_vip` tells it from the other).
    Drop,
    /// None that our programs return.
    Other(u32),
}

/// What a tc program decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcAction {
    /// `TC_ACT_UNSPEC`: go on.
    Next,
    /// `TC_ACT_SHOT`.
    Drop,
    /// `TC_ACT_REDIRECT`: one of the redirects; where to, a test run does not tell.
    Redirect,
    Other(u32),
}

/// What a tc program is told beside the packet.
#[derive(Clone, Copy, Debug, Default)]
pub struct SkbContext {
    pub mark: u32,
    /// The device of the hook; it must exist. 0: the loopback device, 1.
    pub ifindex: u32,
    /// Where the packet came in; 0 for the node's own.
    pub ingress_ifindex: u32,
}

/// What a tc program made of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkbResult {
    pub action: TcAction,
    pub frame: Vec<u8>,
    pub mark: u32,
}

/// The most that a program may add to a frame. Ours add nothing.
const ROOM: usize = 64;

impl Programs {
    /// Runs `uplink` on a frame of at least 14 bytes as if received on queue 0 of `ifindex`. The device must run XDP,
    /// but for 1, the loopback device.
    pub fn test_run_uplink(&self, frame: &[u8], ifindex: u32) -> Result<XdpAction, Error> {
        let dropped = || Ok::<_, Error>([self.counters.get("uplink_drop_vip")?, self.counters.get("uplink_drop_inactive")?]);
        let before = dropped()?;
        let (action, _) = self.run_uplink(frame, ifindex, 1)?;
        // What the program redirects is dropped here, too, for want of a socket.
        Ok(if action == XdpAction::Redirect && dropped()? != before { XdpAction::Drop } else { action })
    }

    /// Mean nanoseconds of `uplink` on a frame over `repeat` runs, with the kernel's own 35–40 ns for an empty program.
    pub fn cost_uplink_ns(&self, frame: &[u8], repeat: u32) -> Result<u32, Error> {
        let (_, duration_ns) = self.run_uplink(frame, 1, repeat)?;
        Ok(duration_ns)
    }

    fn run_uplink(&self, frame: &[u8], ifindex: u32, repeat: u32) -> Result<(XdpAction, u32), Error> {
        let mut out = vec![0; frame.len() + ROOM];
        let ctx = sys::xdp_md { data_end: frame.len() as u32, ingress_ifindex: ifindex, ..Default::default() };
        // Without a context it is the loopback device, which does not run XDP otherwise.
        let ctx_in = if ifindex <= 1 { &[] } else { bytes_of(&ctx) };
        let run = TestRun { data: frame, out: &mut out, ctx_in, ctx_out: &mut [], repeat };
        let result = syscall::test_run(self.fds.get(ProgramName::Uplink), run).map_err(|source| Error::TestRun {
            program: "uplink",
            bytes: frame.len(),
            source,
        })?;
        let action = match result.retval {
            sys::XDP_PASS => XdpAction::Pass,
            sys::XDP_REDIRECT | sys::XDP_DROP => XdpAction::Redirect,
            other => XdpAction::Other(other),
        };
        Ok((action, result.duration_ns))
    }

    /// Runs a tc program on a frame. Only IPv4, IPv6 and frames of other protocols with at least 14 bytes; the kernel refuses
    /// some that are too short for their protocol.
    pub fn test_run_tc(&self, program: ProgramName, frame: &[u8], context: SkbContext) -> Result<SkbResult, Error> {
        let mut out = vec![0; frame.len() + ROOM];
        let ctx = skb_context(context);
        let mut after = [0; SKB_CONTEXT_BYTES];
        let run = TestRun { data: frame, out: &mut out, ctx_in: bytes_of(&ctx), ctx_out: &mut after, repeat: 1 };
        let result = syscall::test_run(self.tc_program(program)?, run).map_err(|source| Error::TestRun {
            program: program.as_str(),
            bytes: frame.len(),
            source,
        })?;
        out.truncate(result.out_len);
        let action = match result.retval as i32 {
            TC_ACT_UNSPEC => TcAction::Next,
            TC_ACT_SHOT => TcAction::Drop,
            TC_ACT_REDIRECT => TcAction::Redirect,
            _ => TcAction::Other(result.retval),
        };
        let mark = after[MARK_OFFSET..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        Ok(SkbResult { action, frame: out, mark })
    }

    /// Mean nanoseconds of a tc program on a frame over `repeat` runs. The packet stays as the program left it: a hit rewrites it,
    /// so only the first run of a flow hits, unless the rewrite leaves the key as it is.
    pub fn cost_tc_ns(&self, program: ProgramName, frame: &[u8], context: SkbContext, repeat: u32) -> Result<u32, Error> {
        let ctx = skb_context(context);
        let run = TestRun { data: frame, out: &mut [], ctx_in: bytes_of(&ctx), ctx_out: &mut [], repeat };
        syscall::test_run(self.tc_program(program)?, run).map(|result| result.duration_ns).map_err(|source| Error::TestRun {
            program: program.as_str(),
            bytes: frame.len(),
            source,
        })
    }

    fn tc_program(&self, program: ProgramName) -> Result<BorrowedFd<'_>, Error> {
        match program.attach_point().0 {
            sys::BPF_TCX_INGRESS | sys::BPF_TCX_EGRESS => Ok(self.fds.get(program)),
            _ => Err(Error::Argument { what: "a program of another hook", value: program as u64, allowed: "a tc program" }),
        }
    }
}

/// linux/pkt_cls.h
const TC_ACT_UNSPEC: i32 = -1;
const TC_ACT_SHOT: i32 = 2;
const TC_ACT_REDIRECT: i32 = 7;

fn skb_context(context: SkbContext) -> SkbPrefix {
    SkbPrefix { mark: context.mark, ifindex: context.ifindex, ingress_ifindex: context.ingress_ifindex, ..Default::default() }
}

/// `struct __sk_buff` of linux/bpf.h up to the last field that we set; the kernel takes the rest as zero.
#[derive(Default)]
#[repr(C)]
struct SkbPrefix {
    before: [u32; 2],
    mark: u32,
    between: [u32; 6],
    ingress_ifindex: u32,
    ifindex: u32,
}

/// Offset of `mark` in `struct __sk_buff`.
const MARK_OFFSET: usize = 8;
/// Room for `struct __sk_buff`, which has 192 bytes on Linux 6.18 and may grow.
const SKB_CONTEXT_BYTES: usize = 512;

/// A context of the kernel's ABI as bytes.
trait Context {}
impl Context for sys::xdp_md {}
impl Context for SkbPrefix {}

fn bytes_of<T: Context>(value: &T) -> &[u8] {
    // SAFETY: the contexts are repr(C) structures of u32 without padding.
    unsafe { slice::from_raw_parts(std::ptr::from_ref(value).cast(), mem::size_of::<T>()) }
}
