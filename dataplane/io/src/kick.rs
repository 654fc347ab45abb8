//! Asking the kernel to transmit what is in a tx ring, with as few system calls as the mode allows.

use std::io;

use crate::config::BindMode;
use crate::shell::PortState;
use crate::socket::Socket;
use crate::umem::{Pool, Umem};

/// Kicks without any progress in copy mode before the rest is left to the next round.
const FRUITLESS_KICKS_MAX: u32 = 2;

/// True if something is still in the ring.
#[inline]
pub(crate) fn kick<S: Socket>(state: &mut PortState<S>, umem: &Umem, pool: &mut Pool) -> io::Result<bool> {
    match state.socket.mode() {
        BindMode::ZeroCopy => kick_zero_copy(state),
        BindMode::Copy => kick_copy(state, umem, pool),
    }
}

/// The driver takes frames by itself, and says when it wants to be asked.
fn kick_zero_copy<S: Socket>(state: &mut PortState<S>) -> io::Result<bool> {
    if !state.rings.tx_needs_wakeup() {
        return Ok(false);
    }
    state.counters.kicks += 1;
    match state.socket.kick() {
        Err(error) if !is_backpressure(&error) => Err(error),
        _ => Ok(state.rings.tx_pending() > 0),
    }
}

/// Each system call copies and transmits some of the ring: 32 frames by default, fewer when the device or the socket's buffer is full.
fn kick_copy<S: Socket>(state: &mut PortState<S>, umem: &Umem, pool: &mut Pool) -> io::Result<bool> {
    let mut pending = state.rings.tx_pending();
    let mut fruitless = 0;
    while pending > 0 && fruitless < FRUITLESS_KICKS_MAX {
        state.counters.kicks += 1;
        match state.socket.kick() {
            Err(error) if !is_backpressure(&error) => return Err(error),
            _ => {}
        }
        let left = state.rings.tx_pending();
        if left == pending {
            // A full completion ring stops the kernel too.
            state.rings.reap(umem, pool);
            fruitless += 1;
        }
        pending = left;
    }
    Ok(pending > 0)
}

/// The descriptors stay in the ring, and nothing is lost. ENETDOWN: the link is down now, and may come back.
fn is_backpressure(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR | libc::ENETDOWN))
}
