# shellcheck shell=bash
# What a machine must have for a cluster: everything that is missing at once, with its remedy. To be sourced after lib.sh.

# Tried in a network namespace that goes with the command.
has_device() {
  local words=""
  [[ $1 == vxlan ]] && words="id 1 dstport 8472"
  unshare --net ip link add probe type "$1" $words 2>/dev/null
}

preflight() {
  local problems=() device
  ((EUID == 0)) || problems+=("needs root, for namespaces, mounts and BPF: sudo make cluster")
  [[ $NODES =~ ^[1-9]$ ]] || problems+=("NODES=$NODES: from 1 to 9")
  [[ $CNI =~ ^(ptp|bridge|vxlan)$ ]] || problems+=("CNI=$CNI: ptp, bridge or vxlan")
  [[ $PROXY =~ ^(ringway|kube-proxy|none)$ ]] || problems+=("PROXY=$PROXY: ringway, kube-proxy or none")
  [[ $FAMILY =~ ^(ipv4|dual)$ ]] || problems+=("FAMILY=$FAMILY: ipv4 or dual")
  [[ $DEPLOY =~ ^(helm|manifests)$ ]] || problems+=("DEPLOY=$DEPLOY: helm or manifests")
  if ((${#problems[@]} == 0)); then
    [[ -f /sys/fs/cgroup/cgroup.controllers || -d /sys/fs/cgroup/cpuset ]] ||
      problems+=("no cgroups below /sys/fs/cgroup, which limit pods: mount cgroup2 there, or the controllers of version 1, one folder each")
    grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
      problems+=("the kernel has no overlay file system, on which images lie: CONFIG_OVERLAY_FS")
    for device in veth bridge vxlan; do
      has_device "$device" || problems+=("the kernel has no $device devices, which connect nodes and pods: modprobe $device, or another kernel")
    done
    (($(awk '/MemAvailable/{print int($2 / 1024)}' /proc/meminfo) >= 1000 + 500 * NODES)) ||
      problems+=("less than $((1000 + 500 * NODES)) MiB of memory are available: end something, or NODES=1")
    (($(df -Pm "$(dirname "$state")" | awk 'NR == 2 {print $4}') >= 4000)) ||
      problems+=("less than 4000 MiB of disk are free in $(dirname "$state"): make room, or RINGWAY_CLUSTER_DIR=FOLDER")
    [[ $(stat -f -c %T "$(dirname "$state")") != overlayfs ]] ||
      problems+=("$(dirname "$state") is an overlay itself, on which images cannot lie: RINGWAY_CLUSTER_DIR=FOLDER on a disk")
  fi
  ((${#problems[@]} == 0)) && return
  printf 'cluster: %s\n' "${problems[@]}" >&2
  exit 1
}
