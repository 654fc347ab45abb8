//! Random events.

use ringway_engine::wire::UDP;
use ringway_tests::lab::Family;

use crate::event::*;
use crate::plan::*;
use crate::random::Random;
use crate::view::View;

/// Makes events one after the other; all follows from its seed.
pub struct Generator {
    dice: Random,
    flows: Vec<Flow>,
    served: usize,
    number: u32,
}

/// Data that fits into every frame with all that may stand before it.
const DATA_MAX: usize = 1380;

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut dice = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        dice.next();
        let (flows, served) = flows();
        Generator { dice, flows, served, number: 0 }
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.dice.below(choices.len())].clone()
    }

    /// With a probability of so many in a hundred.
    fn chance(&mut self, percent: usize) -> bool {
        self.dice.below(100) < percent
    }

    /// The next event; both routers have what it builds on.
    pub fn next(&mut self, views: [&View; 2]) -> Event {
        self.number += 1;
        let index = if self.chance(88) { self.dice.below(self.served) } else { self.dice.below(self.flows.len()) };
        let flow = self.flows[index];
        let is_mapped = views.iter().all(|view| view.is_settled(&flow));
        let has = |is_request| is_mapped && views.iter().all(|view| view.last(&flow, is_request).is_some());
        let what = match self.dice.below(100) {
            0..30 if is_mapped => What::Reply(self.segment(false)),
            30..42 if has(true) => What::Error(self.error(flow.family, true)),
            42..50 if has(false) => What::Error(self.error(flow.family, false)),
            50..54 => What::Ping(self.dice.below(100)),
            54..56 => What::Stray(self.segment(false)),
            _ => What::Request(self.segment(true)),
        };
        let mut event = Event { number: self.number, flow, what, shape: Shape::default(), source: None, spoil: None, cut: None };
        event.shape = self.shape(&event);
        self.make_odd(&mut event);
        event
    }

    fn segment(&mut self, is_request: bool) -> Segment {
        let usual =
            if is_request { [SYN, SYN, ACK, ACK, ACK | 8, FIN | ACK] } else { [SYN | ACK, SYN | ACK, ACK, ACK, ACK | 8, FIN | ACK] };
        let odd = [RST, RST | ACK, RST | ACK, SYN, SYN, SYN, SYN | ACK, FIN, 0, SYN | FIN, FIN | 0x28, SYN | 0xc0, ACK | 0x20];
        let flags = if self.chance(85) { self.one_of(&usual) } else { self.one_of(&odd) };
        let bytes = match self.dice.below(10) {
            0..3 => 0,
            3..8 => self.dice.below(200),
            8 => self.dice.below(DATA_MAX),
            // Around what the narrow links let through.
            _ => self.one_of(&[1240, 1260, 1280, 1340, 1360, DATA_MAX]) + self.dice.below(12) - 6,
        };
        let options = if self.chance(20) { self.one_of(&[vec![2, 4, 5, 0xb4], vec![1, 1, 1, 1, 1, 1, 1, 0]]) } else { Vec::new() };
        Segment { flags, options, bytes: bytes.min(DATA_MAX) }
    }

    fn error(&mut self, family: Family, about_request: bool) -> IcmpError {
        let (kind, rest) = match family {
            Family::V4 => self.one_of(&[
                ((3, 4), 1200),
                ((3, 4), 600),
                ((3, 3), 0),
                ((3, 1), 0),
                ((11, 0), 0),
                ((11, 1), 0),
                ((12, 0), 0x0800_0000),
                ((5, 1), 0),
            ]),
            Family::V6 => self.one_of(&[((2, 0), 1280), ((2, 0), 1300), ((1, 4), 0), ((1, 0), 0), ((3, 0), 0), ((3, 1), 0), ((4, 1), 6)]),
        };
        let quoted = self.one_of(&[4, 8, 8, 12, 18, 20, 24, 64, 1000, 1000]);
        let odd = [Tweak::QuotesFirst, Tweak::QuotesLater, Tweak::OtherReceiver, Tweak::OtherPort];
        let tweak = if self.chance(15) { Some(self.one_of(&odd)) } else { None };
        IcmpError { about_request, kind, rest, quoted, tweak }
    }

    fn shape(&mut self, event: &Event) -> Shape {
        let mut shape = Shape {
            ttl: if self.chance(75) { 64 } else { self.one_of(&[0, 1, 1, 2, 2, 255]) },
            tos: if self.chance(20) { self.dice.below(256) as u8 } else { 0 },
            dont_fragment: self.chance(50),
            ..Shape::default()
        };
        if self.chance(20) {
            shape.padding = self.dice.below(30);
        }
        if self.chance(6) {
            match event.flow.family {
                // No operation, router alert, stream identifier, loose source route.
                Family::V4 => {
                    let all = [vec![1, 1, 1, 1], vec![0x94, 4, 0, 0], vec![0x88, 4, 0, 1], vec![0x83, 7, 4, 10, 0, 0, 9, 0]];
                    shape.options = self.one_of(&all);
                }
                Family::V6 => shape.extensions = self.extensions(),
            }
        }
        shape
    }

    fn extensions(&mut self) -> Vec<(u8, Vec<u8>)> {
        let padding = |kind| (kind, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        // An option that nobody knows and everybody may skip. Longer padding is suspicious to the kernel.
        let longer = |kind| (kind, vec![0, 1, 1, 4, 0, 0, 0, 0, 0x1e, 6, 1, 2, 3, 4, 5, 6]);
        let routing = |left| (43, vec![0, 0, 0, left, 0, 0, 0, 0]);
        let authentication = (51, [&[0, 4][..], &[0; 22]].concat());
        self.one_of(&[
            vec![padding(0)],
            vec![padding(60)],
            vec![longer(0), padding(60)],
            vec![padding(0), padding(60), routing(0)],
            vec![routing(1)],
            vec![authentication],
            vec![padding(60); 6],
            vec![padding(60); 7],
        ])
    }

    /// Some events are fragmented, some spoiled, some come from nobody.
    fn make_odd(&mut self, event: &mut Event) {
        let protocol = event.flow.protocol;
        let bytes = match &event.what {
            What::Request(segment) | What::Reply(segment) => segment.bytes,
            What::Ping(bytes) => *bytes,
            What::Stray(_) | What::Error(_) => 0,
        };
        match self.dice.below(100) {
            0..9 if bytes > 24 => {
                event.shape.dont_fragment = self.chance(20);
                let small = self.one_of(&[8, 16, 24, 32, 64]).min(bytes / 8 * 8);
                event.cut = Some(self.cut(&mut event.what, small));
            }
            9..11 => event.spoil = Some(Spoil::WrongChecksum),
            11..15 if protocol == UDP && !matches!(event.what, What::Error(_) | What::Ping(_)) => event.spoil = Some(Spoil::NoChecksum),
            15 => event.spoil = Some(Spoil::Truncated(1 + self.dice.below(12))),
            16 if event.is_segment() => event.spoil = Some(Spoil::ShortHeader),
            17..20 if event.from() == Side::Left => {
                let names = match event.flow.family {
                    Family::V4 => vec!["127.0.0.1", "224.0.0.5", "255.255.255.255", "0.0.0.0", VIP],
                    Family::V6 => vec!["::1", "ff02::1", "::", "fe80::5", "::ffff:198.51.100.7", VIP, VIP],
                };
                let name = self.one_of(&names);
                event.source = Some(if name == VIP { address(event.flow.family, VIP) } else { name.parse().expect("an address") });
            }
            _ => {}
        }
    }

    fn cut(&mut self, what: &mut What, small: usize) -> Cut {
        let number = self.dice.below(16);
        let order = self.one_of(&[
            Order::Straight,
            Order::Straight,
            Order::Reversed,
            Order::Overtaken,
            Order::Missing(number),
            Order::Twice(number),
            Order::Overlapping(number),
        ]);
        let mut bytes = small;
        if let What::Request(segment) | What::Reply(segment) = what
            && self.chance(50)
        {
            // As large datagrams are.
            segment.bytes = 1500 + self.dice.below(3000);
            bytes = self.one_of(&[512, 1000, 1240, 1320, 1384, 1400]);
        }
        let first = if self.chance(60) { bytes } else { bytes.min(64) };
        Cut { first, bytes, order }
    }
}
