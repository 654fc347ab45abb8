# shellcheck shell=bash
# The fabric: a switch, and a wire to the control plane, each node and the client. To be sourced after lib.sh.

# plug NAME ADDRESS ADDRESS6: a namespace on the switch.
plug() {
  local name=$1 netns=rwc-$1
  ip netns add "$netns"
  in_netns "$name" sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv6.conf.all.accept_ra=0 net.ipv6.conf.default.accept_ra=0
  ip -n "$netns" link set lo up
  # As a NIC it keeps its MAC over reboots.
  ip -n rwc-fabric link add "$name" type veth peer name eth0 address "$(printf '02:00:00:00:98:%02x' "${2##*.}")" netns "$netns"
  ip -n rwc-fabric link set "$name" master switch up
  ip -n "$netns" link set eth0 up
  ip -n "$netns" address add "$2/24" dev eth0
  ip -n "$netns" route add default via "$gateway"
  if is_dual; then
    ip -n "$netns" address add "$3/64" dev eth0 nodad
    ip -n "$netns" route add default via "$gateway6"
  fi
}

# Whoever is not a node reaches pods by their nodes: the apiserver and DNS answer them.
route_pods_from() {
  local name
  for name in $(node_names); do
    ip -n "rwc-$1" route add "$(pod_prefix "$name").0/24" via "$(node_address "$name")"
    if is_dual; then ip -n "rwc-$1" route add "$(pod_prefix6 "$name")::/64" via "$(node_address6 "$name")"; fi
  done
}

# A node's way to the others' pods: plain routes, or a vxlan as overlay networks have.
route_pods_of_others() {
  local name=$1 other mac
  if [[ $CNI == vxlan ]]; then
    ip -n "rwc-$name" link add vxlan.1 address "$(vxlan_mac "$name")" type vxlan id 1 local "$(node_address "$name")" dev eth0 dstport 8472 nolearning
    ip -n "rwc-$name" address add "$(pod_prefix "$name").0/32" dev vxlan.1
    if is_dual; then ip -n "rwc-$name" address add "$(pod_prefix6 "$name")::/128" dev vxlan.1 nodad; fi
    ip -n "rwc-$name" link set vxlan.1 up
  fi
  for other in $(node_names); do
    [[ $other == "$name" ]] && continue
    if [[ $CNI == vxlan ]]; then
      mac=$(vxlan_mac "$other")
      in_netns "$name" bridge fdb append "$mac" dev vxlan.1 dst "$(node_address "$other")"
      ip -n "rwc-$name" neighbor add "$(pod_prefix "$other").0" lladdr "$mac" dev vxlan.1 nud permanent
      ip -n "rwc-$name" route add "$(pod_prefix "$other").0/24" via "$(pod_prefix "$other").0" dev vxlan.1 onlink
      is_dual || continue
      ip -n "rwc-$name" neighbor add "$(pod_prefix6 "$other")::" lladdr "$mac" dev vxlan.1 nud permanent
      ip -n "rwc-$name" route add "$(pod_prefix6 "$other")::/64" via "$(pod_prefix6 "$other")::" dev vxlan.1 onlink
    else
      ip -n "rwc-$name" route add "$(pod_prefix "$other").0/24" via "$(node_address "$other")"
      is_dual || continue
      ip -n "rwc-$name" route add "$(pod_prefix6 "$other")::/64" via "$(node_address6 "$other")"
    fi
  done
}

vxlan_mac() { echo "02:00:00:00:99:0${1#node}"; }

plug_node() {
  local name=$1
  plug "$name" "$(node_address "$name")" "$(node_address6 "$name")"
  in_netns "$name" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  route_pods_of_others "$name"
}

# With all devices, routes and rules, as when a machine is switched off.
unplug_node() {
  ip -n rwc-fabric link delete "$1" 2>/dev/null || true
  ip netns delete "rwc-$1" 2>/dev/null || true
}

make_network() {
  local name
  ip netns add rwc-fabric
  in_netns fabric sysctl -qw net.ipv6.conf.default.accept_dad=0 net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
  ip -n rwc-fabric link add switch type bridge
  ip -n rwc-fabric link set switch up
  ip -n rwc-fabric address add "$gateway/24" dev switch
  ip -n rwc-fabric address add "$gateway6/64" dev switch nodad
  plug control "$control" "$control6"
  plug client "$client" "$client6"
  for name in $(node_names); do plug_node "$name"; done
  route_pods_from control
  route_pods_from client
  # As a router before the cluster would be told: these load-balancer addresses are behind node1. The fabric is the nodes' default route.
  for name in client fabric; do
    ip -n "rwc-$name" route add "$load_balancers" via "$(node_address node1)"
    if is_dual; then ip -n "rwc-$name" route add "$load_balancers6" via "$(node_address6 node1)"; fi
  done
}
