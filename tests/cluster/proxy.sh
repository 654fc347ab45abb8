# shellcheck shell=bash
# Who serves Services: Ringway, deployed as a user would, or kubernetes' own kube-proxy. To be sourced after lib.sh.

helm() { in_netns control env HELM_CACHE_HOME="$state/helm" HELM_CONFIG_HOME="$state/helm" HELM_DATA_HOME="$state/helm" "$(program helm)" --kubeconfig "$state/pki/admin.kubeconfig" "$@"; }

# The image, on every node: none has a registry.
load_ringway_image() {
  local name
  "$root/deploy/image.sh" "$state/ringway.tar" "${RINGWAY_BIN:-$root/${CARGO_TARGET_DIR:-target}/release/ringway}"
  for name in $(node_names); do
    in_node "$name" ctr --namespace k8s.io images import --snapshotter overlayfs - <"$state/ringway.tar" >"$state/import.log" 2>&1 ||
      die "$name does not take the image $state/ringway.tar: $(tail -1 "$state/import.log")"
  done
}

# The values are the same for chart and manifests.
deploy_ringway() {
  load_ringway_image
  if [[ $DEPLOY == helm ]]; then
    helm upgrade --install ringway "$root/deploy/chart" --namespace kube-system --set "image.tag=$IMAGE_TAG" \
      --set "apiServers={https://$control:6443}" --set config.remove-taint=true >/dev/null || die "helm did not install the chart"
  else
    mkdir -p "$state/manifests"
    sed 's|^# - {apiGroups: \[""\], resources: \[nodes\], verbs: \[get, patch\]}|- {apiGroups: [""], resources: [nodes], verbs: [get, patch]}|' \
      "$root/deploy/rbac.yaml" >"$state/manifests/rbac.yaml"
    sed "s|remove-taint: false|remove-taint: true|; s|^    # apiserver: .*|    apiserver: [https://$control:6443]|" \
      "$root/deploy/configmap.yaml" >"$state/manifests/configmap.yaml"
    cp "$root/deploy/daemonset.yaml" "$state/manifests/"
    kubectl apply -f "$state/manifests" >/dev/null || die "the apiserver does not take the manifests in $state/manifests"
  fi
}

ringway_is_ready() {
  kubectl -n kube-system rollout status daemonset/ringway --timeout=5s &&
    [[ -z $(kubectl get nodes -o jsonpath='{.items[*].spec.taints[?(@.key=="ringway.dev/not-ready")].key}') ]]
}

start_kube_proxy() {
  local name cidrs=$pods
  if is_dual; then cidrs+=,$pods6; fi
  for name in $(node_names); do
    in_node "$name" tee /etc/kubernetes/kube-proxy.yaml >/dev/null <<Y
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.kubeconfig, qps: 100, burst: 200}
hostnameOverride: $name
clusterCIDR: $cidrs
detectLocalMode: ClusterCIDR
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
Y
    in_node "$name" setsid kube-proxy --config /etc/kubernetes/kube-proxy.yaml --v=2 >"$state/$name/var/log/kube-proxy.log" 2>&1 </dev/null &
  done
}

start_proxy() {
  case $PROXY in
    ringway) deploy_ringway && wait_for "Ringway is ready on all nodes" 120 ringway_is_ready ;;
    kube-proxy) start_kube_proxy ;;
    none) ;;
  esac
}
