"""Packets that no careful host sends, made with scapy. Prints one a line: a name, whether it arrives, a mark by which it is known, the frame.

Usage: crafted.py SOURCE-MAC DESTINATION-MAC CLIENT VIP FIRST-PORT
"""

import sys

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_Router_Alert, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

SOURCE, DESTINATION, CLIENT, VIP = sys.argv[1:5]
PORT = int(sys.argv[5])
IS_V6 = ":" in VIP
IP_BYTES = 40 if IS_V6 else 20

count = 0


def ip(source=CLIENT, destination=VIP, hops=64, **more):
    return IPv6(src=source, dst=destination, hlim=hops, **more) if IS_V6 else IP(src=source, dst=destination, ttl=hops, **more)


def mark():
    global count
    count += 1
    return b"<crafted%03d>" % count


def tell(name, arrives, mark, packet):
    frame = bytes(Ether(src=SOURCE, dst=DESTINATION) / packet)
    print(name, "arrives" if arrives else "ends", mark.hex(), frame.hex())


def port():
    """Another flow each time."""
    return PORT + count


def datagram(name, arrives, *extensions, checksum=None, **header):
    packet = ip(**header)
    for extension in extensions:
        packet /= extension
    marked = mark()
    tell(name, arrives, marked, packet / UDP(sport=port(), dport=80, chksum=checksum) / Raw(marked))


def segment(name, arrives, flags, checksum=None):
    marked = mark()
    tell(name, arrives, marked, ip() / TCP(sport=port(), dport=80, flags=flags, seq=1, ack=1, chksum=checksum) / Raw(marked))


def fragment(number, protocol, offset, more, piece):
    if IS_V6:
        return ip() / IPv6ExtHdrFragment(nh=protocol, offset=offset // 8, m=more, id=number) / Raw(piece)
    return ip(id=number, flags="MF" if more else 0, frag=offset // 8, proto=protocol) / Raw(piece)


def fragments(name, upper, *pieces):
    """Pieces of a packet: offset, bytes, whether it arrives. What has no room for the mark is not looked for."""
    marked = mark()
    # The mark lies at the end, and in each piece that reaches so far.
    whole = bytes(ip() / upper / Raw(b"." * 32 + marked.ljust(16, b".")))[IP_BYTES:]
    protocol = 6 if isinstance(upper, TCP) else 17
    for offset, length, arrives in pieces:
        piece = whole[offset : offset + length]
        tell(name, arrives, marked, fragment(PORT + count, protocol, offset, offset + length < len(whole), piece))


def error(name, arrives, quoted):
    """The client says that an answer found nobody. The word that nobody reads is the mark."""
    global count
    count += 1
    marked = bytes([0, 0xDE, 0xCA, count])
    if IS_V6:
        message = ICMPv6DestUnreach(code=4, unused=0xDECA00 + count)
    else:
        message = ICMP(type=3, code=3, length=0xDE, nexthopmtu=0xCA00 + count)
    tell(name, arrives, marked, ip() / message / Raw(quoted))


datagram("plain", True)
datagram("udp-checksum", True, checksum=0xBAD1)
segment("tcp-checksum", True, "S", checksum=0xBAD1)
datagram("last-hop", False, hops=1)

if IS_V6:
    datagram("router-alert", True, IPv6ExtHdrHopByHop(options=[RouterAlert()]))
    datagram("options", True, IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]))
    datagram("source-route", False, IPv6ExtHdrRouting(type=0, segleft=1, addresses=[CLIENT]))
else:
    datagram("header-checksum", False, **{"chksum": 0xBAD1})
    datagram("router-alert", True, options=[IPOption_Router_Alert()])
    datagram("options", True, options=[IPOption_RR(routers=["0.0.0.0"] * 3), IPOption_Timestamp(flg=0, pointer=5)])
    datagram("source-route", False, options=[IPOption_LSRR(routers=[CLIENT])])

for flags in ["", "F", "FPU", "SF", "FSPAU"]:
    segment(f"flags-{flags or 'none'}", True, flags)
for flags in ["R", "SR", "FSRPAU"]:
    segment(f"flags-{flags}", False, flags)

# A TCP header takes 20 bytes, one of UDP 8; the payload is of 48.
# Of a flow that begins with it, and of one that is known.
for kind, known in [("", None), ("-known", PORT + 1)]:

    def overlapping(name, *pieces):
        fragments(name + kind, UDP(sport=known or port() + 1, dport=80), *pieces)

    overlapping("overlap-payload", (0, 32, True), (24, 32, False))
    overlapping("overlap-rest", (0, 24, True), (16, 16, False), (24, 32, False))
    overlapping("overlap-first", (0, 8, True), (0, 48, False), (8, 48, False))
    overlapping("overlap-odd", (0, 32, True), (32, 21, False), (32, 24, False))
    overlapping("overlap-within", (0, 40, True), (16, 8, False), (40, 16, True))
fragments("overlap-header", TCP(sport=port() + 1, dport=80, flags="S"), (0, 32, True), (8, 60, False))
fragments("tiny-tcp", TCP(sport=port() + 1, dport=80, flags="S"), (0, 8, False), (8, 60, False))
fragments("tiny-udp", UDP(sport=port() + 1, dport=80), (0, 8, True), (8, 48, True))

# An answer to the first datagram, and what may be left of it in errors.
asked = bytes(ip(VIP, CLIENT, 60) / UDP(sport=80, dport=PORT + 1) / Raw(b"answer"))
error("quote-whole", True, asked)
error("quote-8-bytes", True, asked[: IP_BYTES + 8])
error("quote-ports-only", True, asked[: IP_BYTES + 4])
error("quote-half-a-port", False, asked[: IP_BYTES + 3])
error("quote-half-a-header", False, asked[:12])
error("quote-nothing", False, b"")
error("quote-of-another", False, bytes(ip(CLIENT, VIP, 60) / UDP(sport=80, dport=PORT + 1) / Raw(b"answer")))
error("quote-of-no-flow", False, bytes(ip(VIP, CLIENT, 60) / UDP(sport=80, dport=9) / Raw(b"answer")))
if not IS_V6:
    error("quote-long-header", False, b"\x4f" + asked[1 : IP_BYTES + 8])
