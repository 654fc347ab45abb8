#!/usr/bin/env bash
# First process of the control plane: etcd, kube-apiserver, controllers, CoreDNS. Started by cluster.sh in the namespace rwc-control.
set -u
. "$(dirname "$0")/lib.sh"
services_dir=$state/control
mount -t proc proc /proc
hostname control
cd "$state/pki" || exit 1

cidrs=$services pod_cidrs=$pods
if is_dual; then cidrs+=,$services6 pod_cidrs+=,$pods6; fi

supervise etcd "$(program etcd)" --name control --data-dir "$services_dir/etcd" --unsafe-no-fsync --log-level warn \
  --quota-backend-bytes 2147483648 --listen-peer-urls http://127.0.0.1:2380

supervise kube-apiserver "$(program kube-apiserver)" \
  --etcd-servers=http://127.0.0.1:2379 --bind-address=:: --advertise-address=$control --secure-port=6443 \
  --tls-cert-file=apiserver.crt --tls-private-key-file=apiserver.key --client-ca-file=ca.crt --authorization-mode=Node,RBAC \
  --service-account-issuer=https://kubernetes.default.svc \
  --service-account-key-file=service-accounts.pub --service-account-signing-key-file=service-accounts.key \
  --service-cluster-ip-range=$cidrs --service-node-port-range=30000-32767 --allow-privileged=true \
  --enable-priority-and-fairness=false --max-requests-inflight=0 --max-mutating-requests-inflight=0 \
  --kubelet-client-certificate=apiserver-kubelet.crt --kubelet-client-key=apiserver-kubelet.key \
  --kubelet-preferred-address-types=InternalIP --enable-aggregator-routing=true

supervise kube-controller-manager "$(program kube-controller-manager)" --kubeconfig=kube-controller-manager.kubeconfig \
  --bind-address=127.0.0.1 --leader-elect=false --use-service-account-credentials=true \
  --service-account-private-key-file=service-accounts.key --root-ca-file=ca.crt \
  --cluster-signing-cert-file=ca.crt --cluster-signing-key-file=ca.key \
  --allocate-node-cidrs=false --cluster-cidr=$pod_cidrs --service-cluster-ip-range=$cidrs \
  --node-monitor-grace-period=20s

supervise kube-scheduler "$(program kube-scheduler)" --kubeconfig=kube-scheduler.kubeconfig --bind-address=127.0.0.1 --leader-elect=false

cat >"$services_dir/Corefile" <<C
cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {
  errors
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig $state/pki/coredns.kubeconfig
    ttl 1
    pods insecure
  }
}
C
supervise coredns "$(program coredns)" -conf "$services_dir/Corefile"

wait
