//! The bpf(2) calls of `libbpf-sys` that `libbpf-rs` does not offer, made safe. libbpf returns −errno.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libbpf_rs::{MapCore, MapHandle};
use libbpf_sys as sys;

fn check(ret: i32) -> io::Result<i32> {
    if ret < 0 { Err(io::Error::from_raw_os_error(-ret)) } else { Ok(ret) }
}

/// # Safety
/// `ret`, if not negative, is a descriptor that nobody else owns.
unsafe fn owned(ret: i32) -> io::Result<OwnedFd> {
    // SAFETY: by the contract of this function.
    check(ret).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    pub prog_id: u32,
    /// Index of the device, or id of the cgroup. 0: it is gone, or the link was detached.
    pub target: u64,
}

/// `target` is the index of a device or the descriptor of a cgroup's folder.
pub fn link_create(prog: BorrowedFd<'_>, target: i32, attach_type: sys::bpf_attach_type, flags: u32) -> io::Result<OwnedFd> {
    let opts = sys::bpf_link_create_opts { sz: mem::size_of::<sys::bpf_link_create_opts>() as _, flags, ..Default::default() };
    // SAFETY: `opts` outlives the call and its size is given; the result is a new descriptor.
    unsafe { owned(sys::bpf_link_create(prog.as_raw_fd(), target, attach_type, &opts)) }
}

pub fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open; no options.
    check(unsafe { sys::bpf_link_update(link.as_raw_fd(), prog.as_raw_fd(), std::ptr::null()) }).map(drop)
}

/// Detaches at once. Dropping the last reference would too, but some time later.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    check(unsafe { sys::bpf_link_detach(link.as_raw_fd()) }).map(drop)
}

pub fn link_facts(link: BorrowedFd<'_>) -> io::Result<LinkFacts> {
    let mut info = sys::bpf_link_info::default();
    let mut len = mem::size_of_val(&info) as u32;
    // SAFETY: `info` has `len` bytes and outlives the call.
    check(unsafe { sys::bpf_link_get_info_by_fd(link.as_raw_fd(), &mut info, &mut len) })?;
    let target = match info.type_ {
        // SAFETY: the type says which member the kernel filled; all members are plain numbers.
        sys::BPF_LINK_TYPE_XDP => unsafe { info.__bindgen_anon_1.xdp.ifindex.into() },
        // SAFETY: likewise.
        sys::BPF_LINK_TYPE_TCX => unsafe { info.__bindgen_anon_1.tcx.ifindex.into() },
        // SAFETY: likewise.
        sys::BPF_LINK_TYPE_CGROUP => unsafe { info.__bindgen_anon_1.cgroup.cgroup_id },
        _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "neither an XDP nor a tcx nor a cgroup link")),
    };
    Ok(LinkFacts { prog_id: info.prog_id, target })
}

pub fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: an open descriptor and a C string that outlives the call.
    check(unsafe { sys::bpf_obj_pin(fd.as_raw_fd(), path.as_ptr()) }).map(drop)
}

pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    // SAFETY: a C string that outlives the call; the result is a new descriptor.
    unsafe { owned(sys::bpf_obj_get(path.as_ptr())) }
}

/// Adds or changes an entry.
pub fn map_update(map: &MapHandle, key: &[u8], value: &[u8]) -> io::Result<()> {
    if key.len() != map.key_size() as usize || value.len() != map.value_size() as usize {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "key or value of another size than the map's"));
    }
    let (fd, flags) = (map.as_fd().as_raw_fd(), u64::from(sys::BPF_ANY));
    // SAFETY: key and value have the sizes that the kernel reads, and outlive the call.
    check(unsafe { sys::bpf_map_update_elem(fd, key.as_ptr().cast(), value.as_ptr().cast(), flags) }).map(drop)
}

pub fn prog_open(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: no memory involved; the result is a new descriptor.
    unsafe { owned(sys::bpf_prog_get_fd_by_id(id)) }
}

/// Id and name of a loaded program.
pub fn prog_facts(prog: BorrowedFd<'_>) -> io::Result<(u32, String)> {
    let mut info = sys::bpf_prog_info::default();
    let mut len = mem::size_of_val(&info) as u32;
    // SAFETY: `info` has `len` bytes, all pointers in it are null, and it outlives the call.
    check(unsafe { sys::bpf_prog_get_info_by_fd(prog.as_raw_fd(), &mut info, &mut len) })?;
    let name = info.name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect::<Vec<_>>();
    Ok((info.id, String::from_utf8_lossy(&name).into_owned()))
}

pub fn xdp_query(ifindex: u32) -> io::Result<sys::bpf_xdp_query_opts> {
    let mut opts = sys::bpf_xdp_query_opts { sz: mem::size_of::<sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    // SAFETY: `opts` says its size and outlives the call.
    check(unsafe { sys::bpf_xdp_query(ifindex as i32, 0, &mut opts) })?;
    Ok(opts)
}

/// Ids of the programs at a tcx hook, in the order in which they run.
pub fn tcx_query(ifindex: u32, attach_type: sys::bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; 64];
    let mut opts = sys::bpf_prog_query_opts { sz: mem::size_of::<sys::bpf_prog_query_opts>() as _, ..Default::default() };
    opts.prog_ids = ids.as_mut_ptr();
    opts.__bindgen_anon_1.prog_cnt = ids.len() as u32;
    // SAFETY: `ids` has as many elements as said; both outlive the call.
    check(unsafe { sys::bpf_prog_query_opts(ifindex as i32, attach_type, &mut opts) })?;
    // SAFETY: both members of the union are the same u32.
    let count = unsafe { opts.__bindgen_anon_1.prog_cnt } as usize;
    Ok(ids[..count.min(ids.len())].to_vec())
}

/// Runs a program on `data`, `repeat` times, with the context `ctx` (of the program type's layout) before and after.
pub struct TestRun<'a> {
    pub data: &'a [u8],
    pub out: &'a mut [u8],
    pub ctx_in: &'a [u8],
    pub ctx_out: &'a mut [u8],
    pub repeat: u32,
}

/// What came out of a test run.
pub struct TestRunResult {
    pub retval: u32,
    pub out_len: usize,
    /// Nanoseconds per run, the mean over all repeats.
    pub duration_ns: u32,
}

pub fn test_run(prog: BorrowedFd<'_>, run: TestRun<'_>) -> io::Result<TestRunResult> {
    let mut opts = sys::bpf_test_run_opts {
        sz: mem::size_of::<sys::bpf_test_run_opts>() as _,
        data_in: run.data.as_ptr().cast(),
        data_size_in: run.data.len() as u32,
        repeat: run.repeat as i32,
        ..Default::default()
    };
    if !run.out.is_empty() {
        opts.data_out = run.out.as_mut_ptr().cast();
        opts.data_size_out = run.out.len() as u32;
    }
    if !run.ctx_in.is_empty() {
        opts.ctx_in = run.ctx_in.as_ptr().cast();
        opts.ctx_size_in = run.ctx_in.len() as u32;
    }
    if !run.ctx_out.is_empty() {
        opts.ctx_out = run.ctx_out.as_mut_ptr().cast();
        opts.ctx_size_out = run.ctx_out.len() as u32;
    }
    // SAFETY: every pointer comes with its length and outlives the call.
    check(unsafe { sys::bpf_prog_test_run_opts(prog.as_raw_fd(), &mut opts) })?;
    Ok(TestRunResult { retval: opts.retval, out_len: opts.data_size_out as usize, duration_ns: opts.duration })
}
