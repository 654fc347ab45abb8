#!/usr/bin/env bash
# First process of a node: containerd and kubelet. Started by cluster.sh in the namespace rwc-NODE with mounts, hostname and processes of its own.
#   node.sh NODE
set -u
. "$(dirname "$0")/lib.sh"
name=$1 number=$(node_number "$1")
dir=$state/$name
cgroup=/ringway-cluster/$name
hostname "$name"

# What belongs to the machine, covered by what belongs to the node. The machine's /var goes last: our own files are below it.
mount -t proc proc /proc
mkdir -p "$dir"/{var/lib/{kubelet,containerd,cni},var/log/pods,var/run,opt/{kubernetes,assets,images},etc,etc-work}
ln -sfn /run "$dir/var/run"
mkdir -p "$dir/run" && mount -t tmpfs -o mode=755 tmpfs "$dir/run"
mkdir "$dir/run/cgroup" && mount --rbind /sys/fs/cgroup "$dir/run/cgroup"
mount -t sysfs sysfs /sys && mount --rbind "$dir/run/cgroup" /sys/fs/cgroup && umount -l "$dir/run/cgroup" && rmdir "$dir/run/cgroup"
mount -t bpf bpf /sys/fs/bpf 2>/dev/null
mount --bind "$programs" "$dir/opt/kubernetes"
[[ -n ${KUBEBUILDER_ASSETS:-} ]] && mount --bind "$KUBEBUILDER_ASSETS" "$dir/opt/assets"
mount --bind "$images" "$dir/opt/images"

# Settings of the whole machine that kubelet wants so: it sees them so.
mkdir -p "$dir/sysctl"
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
  kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file=$dir/sysctl/$(basename "${setting%=*}")
  echo "${setting#*=}" >"$file"
  mount --bind "$file" "/proc/sys/${setting%=*}"
done

# Containers' limits live in a cgroup of the node's own.
if [[ -f /sys/fs/cgroup/cgroup.controllers ]]; then
  for group in "" /ringway-cluster "$cgroup"; do
    mkdir -p "/sys/fs/cgroup$group"
    for controller in $(cat "/sys/fs/cgroup$group/cgroup.controllers"); do echo "+$controller" >"/sys/fs/cgroup$group/cgroup.subtree_control"; done
  done
else
  for controller in /sys/fs/cgroup/*/; do mkdir -p "$controller$cgroup"; done
  for group in /ringway-cluster "$cgroup"; do
    for file in cpuset.cpus cpuset.mems; do cat "/sys/fs/cgroup/cpuset/$file" >"/sys/fs/cgroup/cpuset$group/$file"; done
  done
fi

etc=$dir/etc
mkdir -p "$etc"/{kubernetes,containerd,cni/net.d}
cp "$state/pki/$name.kubeconfig" "$etc/kubernetes/kubelet.conf"
cp "$state/pki/kube-proxy.kubeconfig" "$state/pki/ca.crt" "$etc/kubernetes/"
echo "nameserver $control" >"$etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost\n%s %s\n' "$(node_address "$name")" "$name" >"$etc/hosts"
echo "$name" >"$etc/hostname"
[[ -s $etc/machine-id ]] || printf 'ringway%025d\n' "$number" | md5sum | cut -c1-32 >"$etc/machine-id"

cat >"$etc/containerd/config.toml" <<T
version = 3
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "$pause_image"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/assets", "/opt/kubernetes"]
    conf_dir = "/etc/cni/net.d"
T

# Pods' devices: a routed veth each (ptp), or ports of one bridge. An overlay costs 50 bytes of each packet, 70 in IPv6.
ranges="[{\"subnet\":\"$(pod_prefix "$name").0/24\",\"rangeStart\":\"$(pod_prefix "$name").10\"}]"
routes='{"dst":"0.0.0.0/0"}'
if is_dual; then
  ranges+=",[{\"subnet\":\"$(pod_prefix6 "$name")::/64\",\"rangeStart\":\"$(pod_prefix6 "$name")::10\"}]"
  routes+=',{"dst":"::/0"}'
fi
device='"type":"ptp","mtu":1500'
[[ $CNI == vxlan ]] && device='"type":"ptp","mtu":1430'
[[ $CNI == bridge ]] && device='"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,"mtu":1500'
cat >"$etc/cni/net.d/10-pods.conflist" <<J
{"cniVersion":"1.0.0","name":"pods","plugins":[
  {$device,"ipam":{"type":"host-local","ranges":[$ranges],"routes":[$routes]}},
  {"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}}]}
J

addresses=$(node_address "$name")
if is_dual; then addresses+=,$(node_address6 "$name"); fi
taints=""
[[ $PROXY == ringway ]] && taints='registerWithTaints: [{key: ringway.dev/not-ready, effect: NoSchedule}]'
cat >"$etc/kubernetes/kubelet.yaml" <<Y
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: $cgroup
enforceNodeAllocatable: []
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
address: "::"
authentication: {anonymous: {enabled: false}, webhook: {enabled: false}, x509: {clientCAFile: /etc/kubernetes/ca.crt}}
authorization: {mode: AlwaysAllow}
clusterDNS: [$dns]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
failSwapOn: false
imageGCHighThresholdPercent: 100
makeIPTablesUtilChains: false
nodeStatusUpdateFrequency: 5s
evictionHard: {memory.available: "50Mi", nodefs.available: "1%"}
maxPods: 230
$taints
Y
rm -rf "$dir/etc-work/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$etc,workdir=$dir/etc-work" /etc
mount --move "$dir/run" /run
mount --rbind "$dir/opt" /opt
mount --rbind "$dir/var" /var
# What is mounted in a pod with `mountPropagation: Bidirectional` appears on the node.
mount --make-rshared /

services_dir=/var/log
export PATH=/opt/assets:/opt/kubernetes:$PATH
rm -f /var/log/*.off
supervise containerd containerd --config /etc/containerd/config.toml
until ctr version >/dev/null 2>&1; do sleep 0.1; done
for image in /opt/images/*.tar; do
  [[ -e /var/lib/$(basename "$image").imported && /var/lib/$(basename "$image").imported -nt $image ]] && continue
  ctr --namespace k8s.io images import --snapshotter overlayfs "$image" >>/var/log/import.log 2>&1 && touch "/var/lib/$(basename "$image").imported"
done
supervise kubelet kubelet --config /etc/kubernetes/kubelet.yaml --kubeconfig /etc/kubernetes/kubelet.conf --hostname-override "$name" \
  --node-ip "$addresses" --node-labels "topology.kubernetes.io/zone=zone-$number,topology.kubernetes.io/region=ringway" \
  --cert-dir /var/lib/kubelet/pki --v=2
wait
