//! How long silent flows are kept.

use ringway_engine::flow::{TICKS_PER_SECOND, Timeouts};

use crate::units::Seconds;

/// Idle time-outs in seconds; see [`FlowTimeouts::default`] for why each has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeouts {
    pub tcp_syn: Seconds,
    pub tcp_established: Seconds,
    pub tcp_close_wait: Seconds,
    pub tcp_closed: Seconds,
    pub udp_unreplied: Seconds,
    pub udp: Seconds,
}

impl Default for FlowTimeouts {
    fn default() -> FlowTimeouts {
        FlowTimeouts {
            // Linux repeats a SYN for 127 s (tcp_syn_retries 6): an answer to the last repetition but one still finds its flow.
            tcp_syn: Seconds(120),
            // kube-proxy's --conntrack-tcp-timeout-established; the contract asks for at least a day.
            tcp_established: Seconds(86_400),
            // kube-proxy's --conntrack-tcp-timeout-close-wait.
            tcp_close_wait: Seconds(3_600),
            // The last ACK and repetitions of a FIN come within seconds; conntrack remembers TIME_WAIT for 120 s, but slots are
            // worth more than stray segments of a connection that both sides have closed.
            tcp_closed: Seconds(30),
            // nf_conntrack_udp_timeout: a lone datagram, mostly DNS.
            udp_unreplied: Seconds(30),
            // nf_conntrack_udp_timeout_stream was 180 s for long; QUIC and games keep alive within it.
            udp: Seconds(180),
        }
    }
}

impl FlowTimeouts {
    /// The same in the flow table's ticks.
    pub fn ticks(&self) -> Timeouts {
        let ticks = |seconds: Seconds| seconds.0.saturating_mul(TICKS_PER_SECOND);
        Timeouts {
            tcp_syn: ticks(self.tcp_syn),
            tcp_established: ticks(self.tcp_established),
            tcp_close_wait: ticks(self.tcp_close_wait),
            tcp_closed: ticks(self.tcp_closed),
            udp_unreplied: ticks(self.udp_unreplied),
            udp: ticks(self.udp),
        }
    }
}
