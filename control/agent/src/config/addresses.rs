//! Flags that hold addresses and networks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use ringway_engine::tables::is_alias;
use ringway_model::NodePortAddresses;

/// `--service-cidr`: several, also separated by commas as in kube-apiserver's `--service-cluster-ip-range`.
pub(super) fn service_cidrs(texts: &[String], wrong: &mut Vec<String>) -> Vec<IpNet> {
    let texts = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    texts.filter_map(|text| cidr("--service-cidr", text, wrong)).collect()
}

/// Whether replies to it find their way to this node: `--snat-address`.
pub(super) fn can_be_source(address: &IpAddr) -> bool {
    let of_the_family = match address {
        IpAddr::V4(v4) => !v4.is_broadcast(),
        // The kernel takes IPv4-mapped addresses for IPv4.
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
    };
    of_the_family && !address.is_unspecified() && !address.is_loopback() && !address.is_multicast() && !is_alias(*address)
}

/// Of both families.
const EVERYTHING: [IpNet; 2] =
    [IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)), IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0))];

/// `--nodeport-addresses`: kube-proxy's values, and `all`. As there, networks of one family only do not restrict the other.
pub(super) fn node_port_addresses(texts: &[String], wrong: &mut Vec<String>) -> NodePortAddresses {
    const FLAG: &str = "--nodeport-addresses";
    let texts: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    match texts[..] {
        [] | ["primary"] => return NodePortAddresses::Primary,
        ["all"] => return NodePortAddresses::Within(EVERYTHING.to_vec()),
        _ => {}
    }
    if texts.contains(&"primary") || texts.contains(&"all") {
        wrong.push(format!("{FLAG}: `primary` and `all` stand alone, without networks beside them"));
        return NodePortAddresses::Primary;
    }
    let mut nets: Vec<IpNet> = texts.into_iter().filter_map(|text| cidr(FLAG, text, wrong)).collect();
    let is_restricted = |everything: &IpNet| nets.iter().any(|net| net.addr().is_ipv4() == everything.addr().is_ipv4());
    let unrestricted: Vec<IpNet> = EVERYTHING.into_iter().filter(|everything| !is_restricted(everything)).collect();
    nets.extend(unrestricted);
    NodePortAddresses::Within(nets)
}

fn cidr(flag: &str, text: &str, wrong: &mut Vec<String>) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => {
            wrong.push(format!("{flag}: {text:?} is no network like 192.0.2.0/24 or 2001:db8::/64"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn node_port_addresses_as_kube_proxy_reads_them() {
        let within = |nets: &[&str]| NodePortAddresses::Within(nets.iter().map(|net| net.parse().unwrap()).collect());
        for (text, expected) in [
            ("", NodePortAddresses::Primary),
            ("primary", NodePortAddresses::Primary),
            ("all", within(&["0.0.0.0/0", "::/0"])),
            ("10.0.0.1/8,192.0.2.0/24 fd00::1/8", within(&["10.0.0.0/8", "192.0.2.0/24", "fd00::/8"])),
            ("fd00::/8", within(&["fd00::/8", "0.0.0.0/0"])),
            ("10.0.0.0/8", within(&["10.0.0.0/8", "::/0"])),
        ] {
            let mut wrong = Vec::new();
            assert_eq!(node_port_addresses(&words(text), &mut wrong), expected, "{text}");
            assert!(wrong.is_empty(), "{wrong:?}");
        }
        for text in ["primary,10.0.0.0/8", "all 10.0.0.0/8", "10.0.0.0", "everything"] {
            let mut wrong = Vec::new();
            node_port_addresses(&words(text), &mut wrong);
            assert!(wrong.len() == 1 && wrong[0].contains("--nodeport-addresses"), "{text}: {wrong:?}");
        }
    }

    #[test]
    fn service_cidrs_of_both_families() {
        let mut wrong = Vec::new();
        let nets = service_cidrs(&words("10.96.0.0/16,fd00::/108 172.20.1.0/16"), &mut wrong);
        assert_eq!(nets, ["10.96.0.0/16", "fd00::/108", "172.20.0.0/16"].map(|net| net.parse::<IpNet>().unwrap()));
        service_cidrs(&words("10.96.0.0/33"), &mut wrong);
        assert_eq!(wrong, ["--service-cidr: \"10.96.0.0/33\" is no network like 192.0.2.0/24 or 2001:db8::/64"]);
    }
}
