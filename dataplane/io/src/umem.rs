//! The frames of one worker: memory that packets live in, and tokens that say who may touch which part of it.
//!
//! A [`Frame`] is neither `Copy` nor `Clone`. Handing it to a ring consumes it, a ring gives it back, so a frame that the kernel
//! owns cannot be read or written: there is no token for it.

use std::io;

use crate::mapping::Mapping;

/// The right to read and write one frame, and where in it the packet is.
///
/// A *large* frame holds a packet that spans several of the others while it is decided on. The kernel never gets one: they lie
/// behind what is registered as UMEM.
#[derive(Debug)]
#[must_use = "a frame that is dropped is lost: give it to a ring or to the pool"]
pub(crate) struct Frame {
    /// Offset of the packet in the UMEM.
    address: u64,
    /// Bytes of the packet.
    len: u32,
}

impl Frame {
    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn len(&self) -> u32 {
        self.len
    }
}

/// The memory of one worker. Each of its sockets registers it as a UMEM of its own, so a frame received on any of them can be
/// transmitted on any other, zero-copy NIC and veth alike; `XDP_SHARED_UMEM` could not mix those two.
#[derive(Debug)]
pub(crate) struct Umem {
    memory: Mapping,
    frame_bytes: u32,
    /// Where the large frames begin.
    large: u64,
}

/// Bytes of a large frame: the largest IP packet, 65 535 bytes, an Ethernet header with two VLAN tags, and as much room behind it for
/// an answer as there is in other frames.
pub(crate) const LARGE_FRAME_BYTES: usize = 17 * 4096;

/// The free frames of a [`Umem`]. Last in, first out: what was just transmitted is still in the cache.
#[derive(Debug)]
pub(crate) struct Pool {
    free: Vec<Frame>,
    free_large: Vec<Frame>,
    /// Where the large frames begin.
    large: u64,
}

impl Umem {
    /// `frame_bytes` is 2048 or 4096. So many frames, and large ones besides.
    pub fn new(frames: u32, frame_bytes: u32, large_frames: u32) -> io::Result<(Umem, Pool)> {
        assert!(frame_bytes.is_power_of_two());
        let large = u64::from(frames) * u64::from(frame_bytes);
        let memory = Mapping::anonymous(large as usize + large_frames as usize * LARGE_FRAME_BYTES)?;
        let all = |count: u32, base: u64, bytes: u64| (0..u64::from(count)).rev().map(move |i| Frame { address: base + i * bytes, len: 0 });
        let free = all(frames, 0, u64::from(frame_bytes)).collect();
        let free_large = all(large_frames, large, LARGE_FRAME_BYTES as u64).collect();
        Ok((Umem { memory, frame_bytes, large }, Pool { free, free_large, large }))
    }

    /// All, large ones too.
    pub fn frames(&self) -> u32 {
        let large_frames = (self.memory.bytes() - self.large as usize) / LARGE_FRAME_BYTES;
        (self.large / u64::from(self.frame_bytes)) as u32 + large_frames as u32
    }

    #[inline]
    pub fn is_large(&self, frame: &Frame) -> bool {
        frame.address >= self.large
    }

    pub fn frame_bytes(&self) -> u32 {
        self.frame_bytes
    }

    /// What the kernel needs to know to register the memory.
    pub fn region(&self) -> (u64, u64) {
        (self.memory.base().as_ptr() as u64, self.large)
    }

    /// Bytes from the beginning of the packet to the end of its frame.
    #[inline]
    fn room(&self, frame: &Frame) -> usize {
        if self.is_large(frame) {
            // Packets begin with it.
            return LARGE_FRAME_BYTES;
        }
        (u64::from(self.frame_bytes) - (frame.address & u64::from(self.frame_bytes - 1))) as usize
    }

    /// Says how long the packet is now; at most as long as the frame has room.
    #[inline]
    pub fn set_len(&self, frame: &mut Frame, len: usize) {
        frame.len = len.min(self.room(frame)) as u32;
    }

    /// The packet of a frame and the room behind it, and how long the packet is.
    #[inline]
    pub fn room_mut<'a>(&'a self, frame: &'a mut Frame) -> (&'a mut [u8], usize) {
        let (room, len) = (self.room(frame), frame.len as usize);
        // SAFETY: as in `bytes_mut`; the whole frame belongs to its token, and `room` ends with the frame.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.memory.base().as_ptr().add(frame.address as usize), room) };
        (bytes, len)
    }

    /// The packet of a frame.
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        // SAFETY: every `Frame` is one of `Umem::new` or `Umem::take_back`, both of which keep address and length inside one frame
        // of the memory, as `set_len` and `append` do. The token is unique and borrowed mutably for as long as the slice lives, so
        // nobody else reaches this frame: neither another slice nor, since it stands in no ring, the kernel.
        unsafe { std::slice::from_raw_parts_mut(self.memory.base().as_ptr().add(frame.address as usize), frame.len as usize) }
    }

    /// Puts `bytes` behind the packet of a frame. False, and nothing done, if they do not fit.
    pub fn append(&self, frame: &mut Frame, bytes: &[u8]) -> bool {
        let (room, len) = self.room_mut(frame);
        let Some(place) = room.get_mut(len..len + bytes.len()) else { return false };
        place.copy_from_slice(bytes);
        frame.len += bytes.len() as u32;
        true
    }

    /// Starts to load the headers of a packet that is looked at soon: in copy mode another core has just written them.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch reads nothing that the program sees and cannot fault; the address lies in the memory anyway.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(self.memory.base().as_ptr().add(frame.address as usize).cast());
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// Makes the token of a frame anew when the kernel gives it back. `None` if the descriptor does not lie in one frame, which
    /// the kernel never does; that frame is then counted as lost.
    ///
    /// # Safety
    /// The frame at `address` was given to the kernel as a token of this `Umem`, and the kernel has just given it back.
    #[inline]
    pub unsafe fn take_back(&self, address: u64, len: u32) -> Option<Frame> {
        let offset = address & u64::from(self.frame_bytes - 1);
        let inside = address < self.large && offset + u64::from(len) <= u64::from(self.frame_bytes);
        inside.then_some(Frame { address, len })
    }
}

impl Pool {
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    #[inline]
    pub fn give(&mut self, frame: Frame) {
        // Never allocates: each vector was made with room for every frame there is of its kind.
        if frame.address >= self.large {
            self.free_large.push(frame);
        } else {
            self.free.push(frame);
        }
    }

    /// Free frames, large ones too.
    pub fn len(&self) -> usize {
        self.free.len() + self.free_large.len()
    }

    /// An empty large frame, `None` if none is free.
    pub fn take_large(&mut self) -> Option<Frame> {
        let frame = self.free_large.pop()?;
        Some(Frame { len: 0, ..frame })
    }

    /// Takes a free frame, a large one if need be, and puts `bytes` into it; `None` if none is free or none is that large.
    pub fn take_with(&mut self, umem: &Umem, bytes: &[u8]) -> Option<Frame> {
        let mut frame = if bytes.len() > umem.frame_bytes as usize {
            self.take_large()?
        } else {
            let frame = self.take()?;
            Frame { address: frame.address & !u64::from(umem.frame_bytes - 1), len: 0 }
        };
        if umem.append(&mut frame, bytes) {
            return Some(frame);
        }
        self.give(frame);
        None
    }
}
