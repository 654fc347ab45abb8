//! The BPF programs' filter maps: what they should hold, what they hold, and the steps between. Pure.
//!
//! The programs decide by these maps which packets come to a worker. So an entry is added *after* the snapshot that knows it is in
//! force, and removed *before* it goes: a worker never meets a packet of which it has not heard.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ringway_engine::tables::FrontendKey;
use xdp_redirect::{AddressUse, FrontendUse, Sockets};

/// What an entry is about. The order is the order in which entries are added: what a flow needs comes before what starts flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FilterKey {
    /// A device that an order may name, by ifindex.
    DeviceMac(u32),
    /// A VIP, or a source address for SNAT.
    Address(IpAddr),
    Frontend(FrontendKey),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterValue {
    Mac([u8; 6]),
    Address(AddressUse),
    Frontend(FrontendUse),
}

impl FilterValue {
    fn is_draining(self) -> bool {
        matches!(self, FilterValue::Frontend(FrontendUse { draining: true, .. }))
    }
}

/// The maps themselves.
pub trait FilterMaps {
    /// Adds or replaces an entry.
    ///
    /// # Errors
    /// The kernel refused, mostly because the map is full: a sentence for people.
    fn set(&mut self, key: FilterKey, value: FilterValue) -> Result<(), String>;

    /// Removes an entry; what is not there is no error.
    ///
    /// # Errors
    /// The kernel refused.
    fn remove(&mut self, key: FilterKey) -> Result<(), String>;
}

/// What the maps should hold beside what they hold.
#[derive(Debug, Default)]
pub struct Filter {
    wanted: BTreeMap<FilterKey, FilterValue>,
    held: BTreeMap<FilterKey, FilterValue>,
    /// Keys at which both may differ, so that the cost of a change does not grow with the maps.
    touched: BTreeSet<FilterKey>,
    /// Keys that the kernel refused, and why. They are tried again with each publication.
    refused: BTreeMap<FilterKey, String>,
    /// Those of `wanted` that drain.
    draining: BTreeMap<FrontendKey, Sockets>,
}

impl Filter {
    /// Begins with what the pinned maps hold: everything that is not wanted by the first publication is then removed.
    pub fn over(entries: impl IntoIterator<Item = (FilterKey, FilterValue)>) -> Filter {
        let held: BTreeMap<_, _> = entries.into_iter().collect();
        let touched = held.keys().copied().collect();
        Filter { held, touched, ..Filter::default() }
    }

    /// Says what an entry should be; `None` that it should not be there.
    pub fn want(&mut self, key: FilterKey, value: Option<FilterValue>) {
        match value {
            Some(value) => self.wanted.insert(key, value),
            None => self.wanted.remove(&key),
        };
        if let FilterKey::Frontend(frontend) = key {
            match value {
                Some(FilterValue::Frontend(FrontendUse { draining: true, sockets, .. })) => self.draining.insert(frontend, sockets),
                _ => self.draining.remove(&frontend),
            };
        }
        self.touched.insert(key);
    }

    /// A frontend is no more. What was established goes on (contract §2), so it drains if the maps hold it; UDP flows end.
    pub fn retire(&mut self, key: FrontendKey) {
        const UDP: u8 = 17;
        let place = FilterKey::Frontend(key);
        let drains = match self.held.get(&place) {
            Some(FilterValue::Frontend(held)) if key.protocol != UDP => Some(FrontendUse { here: false, draining: true, ..*held }),
            _ => None,
        };
        self.want(place, drains.map(FilterValue::Frontend));
    }

    /// Of an earlier process's frontends, those that nobody wants now.
    pub fn retire_unwanted(&mut self) {
        let held = self.held_frontends().map(|(key, _)| key);
        let unwanted: Vec<FrontendKey> = held.filter(|key| !self.wanted.contains_key(&FilterKey::Frontend(*key))).collect();
        unwanted.into_iter().for_each(|key| self.retire(key));
    }

    /// Frontends that drain.
    pub fn draining(&self) -> impl Iterator<Item = (FrontendKey, Sockets)> {
        self.draining.iter().map(|(key, sockets)| (*key, *sockets))
    }

    pub fn drains(&self, key: &FrontendKey) -> bool {
        self.draining.contains_key(key)
    }

    /// Frontends that the maps hold, draining ones too.
    pub fn held_frontends(&self) -> impl Iterator<Item = (FrontendKey, FrontendUse)> {
        let frontend = |(key, value): (&FilterKey, &FilterValue)| match (key, value) {
            (FilterKey::Frontend(key), FilterValue::Frontend(value)) => Some((*key, *value)),
            _ => None,
        };
        self.held.iter().filter_map(frontend)
    }

    /// The entry as it should be.
    pub fn wanted(&self, key: &FilterKey) -> Option<FilterValue> {
        self.wanted.get(key).copied()
    }

    /// The keys wanted that are of interest.
    pub fn wanted_keys(&self) -> impl Iterator<Item = &FilterKey> {
        self.wanted.keys()
    }

    /// How many keys are wanted of each kind is bounded by the maps: what they did not take, as sentences.
    pub fn refusals(&self) -> impl Iterator<Item = &str> {
        self.refused.values().map(String::as_str)
    }

    /// Likewise, with what each is about.
    pub fn refused(&self) -> impl Iterator<Item = (&FilterKey, &str)> {
        self.refused.iter().map(|(key, why)| (key, why.as_str()))
    }

    /// The steps before the snapshot is published: devices that it may name are added, everything else that it no longer knows is removed.
    pub fn before_snapshot(&mut self, maps: &mut impl FilterMaps) {
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for key in &self.touched {
            match (key, self.wanted.get(key)) {
                (FilterKey::DeviceMac(_), Some(value)) if self.held.get(key) != Some(value) => add.push((*key, *value)),
                (_, Some(value)) if value.is_draining() && self.held.get(key) != Some(value) => add.push((*key, *value)),
                (FilterKey::DeviceMac(_), _) | (_, Some(_)) => {}
                (_, None) => remove.push(*key),
            }
        }
        self.set(maps, add);
        self.remove(maps, remove);
    }

    /// The steps after it: what is new is added, devices that no order names any more are removed.
    pub fn after_snapshot(&mut self, maps: &mut impl FilterMaps) {
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for key in &self.touched {
            match (key, self.wanted.get(key)) {
                (_, Some(value)) => match self.sticky(key, *value) {
                    value if self.held.get(key) != Some(&value) => add.push((*key, value)),
                    _ => {}
                },
                (_, None) => remove.push(*key),
            }
        }
        self.set(maps, add);
        self.remove(maps, remove);
        self.touched = self.refused.keys().copied().collect();
    }

    /// A frontend that had backends here keeps the flag: their established flows are still executed by `edge`, and a lookup that
    /// misses costs little.
    fn sticky(&self, key: &FilterKey, value: FilterValue) -> FilterValue {
        match (value, self.held.get(key)) {
            (FilterValue::Frontend(value), Some(FilterValue::Frontend(held))) if !value.draining => {
                FilterValue::Frontend(FrontendUse { here: value.here || held.here, ..value })
            }
            _ => value,
        }
    }

    fn set(&mut self, maps: &mut impl FilterMaps, add: Vec<(FilterKey, FilterValue)>) {
        for (key, value) in add {
            match maps.set(key, value) {
                Ok(()) => {
                    self.held.insert(key, value);
                    self.refused.remove(&key);
                }
                Err(reason) => drop(self.refused.insert(key, reason)),
            }
        }
    }

    /// In reverse order: what starts flows goes first.
    fn remove(&mut self, maps: &mut impl FilterMaps, remove: Vec<FilterKey>) {
        for key in remove.into_iter().rev() {
            if !self.held.contains_key(&key) {
                self.refused.remove(&key);
                continue;
            }
            match maps.remove(key) {
                Ok(()) => {
                    self.held.remove(&key);
                    self.refused.remove(&key);
                }
                Err(reason) => drop(self.refused.insert(key, reason)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    /// Records every step; refuses frontends on port 666.
    #[derive(Default)]
    struct Recorder {
        steps: Vec<String>,
    }

    impl FilterMaps for Recorder {
        fn set(&mut self, key: FilterKey, value: FilterValue) -> Result<(), String> {
            if matches!(key, FilterKey::Frontend(key) if key.port == 666) {
                return Err("the map is full".into());
            }
            self.steps.push(format!("+{key:?}={value:?}"));
            Ok(())
        }

        fn remove(&mut self, key: FilterKey) -> Result<(), String> {
            self.steps.push(format!("-{key:?}"));
            Ok(())
        }
    }

    impl Recorder {
        fn publish(&mut self, filter: &mut Filter) -> Vec<String> {
            filter.before_snapshot(self);
            self.steps.push("publish".into());
            filter.after_snapshot(self);
            std::mem::take(&mut self.steps)
                .into_iter()
                .map(|step| step.split(['(', '{', '=']).next().unwrap_or_default().to_owned())
                .collect()
        }
    }

    fn frontend(port: u16) -> FilterKey {
        FilterKey::Frontend(FrontendKey { address: VIP, port, protocol: 6 })
    }

    const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const AWAY: FrontendUse = FrontendUse { here: false, sockets: Sockets::Routed, draining: false };
    const HERE: Option<FilterValue> = Some(FilterValue::Frontend(FrontendUse { here: true, ..AWAY }));
    const ELSEWHERE: Option<FilterValue> = Some(FilterValue::Frontend(AWAY));

    fn populated() -> Filter {
        let mut filter = Filter::default();
        filter.want(frontend(80), HERE);
        filter.want(FilterKey::Address(VIP), Some(FilterValue::Address(AddressUse { announced: true, ..AddressUse::default() })));
        filter.want(FilterKey::DeviceMac(7), Some(FilterValue::Mac([2; 6])));
        filter
    }

    #[test]
    fn adding_follows_the_snapshot_and_removing_precedes_it() {
        let (mut filter, mut maps) = (populated(), Recorder::default());
        assert_eq!(maps.publish(&mut filter), ["+DeviceMac", "publish", "+Address", "+Frontend"]);
        assert_eq!(maps.publish(&mut filter), ["publish"], "nothing changed");
        for key in [frontend(80), FilterKey::Address(VIP), FilterKey::DeviceMac(7)] {
            filter.want(key, None);
        }
        assert_eq!(maps.publish(&mut filter), ["-Frontend", "-Address", "publish", "-DeviceMac"]);
    }

    #[test]
    fn a_restart_only_touches_differences() {
        let (mut filter, mut maps) = (populated(), Recorder::default());
        maps.publish(&mut filter);
        let mut pinned = filter.held.clone();
        pinned.insert(frontend(81), FilterValue::Frontend(AWAY));
        let mut next = Filter::over(pinned);
        for (key, value) in populated().wanted {
            next.want(key, Some(value));
        }
        assert_eq!(maps.publish(&mut next), ["-Frontend", "publish"]);
    }

    #[test]
    fn the_flag_of_backends_here_stays() {
        let (mut filter, mut maps) = (populated(), Recorder::default());
        maps.publish(&mut filter);
        filter.want(frontend(80), ELSEWHERE);
        assert_eq!(maps.publish(&mut filter), ["publish"]);
        filter.want(frontend(80), None);
        maps.publish(&mut filter);
        filter.want(frontend(80), ELSEWHERE);
        assert_eq!(maps.publish(&mut filter), ["publish", "+Frontend"]);
        assert_eq!(filter.held.get(&frontend(80)), ELSEWHERE.as_ref());
    }

    #[test]
    fn a_frontend_over_tcp_drains_before_the_snapshot_and_one_over_udp_goes() {
        let (mut filter, mut maps) = (populated(), Recorder::default());
        let datagrams = FrontendKey { address: VIP, port: 80, protocol: 17 };
        filter.want(FilterKey::Frontend(datagrams), HERE);
        maps.publish(&mut filter);
        let FilterKey::Frontend(segments) = frontend(80) else { panic!("no frontend") };
        filter.retire(segments);
        filter.retire(datagrams);
        filter.retire(FrontendKey { port: 99, ..segments });
        assert_eq!(maps.publish(&mut filter), ["+Frontend", "-Frontend", "publish"]);
        assert_eq!(filter.draining().collect::<Vec<_>>(), [(segments, Sockets::Routed)]);
        // The next process finds it draining, and so it stays until somebody says otherwise.
        let mut next = Filter::over(filter.held.clone());
        next.retire_unwanted();
        assert_eq!(next.draining().collect::<Vec<_>>(), [(segments, Sockets::Routed)]);
        next.want(frontend(80), HERE);
        assert_eq!(next.draining().count(), 0);
        filter.want(frontend(80), None);
        assert_eq!(maps.publish(&mut filter), ["-Frontend", "publish"]);
        assert_eq!(filter.draining().count(), 0);
    }

    #[test]
    fn what_the_kernel_refuses_is_tried_again() {
        let (mut filter, mut maps) = (Filter::default(), Recorder::default());
        filter.want(frontend(666), HERE);
        assert_eq!(maps.publish(&mut filter), ["publish"]);
        assert_eq!(filter.refusals().collect::<Vec<_>>(), ["the map is full"]);
        assert!(filter.touched.contains(&frontend(666)));
        filter.want(frontend(666), None);
        maps.publish(&mut filter);
        assert_eq!(filter.refusals().count(), 0);
    }
}
