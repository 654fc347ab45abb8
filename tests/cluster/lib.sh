# shellcheck shell=bash
# What all scripts of the cluster share: its names, addresses and settings. To be sourced.
#
#                 rwc-fabric: a switch, and the router 192.168.99.254, which knows the cluster only
#   ┌────────────────────┬──────────────────────┬──────────────────────┐
#   rwc-control .1       rwc-node1 .11          rwc-node2 .12 …        rwc-client .100
#   etcd, apiserver,     containerd, kubelet,   the same               curl, and whoever is outside
#   controllers, CoreDNS pods 10.244.1.0/24     pods 10.244.2.0/24
#
# The control plane and each node have a PID namespace of their own: whoever ends its first process ends all of it, pods included.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tests/cluster

# Everything that a cluster keeps. `down` removes it.
state=${RINGWAY_CLUSTER_DIR:-/var/lib/ringway-cluster}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ringway
kubernetes_version=$(sed -n 's|^require k8s.io/kubernetes v||p' "$root/tests/kubernetes/go.mod")
programs=$cache/kubernetes/$kubernetes_version
images=$cache/images
pause_image=registry.k8s.io/pause:3.10.2

# What `up` was told, for those who come later; whoever lays out a new cluster says `is_new=1`.
settings=(NODES CNI PROXY FAMILY DEPLOY IMAGE_TAG)
[[ -z ${is_new:-} && -f $state/settings ]] && . "$state/settings"
NODES=${NODES:-2} CNI=${CNI:-ptp} PROXY=${PROXY:-ringway} FAMILY=${FAMILY:-ipv4} DEPLOY=${DEPLOY:-helm}
IMAGE_TAG=${IMAGE_TAG:-$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -1)}

control=192.168.99.1 control6=fd99::1
client=192.168.99.100 client6=fd99::100
gateway=192.168.99.254 gateway6=fd99::ffff
pods=10.244.0.0/16 pods6=fd00:10:244::/56
services=10.96.0.0/16 services6=fd00:10:96::/112
dns=10.96.0.10
# Free for Services of type LoadBalancer.
load_balancers=192.0.2.0/24 load_balancers6=2001:db8:2::/64

say() { printf 'cluster: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
is_dual() { [[ $FAMILY == dual ]]; }

node_names() { for ((i = 1; i <= NODES; i++)); do echo "node$i"; done; }
node_number() { echo "${1#node}"; }
node_address() { echo "192.168.99.1${1#node}"; }
node_address6() { echo "fd99::1${1#node}"; }
# Pods' addresses on a node, without the host part: 10.244.1 and fd00:10:244:1.
pod_prefix() { echo "10.244.${1#node}"; }
pod_prefix6() { echo "fd00:10:244:${1#node}"; }

in_netns() { local name=$1; shift; nsenter --net="/run/netns/rwc-$name" "$@"; }

# A program: from KUBEBUILDER_ASSETS, else from the cache.
program() {
  local name=$1
  if [[ -x ${KUBEBUILDER_ASSETS:-/nonexistent}/$name ]]; then echo "$KUBEBUILDER_ASSETS/$name"; else echo "$programs/$name"; fi
}

kubectl() { in_netns control "$(program kubectl)" --kubeconfig "$state/pki/admin.kubeconfig" "$@"; }

# wait_for WHAT SECONDS COMMAND…: until it succeeds.
wait_for() {
  local what=$1 until=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < until)) || die "$what: not so far after the time given; try: $*; logs are below $state"
    sleep 0.2
  done
}

# The first process of a node or of the control plane, as the machine counts.
init_of() { pgrep -P "$(cat "$state/$1.pid" 2>/dev/null || echo 0)" 2>/dev/null | head -1; }
is_up() { [[ -n $(init_of "$1") ]]; }

# Runs a command in all namespaces of a node.
in_node() {
  local name=$1 pid
  shift
  pid=$(init_of "$name")
  [[ -n $pid ]] || die "$name does not run"
  nsenter --target "$pid" --mount --uts --net --pid --wd=/ env PATH=/opt/assets:/opt/kubernetes:$PATH "$@"
}

# start_init NAME SCRIPT [ARGUMENTS…]: its own mount, UTS and PID namespace in the network namespace rwc-NAME.
start_init() {
  local name=$1
  shift
  setsid nsenter --net="/run/netns/rwc-$name" unshare --mount --propagation private --uts --pid --fork --kill-child=KILL \
    bash "$@" >"$state/$name.log" 2>&1 </dev/null &
  echo $! >"$state/$name.pid"
}

stop_init() {
  local pid
  pid=$(cat "$state/$1.pid" 2>/dev/null) || return 0
  kill -KILL "$pid" 2>/dev/null || true
  while [[ -d /proc/$pid && $(sed 's/.*) //; s/ .*//' "/proc/$pid/stat" 2>/dev/null) != Z ]]; do sleep 0.05; done
  rm -f "$state/$1.pid"
}

# supervise NAME COMMAND…: a service of a first process, started again a second after it ends unless NAME.off is there. For `service`.
supervise() {
  local name=$1
  shift
  while :; do
    if [[ ! -e $services_dir/$name.off ]]; then
      "$@" >>"$services_dir/$name.log" 2>&1 &
      echo $! >"$services_dir/$name.pid"
      wait $! || true
    fi
    sleep 1
  done &
}
