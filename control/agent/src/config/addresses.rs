//! Flags that hold networks.

use ipnet::{IpNet, Ipv4Net};
use ringway_model::NodePortAddresses;

/// `--service-cidr`: several, also separated by commas as in kube-apiserver's `--service-cluster-ip-range`. IPv4 only is kept.
pub(super) fn service_cidrs(texts: &[String], wrong: &mut Vec<String>) -> Vec<Ipv4Net> {
    let texts = texts.iter().flat_map(|text| text.split(',')).map(str::trim);
    texts.filter_map(|text| cidr("--service-cidr", text, wrong)).filter_map(v4).collect()
}

/// `--nodeport-addresses`: kube-proxy's values, and `all`. As there, networks of one family only do not restrict the other.
pub(super) fn node_port_addresses(texts: &[String], wrong: &mut Vec<String>) -> NodePortAddresses {
    const FLAG: &str = "--nodeport-addresses";
    let texts: Vec<&str> = texts.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    match texts[..] {
        [] | ["primary"] => return NodePortAddresses::Primary,
        ["all"] => return NodePortAddresses::Within(vec![Ipv4Net::default()]),
        _ => {}
    }
    if texts.contains(&"primary") || texts.contains(&"all") {
        wrong.push(format!("{FLAG}: `primary` and `all` stand alone, without networks beside them"));
        return NodePortAddresses::Primary;
    }
    let nets: Vec<Ipv4Net> = texts.into_iter().filter_map(|text| cidr(FLAG, text, wrong)).filter_map(v4).collect();
    NodePortAddresses::Within(if nets.is_empty() { vec![Ipv4Net::default()] } else { nets })
}

fn cidr(flag: &str, text: &str, wrong: &mut Vec<String>) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(net.trunc()),
        Err(_) => {
            wrong.push(format!("{flag}: {text:?} is no network like 192.0.2.0/24"));
            None
        }
    }
}

fn v4(net: IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(v4) => Some(v4),
        IpNet::V6(_) => None,
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
            ("all", within(&["0.0.0.0/0"])),
            ("10.0.0.1/8,192.0.2.0/24 fd00::/8", within(&["10.0.0.0/8", "192.0.2.0/24"])),
            ("fd00::/8", within(&["0.0.0.0/0"])),
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
        assert_eq!(nets, ["10.96.0.0/16".parse::<Ipv4Net>().unwrap(), "172.20.0.0/16".parse().unwrap()]);
        service_cidrs(&words("10.96.0.0/33"), &mut wrong);
        assert_eq!(wrong, ["--service-cidr: \"10.96.0.0/33\" is no network like 192.0.2.0/24"]);
    }
}
