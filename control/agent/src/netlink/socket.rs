//! Requests to rtnetlink and its notifications: two kinds of socket, so that a flood of one never drowns the other.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rtnetlink::MulticastGroup;

/// A request to the kernel that failed: what was attempted, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("{attempt}: {source}{}", .explanation.as_ref().map(|text| format!(" ({text})")).unwrap_or_default())]
pub struct NetlinkError {
    attempt: String,
    source: io::Error,
    /// The kernel's own words or ours: what is wrong, what to do.
    explanation: Option<String>,
}

impl NetlinkError {
    pub(super) fn new(attempt: impl Into<String>, source: io::Error) -> NetlinkError {
        NetlinkError { attempt: attempt.into(), source, explanation: None }
    }

    pub(super) fn explained(attempt: impl Into<String>, kind: io::ErrorKind, explanation: impl Into<String>) -> NetlinkError {
        NetlinkError { attempt: attempt.into(), source: kind.into(), explanation: Some(explanation.into()) }
    }

    /// The kernel's error number, if it is the kernel that refused.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

/// Largest datagram: the kernel builds dumps in pieces of at most 32 KiB, notifications are smaller.
const DATAGRAM_BYTES: usize = 64 << 10;

/// Requests sent in one datagram. Their acknowledgements all wait in the receive buffer until the send returns: 64 of them, each
/// about 1 KiB with its bookkeeping, are well below the default of 208 KiB.
const BATCH_REQUESTS: usize = 64;

/// Dumps are repeated this often if the tables changed underneath, then taken as they are: the change is notified anyway.
const DUMP_ATTEMPTS: usize = 5;

/// A socket for requests: each waits for its answers.
pub(super) struct Requests {
    socket: TokioSocket,
    sequence: u32,
}

/// What the kernel answered to one request.
#[derive(Default)]
struct Answer {
    messages: Vec<RouteNetlinkMessage>,
    refusal: Option<(io::Error, Option<String>)>,
    interrupted: bool,
}

impl Requests {
    pub(super) fn open() -> Result<Requests, NetlinkError> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind_auto()?;
            socket.socket_ref().connect(&SocketAddr::new(0, 0))?;
            socket.socket_ref().set_netlink_get_strict_chk(true)?;
            socket.socket_ref().set_cap_ack(true)?;
            socket.socket_ref().set_ext_ack(true)?;
            Ok(Requests { socket, sequence: 0 })
        };
        open().map_err(|error| NetlinkError::new("open an rtnetlink socket", error))
    }

    /// All objects of a kind.
    pub(super) async fn dump(&mut self, attempt: &str, message: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        for _ in 1..DUMP_ATTEMPTS {
            let answer = self.one(attempt, message.clone(), NLM_F_DUMP).await?;
            if !answer.interrupted {
                return Ok(answer.messages);
            }
        }
        Ok(self.one(attempt, message, NLM_F_DUMP).await?.messages)
    }

    /// One request; returns what the kernel answered beside the acknowledgement.
    pub(super) async fn request(
        &mut self,
        attempt: &str,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        Ok(self.one(attempt, message, flags | NLM_F_ACK).await?.messages)
    }

    /// Many requests, all attempted: one result for each, in their order. `attempt` names the request of a number.
    ///
    /// # Errors
    /// The socket failed.
    pub(super) async fn batch(
        &mut self,
        messages: Vec<(RouteNetlinkMessage, u16)>,
        attempt: impl Fn(usize) -> String,
    ) -> Result<Vec<Result<(), NetlinkError>>, NetlinkError> {
        let mut results = Vec::with_capacity(messages.len());
        let mut messages = messages.into_iter().map(|(message, flags)| (message, flags | NLM_F_ACK));
        loop {
            let chunk: Vec<_> = messages.by_ref().take(BATCH_REQUESTS).collect();
            if chunk.is_empty() {
                return Ok(results);
            }
            let answers = self.exchange(chunk).await.map_err(|error| NetlinkError::new(attempt(results.len()), error))?;
            for answer in answers {
                results.push(answer.accepted(|| attempt(results.len())).map(|_| ()));
            }
        }
    }

    async fn one(&mut self, attempt: &str, message: RouteNetlinkMessage, flags: u16) -> Result<Answer, NetlinkError> {
        let answers = self.exchange(vec![(message, flags)]).await.map_err(|error| NetlinkError::new(attempt, error))?;
        answers.into_iter().next().unwrap_or_default().accepted(|| attempt.to_string())
    }

    async fn exchange(&mut self, messages: Vec<(RouteNetlinkMessage, u16)>) -> io::Result<Vec<Answer>> {
        let count = messages.len();
        let first = self.sequence.wrapping_add(1);
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            header.flags = flags | NLM_F_REQUEST;
            header.sequence_number = self.sequence;
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
            message.finalize();
            // Messages are a multiple of 4 bytes long: every attribute is padded.
            let start = bytes.len();
            bytes.resize(start + message.buffer_len(), 0);
            message.serialize(&mut bytes[start..]);
        }
        self.socket.send(&bytes).await?;

        let mut answers: HashMap<u32, Answer> = HashMap::new();
        let mut open = count;
        let mut buffer = Vec::with_capacity(DATAGRAM_BYTES);
        while open > 0 {
            buffer.clear();
            self.socket.recv(&mut buffer).await?;
            let (messages, unknown) = parse(&buffer);
            if unknown {
                tracing::warn!("skipped objects of rtnetlink that Ringway does not understand");
            }
            for (header, payload) in messages {
                // Answers to a request that was given up (a cancelled future) are skipped.
                if header.sequence_number.wrapping_sub(first) as usize >= count {
                    continue;
                }
                let answer = answers.entry(header.sequence_number).or_default();
                answer.interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    NetlinkPayload::InnerMessage(message) => answer.messages.push(message),
                    NetlinkPayload::Error(error) => {
                        if error.code.is_some() {
                            answer.refusal = Some((error.to_io(), explanation(&error)));
                        }
                        open -= 1;
                    }
                    NetlinkPayload::Done(_) => open -= 1,
                    _ => {}
                }
            }
        }
        Ok((0..count as u32).map(|number| answers.remove(&first.wrapping_add(number)).unwrap_or_default()).collect())
    }
}

impl Answer {
    fn accepted(self, attempt: impl FnOnce() -> String) -> Result<Answer, NetlinkError> {
        match self.refusal {
            Some((source, explanation)) => Err(NetlinkError { attempt: attempt(), source, explanation }),
            None => Ok(self),
        }
    }
}

/// The text that the kernel puts behind the request's header (`NLMSGERR_ATTR_MSG` of an extended acknowledgement; the request itself
/// is left out, as asked by `NETLINK_CAP_ACK`).
fn explanation(error: &ErrorMessage) -> Option<String> {
    const REQUEST_HEADER_BYTES: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = error.header.get(REQUEST_HEADER_BYTES..)?;
    let text = NlasIterator::new(attributes).filter_map(Result::ok).find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    Some(String::from_utf8_lossy(text.value()).trim_end_matches('\0').to_string())
}

/// Messages of a datagram, and whether there were others that cannot be understood.
fn parse(datagram: &[u8]) -> (Vec<(NetlinkHeader, NetlinkPayload<RouteNetlinkMessage>)>, bool) {
    let mut messages = Vec::new();
    let mut unknown = false;
    let mut rest = datagram;
    while let Some(length) = rest.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes) as usize) {
        if length < 16 || length > rest.len() {
            break;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            Ok(message) => messages.push(message.into_parts()),
            Err(error) => {
                tracing::debug!(%error, "skipped a message of rtnetlink");
                unknown = true;
            }
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    (messages, unknown)
}

/// Messages that the kernel sends by itself.
pub(super) struct Notifications {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What one read of the notification socket gave.
pub(super) enum Heard {
    /// `unknown`: there were others, of kinds that the library does not know (nexthop objects).
    Messages { messages: Vec<RouteNetlinkMessage>, unknown: bool },
    /// The receive buffer overflowed: nothing that was heard before may be trusted.
    Lost,
}

impl Notifications {
    pub(super) fn subscribe(groups: &[MulticastGroup], receive_buffer_bytes: usize) -> Result<Notifications, NetlinkError> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind_auto()?;
            // Beyond net.core.rmem_max only with CAP_NET_ADMIN, which we need anyway.
            let forced = rustix::net::sockopt::set_socket_recv_buffer_size_force(socket.socket_ref().as_fd(), receive_buffer_bytes);
            if forced.is_err() {
                socket.socket_ref().set_rx_buf_sz(i32::try_from(receive_buffer_bytes).unwrap_or(i32::MAX))?;
            }
            for group in groups {
                socket.socket_ref().add_membership(*group as u32)?;
            }
            Ok(Notifications { socket, buffer: Vec::with_capacity(DATAGRAM_BYTES) })
        };
        open().map_err(|error| NetlinkError::new("subscribe to rtnetlink notifications", error))
    }

    /// Waits for the next datagram. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Heard, NetlinkError> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer).await {
            Ok(()) => {
                let (messages, unknown) = parse(&self.buffer);
                let messages = messages.into_iter().filter_map(|(_, payload)| match payload {
                    NetlinkPayload::InnerMessage(message) => Some(message),
                    _ => None,
                });
                Ok(Heard::Messages { messages: messages.collect(), unknown })
            }
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(Heard::Lost),
            Err(error) => Err(NetlinkError::new("read rtnetlink notifications", error)),
        }
    }
}
