//! A kernel for tests: the other ends of a socket's rings, and no system call.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

use crate::config::BindMode;
use crate::mapping::Mapping;
use crate::ring::{Consumer, Descriptor, Producer};
use crate::rings::{CONTINUED, Rings};
use crate::socket::Socket;
use crate::umem::Umem;

/// The kernel's side of one socket. It checks that it never gets a frame that it has already.
pub(crate) struct FakeKernel {
    fill: Consumer<u64>,
    rx: Producer<libc::xdp_desc>,
    tx: Consumer<libc::xdp_desc>,
    completion: Producer<u64>,
    frame_bytes: u64,
    /// The first byte of the UMEM.
    memory: u64,
    /// Frames by their first address: what came in by the fill ring, and what by the tx ring.
    to_receive: Vec<u64>,
    transmitting: Vec<u64>,
    owned: HashSet<u64>,
    /// A kick takes nothing out of the tx ring.
    pub stalled: bool,
    /// The socket is.
    pub multi_buffer: bool,
    pub transmitted: u64,
    /// The packets in them, in order, and the beginning of one that is not complete.
    pub packets: Vec<Vec<u8>>,
    beginning: Vec<u8>,
}

/// The socket of a [`FakeKernel`].
pub(crate) struct FakeSocket {
    kernel: Rc<RefCell<FakeKernel>>,
    mode: BindMode,
}

/// Where each index stands in a fake ring: on lines of their own, as the kernel's.
const OFFSETS: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 64, flags: 128, desc: 192 };
/// What one kick transmits, as in the kernel.
const KICK_FRAMES: usize = 32;

impl FakeKernel {
    pub fn socket(umem: &Umem, depth: u32, mode: BindMode) -> (Rc<RefCell<FakeKernel>>, FakeSocket, Rings) {
        let (fill, kernel_fill) = to_kernel(depth);
        let (tx, kernel_tx) = to_kernel(depth);
        let (rx, kernel_rx) = from_kernel(depth);
        let (completion, kernel_completion) = from_kernel(depth);
        let kernel = Rc::new(RefCell::new(FakeKernel {
            fill: kernel_fill,
            rx: kernel_rx,
            tx: kernel_tx,
            completion: kernel_completion,
            frame_bytes: u64::from(umem.frame_bytes()),
            memory: umem.region().0,
            to_receive: Vec::new(),
            transmitting: Vec::new(),
            owned: HashSet::new(),
            stalled: false,
            multi_buffer: true,
            transmitted: 0,
            packets: Vec::new(),
            beginning: Vec::new(),
        }));
        (kernel.clone(), FakeSocket { kernel, mode }, Rings::new(fill, rx, tx, completion))
    }

    fn own(&mut self, address: u64) -> u64 {
        let first = address & !(self.frame_bytes - 1);
        assert!(self.owned.insert(first), "the frame at {first} was given to the kernel twice");
        first
    }

    /// Receives up to `count` packets of `len` bytes. Returns for how many there was a frame and room in the rx ring.
    pub fn receive(&mut self, count: usize, len: u32) -> usize {
        self.take_filled();
        let mut received = 0;
        while received < count {
            let Some(first) = self.to_receive.pop() else { break };
            if !self.rx.push(libc::xdp_desc { addr: first + 256, len, options: 0 }) {
                self.to_receive.push(first);
                break;
            }
            self.owned.remove(&first);
            received += 1;
        }
        self.rx.submit();
        received
    }

    /// Receives a packet in as many frames as it needs. False, and nothing done, if there are not enough of them or no room in the rx ring.
    pub fn receive_packet(&mut self, packet: &[u8]) -> bool {
        self.receive_part(packet, 0..usize::MAX)
    }

    /// The same, but no more than these of its frames.
    pub fn receive_part(&mut self, packet: &[u8], frames: Range<usize>) -> bool {
        self.take_filled();
        let room = self.frame_bytes as usize - 256;
        let count = packet.len().div_ceil(room);
        if self.to_receive.len() < count || self.rx.depth() - self.rx.pending() < count as u32 {
            return false;
        }
        for (number, piece) in packet.chunks(room).enumerate().filter(|(number, _)| frames.contains(number)) {
            let first = self.to_receive.pop().expect("enough frames, as just asked");
            self.bytes(first + 256, piece.len()).copy_from_slice(piece);
            let options = if number + 1 < count { CONTINUED } else { 0 };
            assert!(self.rx.push(libc::xdp_desc { addr: first + 256, len: piece.len() as u32, options }));
            self.owned.remove(&first);
        }
        self.rx.submit();
        true
    }

    fn take_filled(&mut self) {
        while let Some(address) = self.fill.pop() {
            let first = self.own(address);
            self.to_receive.push(first);
        }
        self.fill.release();
    }

    /// Bytes of a frame that the kernel owns.
    fn bytes(&mut self, address: u64, len: usize) -> &mut [u8] {
        assert!(self.owned.contains(&(address & !(self.frame_bytes - 1))) && address % self.frame_bytes + len as u64 <= self.frame_bytes);
        // SAFETY: the bytes lie in one frame of the UMEM, which the shell keeps alive as long as it uses this kernel's rings; it has
        // given the frame away and not got it back.
        unsafe { std::slice::from_raw_parts_mut((self.memory + address) as *mut u8, len) }
    }

    /// Completes up to `count` transmissions.
    pub fn complete(&mut self, count: usize) {
        for first in self.transmitting.drain(..count.min(self.transmitting.len())) {
            assert!(self.completion.push(first), "the completion ring has room for all that is under way");
            self.owned.remove(&first);
        }
        self.completion.submit();
    }

    fn transmit(&mut self) -> io::Result<()> {
        for _ in 0..KICK_FRAMES {
            if self.stalled {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            let Some(descriptor) = self.tx.pop() else { return Ok(()) };
            self.tx.release();
            assert!(descriptor.len > 0, "the kernel refuses empty descriptors and keeps the frame");
            let first = self.own(descriptor.addr);
            self.transmitting.push(first);
            let piece = self.bytes(descriptor.addr, descriptor.len as usize).to_vec();
            self.beginning.extend(piece);
            if descriptor.options & CONTINUED == 0 {
                let packet = std::mem::take(&mut self.beginning);
                self.packets.push(packet);
            }
            self.transmitted += 1;
        }
        Err(io::Error::from_raw_os_error(libc::EAGAIN))
    }
}

impl Socket for FakeSocket {
    fn fd(&self) -> RawFd {
        -1
    }

    fn mode(&self) -> BindMode {
        self.mode
    }

    fn is_multi_buffer(&self) -> bool {
        self.kernel.borrow().multi_buffer
    }

    fn kick(&self) -> io::Result<()> {
        self.kernel.borrow_mut().transmit()
    }

    fn wake_rx(&self) -> io::Result<()> {
        Ok(())
    }

    fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        Err(io::Error::from_raw_os_error(libc::ENETDOWN))
    }
}

fn to_kernel<T: Descriptor>(depth: u32) -> (Producer<T>, Consumer<T>) {
    let memory = memory::<T>(depth);
    // SAFETY: the memory is a ring of that layout and depth, zeroed as a new one is, with one producer and one consumer.
    unsafe { (Producer::new(memory.clone(), &OFFSETS, depth).expect("inside"), Consumer::new(memory, &OFFSETS, depth).expect("inside")) }
}

fn from_kernel<T: Descriptor>(depth: u32) -> (Consumer<T>, Producer<T>) {
    let (producer, consumer) = to_kernel(depth);
    (consumer, producer)
}

fn memory<T>(depth: u32) -> Arc<Mapping> {
    Arc::new(Mapping::anonymous(OFFSETS.desc as usize + depth as usize * size_of::<T>()).expect("memory"))
}
