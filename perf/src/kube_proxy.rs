//! The rules that kube-proxy's nftables mode (Kubernetes 1.36) makes of a service with one endpoint: the same chains in the same
//! order, so that packets pay what they pay there.

/// One service that has a ClusterIP or a VIP from which packets are masqueraded.
pub struct Rule<'a> {
    pub frontend: &'a str,
    pub protocol: &'a str,
    pub port: u16,
    pub endpoint: String,
    /// Traffic from outside to a VIP is masqueraded (externalTrafficPolicy Cluster), pods' to a ClusterIP is not.
    pub masquerade: bool,
}

pub fn rules(services: &[Rule<'_>]) -> String {
    let mut text = String::from(
        "table ip kube-proxy {
    chain masquerading {
        mark & 0x4000 == 0 return
        mark set mark ^ 0x4000
        masquerade fully-random
    }
    chain mark-for-masquerade {
        mark set mark | 0x4000
    }
    chain reject-chain {
        reject
    }
    map no-endpoint-services {
        type ipv4_addr . inet_proto . inet_service : verdict
    }
    chain service-endpoints-check {
        ip daddr . meta l4proto . th dport vmap @no-endpoint-services
    }
    chain filter-prerouting {
        type filter hook prerouting priority -110
        ct state new jump service-endpoints-check
    }
    chain filter-forward {
        type filter hook forward priority -110
        ct state new jump service-endpoints-check
    }
    chain nat-postrouting {
        type nat hook postrouting priority srcnat
        jump masquerading
    }
",
    );
    let mut elements = Vec::new();
    for (number, rule) in services.iter().enumerate() {
        let mark = if rule.masquerade { "jump mark-for-masquerade" } else { "" };
        text += &format!(
            "    chain endpoint-{number} {{
        meta l4proto {} dnat to {}
    }}
    chain service-{number} {{
        {mark}
        numgen random mod 1 vmap {{ 0 : goto endpoint-{number} }}
    }}
",
            rule.protocol, rule.endpoint
        );
        elements.push(format!("{} . {} . {} : goto service-{number}", rule.frontend, rule.protocol, rule.port));
    }
    text += &format!(
        "    map service-ips {{
        type ipv4_addr . inet_proto . inet_service : verdict
        elements = {{ {} }}
    }}
    chain services {{
        ip daddr . meta l4proto . th dport vmap @service-ips
    }}
    chain nat-prerouting {{
        type nat hook prerouting priority dstnat
        jump services
    }}
    chain nat-output {{
        type nat hook output priority -100
        jump services
    }}
}}
",
        elements.join(", ")
    );
    text
}
