#!/usr/bin/env bash
# A real cluster on one machine, in network namespaces: `make cluster` and `make cluster-down` are its front. See README.md.
set -euo pipefail
[[ ${1:-} == up ]] && is_new=1
. "$(dirname "$0")/lib.sh"

usage() {
  cat <<T
cluster.sh COMMAND
  up                  lays out a cluster and waits until it works. Settings, from the environment:
                        NODES=2  CNI=ptp|bridge|vxlan  FAMILY=ipv4|dual  PROXY=ringway|kube-proxy|none  DEPLOY=helm|manifests
  down                removes it, also what a crash left
  use                 how to use it
  node NODE [COMMAND] a shell, or a command, on a node
  client [COMMAND]    the same outside of the cluster, on the same network
  stop-node NODE      pulls the plug: all its processes end at once, its disk stays
  start-node NODE     the node boots
  stop SERVICE        ends etcd, kube-apiserver, kube-controller-manager, kube-scheduler or coredns until start
  start SERVICE
T
}

up() {
  . "$here/preflight.sh"
  . "$here/pki.sh"
  . "$here/network.sh"
  preflight
  if [[ -e $state/settings ]]; then
    is_up control && die "a cluster is there already: make cluster-down, or use it as \`tests/cluster/cluster.sh use\` tells"
    say "removing what an earlier cluster left"
    down
  fi
  # Nodes have it as their own folder of programs.
  [[ -d $programs && -f $images/agnhost.tar ]] || die "there are no programs or images: make cluster makes them"
  mkdir -p "$state/bin" "$state/control"
  for setting in "${settings[@]}"; do printf '%s=%q\n' "$setting" "${!setting}"; done >"$state/settings"
  make_pki
  make_network
  write_commands
  start_init control "$here/control-plane.sh"
  wait_for "the apiserver is ready" 60 kubectl get --raw /readyz
  kubectl apply -f - <<<"$(sed "s/CONTROL/$control/; s/DNS/$dns/" "$here/dns.yaml")" >/dev/null
  for name in $(node_names); do start_init "$name" "$here/node.sh" "$name"; done
  for name in $(node_names); do wait_for "$name is Ready" 120 kubectl wait --for=condition=Ready "node/$name" --timeout=1s; done
  . "$here/proxy.sh"
  start_proxy
  [[ $PROXY == none ]] || for name in $(node_names); do wait_for "Services answer on $name" 60 services_answer "$name"; done
  say "$NODES nodes, CNI $CNI, $FAMILY, services by $PROXY: up after $SECONDS s"
  use
}

services_answer() { in_netns "$1" curl -sSk --noproxy '*' --max-time 2 https://10.96.0.1/readyz; }

# Commands for people, who need not know of namespaces: kubectl and helm as seen from the control plane.
write_commands() {
  for name in kubectl helm; do
    cat >"$state/bin/$name" <<T
#!/bin/sh
exec nsenter --net=/run/netns/rwc-control $(program $name) "\$@"
T
    chmod +x "$state/bin/$name"
  done
}

use() {
  [[ -e $state/settings ]] || die "there is no cluster: make cluster"
  cat <<T

  export KUBECONFIG=$state/pki/admin.kubeconfig PATH=$state/bin:\$PATH      # kubectl and helm
  kubectl get nodes -o wide
  $here/cluster.sh node node1        # a shell on a node, or a command; logs are in /var/log, containers by ctr -n k8s.io
  $here/cluster.sh client curl http://192.168.99.11:NODEPORT/        # from outside; load-balancer addresses out of $load_balancers, too
  make cluster-down

T
}

down() {
  local name pid mount group
  # In what was left there may be nodes that the settings do not name.
  for name in $(ip netns list | awk '/^rwc-/{print $1}'); do
    stop_init "${name#rwc-}"
    for pid in $(ip netns pids "$name" 2>/dev/null); do kill -KILL "$pid" 2>/dev/null || true; done
  done
  for name in $(ip netns list | awk '/^rwc-/{print $1}'); do
    while [[ -n $(ip netns pids "$name" 2>/dev/null) ]]; do sleep 0.1; done
    ip netns delete "$name"
  done
  awk -v dir="$state/" 'index($2, dir) == 1 {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount"; done
  for group in /sys/fs/cgroup/ringway-cluster /sys/fs/cgroup/*/ringway-cluster; do
    [[ -d $group ]] && find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
  done
  rm -rf --one-file-system "$state"
}

case ${1:-} in
  up) up ;;
  down) down && say "gone" ;;
  use) use ;;
  node)
    name=${2:?which node?}
    shift 2
    in_node "$name" "${@:-bash}"
    ;;
  client)
    shift
    in_netns client "${@:-bash}"
    ;;
  stop-node)
    . "$here/network.sh"
    stop_init "${2:?which node?}"
    unplug_node "$2"
    ;;
  start-node)
    . "$here/network.sh"
    plug_node "${2:?which node?}"
    start_init "$2" "$here/node.sh" "$2"
    ;;
  stop)
    touch "$state/control/${2:?which service?}.off"
    nsenter --target "$(init_of control)" --pid --mount kill "$(cat "$state/control/$2.pid")"
    ;;
  start) rm -f "$state/control/${2:?which service?}.off" ;;
  *)
    usage
    exit 2
    ;;
esac
