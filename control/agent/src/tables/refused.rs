//! Whose Services the BPF maps did not take.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ringway_engine::tables::Frontends;
use ringway_model::ServiceName;

use crate::filter::{Filter, FilterKey};

/// Services with a frontend that the maps refused, or with a frontend at an address that they refused, each with the reasons.
pub fn refused_services(filter: &Filter, frontends: &Frontends) -> BTreeMap<ServiceName, BTreeSet<String>> {
    let mut services: BTreeMap<ServiceName, BTreeSet<String>> = BTreeMap::new();
    let mut note = |service: &ringway_engine::tables::ServicePortName, why: &str| {
        let service = ServiceName { namespace: Arc::clone(&service.namespace), name: Arc::clone(&service.name) };
        services.entry(service).or_default().insert(why.to_owned());
    };
    let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for (key, why) in filter.refused() {
        match key {
            FilterKey::Frontend(key) => {
                if let Some(frontend) = frontends.lookup(key) {
                    note(&frontend.service, why);
                }
            }
            FilterKey::Address(address) => drop(addresses.insert(*address, why)),
            FilterKey::DeviceMac(_) => {}
        }
    }
    if !addresses.is_empty() {
        for (key, frontend) in frontends.iter() {
            if let Some(why) = addresses.get(&key.address) {
                note(&frontend.service, why);
            }
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use ringway_engine::tables::{Frontend, FrontendKey, FrontendKind, ServicePortName, Target};
    use xdp_redirect::{AddressUse, FrontendUse};

    use crate::filter::{FilterMaps, FilterValue};

    /// Takes neither port 666 nor the last address.
    struct Full;

    const LAST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 255));

    impl FilterMaps for Full {
        fn set(&mut self, key: FilterKey, _: FilterValue) -> Result<(), String> {
            match key {
                FilterKey::Frontend(key) if key.port == 666 => Err(format!("no room for port {}", key.port)),
                FilterKey::Address(address) if address == LAST => Err(format!("no room for {address}")),
                _ => Ok(()),
            }
        }

        fn remove(&mut self, _: FilterKey) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn frontends_and_addresses_lead_to_their_services() {
        let first = IpAddr::from([192, 0, 2, 1]);
        let keys = [("taken", first, 80), ("frontend", first, 666), ("address", LAST, 80), ("both", LAST, 666)];
        let (mut filter, mut all) = (Filter::default(), Vec::new());
        for (name, address, port) in keys {
            let key = FrontendKey { address, port, protocol: 6 };
            let service = Arc::new(ServicePortName { namespace: "ns".into(), name: name.into(), port: "".into() });
            let (outside, inside) = (Target::NoBackend, Target::NoBackend);
            let kind = FrontendKind::ClusterIp;
            all.push((key, Some(Frontend { service, kind, outside, inside, source_ranges: None, affinity: None })));
            filter.want(FilterKey::Frontend(key), Some(FilterValue::Frontend(FrontendUse::default())));
            filter.want(FilterKey::Address(address), Some(FilterValue::Address(AddressUse::default())));
        }
        let frontends = Frontends::default().with(all);
        assert!(refused_services(&filter, &frontends).is_empty(), "nobody asked the maps yet");
        filter.after_snapshot(&mut Full);
        let refused = refused_services(&filter, &frontends);
        let refused: Vec<_> = refused.iter().map(|(service, whys)| (&*service.name, whys.iter().map(String::as_str).collect())).collect();
        let (port, address) = ("no room for port 666", "no room for 192.0.2.255");
        let expected: [(&str, Vec<&str>); 3] = [("address", vec![address]), ("both", vec![address, port]), ("frontend", vec![port])];
        assert_eq!(refused, expected);
    }
}
