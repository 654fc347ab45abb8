//! Verdicts: exactly one per frame, decided by the engine, carried out by the shell.

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Transmit on this worker's queue of the uplink, or of the member of a bond ([`Bonds`](crate::tables::Bonds) numbers both); the
    /// Ethernet header is written.
    Uplink { uplink: u8 },
    /// Transmit on the hostlink; the Ethernet header holds the order.
    Host,
    /// The next hop is not resolved: keep the frame untouched, ask for the neighbor, hand it to the engine again later.
    Hold { ifindex: u32, address: std::net::IpAddr },
    /// Another worker is creating the same flow at this moment: hand the untouched frame to the engine again in the next round.
    Again,
    /// A fragment that came before the first one of its datagram: hand the untouched frame to the engine again in the next round.
    AwaitFirst,
    /// Transmit, but [`divide`](crate::divide::divide) the packet before, which is larger than the MTU of its next hop, in bytes. On this
    /// worker's queue of the uplink, or on the hostlink if there is none.
    Divide { mtu: u32, uplink: Option<u8> },
    /// Release the frame and count the reason.
    Drop(DropReason),
}

macro_rules! drop_reasons {
    ($($name:ident $label:literal $sentence:literal,)*) => {
        /// Why a frame was dropped. Each has a counter, a sentence and a test.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $sentence] $name,)* }

        impl DropReason {
            /// Every reason, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The name in statistics and metrics.
            pub fn label(self) -> &'static str {
                match self { $(DropReason::$name => $label,)* }
            }

            /// One sentence for people.
            pub fn sentence(self) -> &'static str {
                match self { $(DropReason::$name => $sentence,)* }
            }
        }
    };
}

drop_reasons! {
    Malformed "malformed" "A header is truncated or its lengths contradict the frame.",
    BadUpcall "bad_upcall" "A hostlink frame carries no upcall that we know, or names a device that we do not know.",
    Echo "echo" "A probe of our own, back from the hostlink: it has proved the way there and back, and is done.",
    LandAttack "land_attack" "Source and destination are the same endpoint, or the source is an address that cannot be one.",
    NotForwarded "not_forwarded" "A packet for an address of ours that serves no such thing: handed on, it would come back.",
    NoBackend "no_backend" "There is no backend, and the packet is none that may be answered by a refusal.",
    RefusalLimited "refusal_limited" "A refusal or the reply to a ping was due, but its source had too many already.",
    PolicyLocal "policy_local" "The traffic policy is Local and every backend is on another node.",
    SourceRange "source_range" "The source is not in the service's loadBalancerSourceRanges.",
    NoFlow "no_flow" "A TCP reset or an SCTP abort of a flow that we do not know: nothing to end.",
    FlowTableFull "flow_table_full" "No bucket of the flow has a slot to use (full, or resting after a removal), or the limit of flows is reached.",
    FlowContended "flow_contended" "Another worker was creating the same flow, and too many packets waited for that already.",
    FragmentAlone "fragment_alone" "A fragment whose first one was dropped or did not come, or too many waited for theirs already.",
    FragmentOverlap "fragment_overlap" "A fragment that lies on the TCP or UDP header of its first one, or on others of its datagram; in part, and all that follows is dropped, too.",
    SnatPortsExhausted "snat_ports_exhausted" "No free SNAT port towards this backend.",
    NoSnatAddress "no_snat_address" "The backend is on another node and there is no SNAT address to use.",
    NoRoute "no_route" "The FIB has no route to the next hop, or one that prohibits it.",
    NeighborUnresolved "neighbor_unresolved" "The next hop did not answer, or too many packets wait for it already.",
    TtlExpired "ttl_expired" "The TTL or hop limit ended here, and the sender was told so often enough.",
    TooBig "too_big" "The packet is larger than the MTU of its next hop, and neither divided nor answered: an ICMP error, sent to many, or too few frames are free for its fragments.",
    NoMember "no_member" "An answer to an ARP request or a solicitation, but no member of the bond may transmit.",
    ArpConflict "arp_conflict" "A station on the wire claims an announced address.",
    TxRingFull "tx_ring_full" "The transmit ring has no room.",
    NoFrames "no_frames" "No free frame to receive into.",
}

/// Counters of one worker by verdict; plain numbers, the shell publishes them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerdictCounts {
    pub uplink: u64,
    pub host: u64,
    pub hold: u64,
    /// Of those above: packets that became refusals (a TCP reset, an ICMP error).
    pub refused: u64,
    /// Of those above: ICMP errors about flows, translated.
    pub icmp_errors: u64,
    /// Of those above: pings that became their replies.
    pub pings: u64,
    pub drops: [u64; DropReason::ALL.len()],
}

impl VerdictCounts {
    #[inline]
    pub fn count(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Uplink { .. } | Verdict::Divide { uplink: Some(_), .. } => self.uplink += 1,
            Verdict::Host | Verdict::Divide { uplink: None, .. } => self.host += 1,
            Verdict::Hold { .. } | Verdict::Again | Verdict::AwaitFirst => self.hold += 1,
            Verdict::Drop(reason) => self.drops[reason as usize] += 1,
        }
    }
}
