#!/usr/bin/env bash
# Real Kubernetes components, unmodified, built from the Go module proxy into the cache, pinned by the go.mod files below tests/kubernetes/. Prints the
# folder. A program that KUBEBUILDER_ASSETS has is not built; one that the cache has neither.
#   kubernetes.sh            etcd, kube-apiserver, kube-proxy, kubectl: what tests need. Cold on two cores: about 8 minutes and 2.1 GB of memory
#   kubernetes.sh cluster    and what nodes and their control plane run. 12 minutes more
#   kubernetes.sh e2e        and kubernetes' own suite. 3 minutes more
set -euo pipefail
cd "$(dirname "$0")/../tests/kubernetes"
want=${1:-tests}

version=$(sed -n 's|^require k8s.io/kubernetes v||p' go.mod)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/ringway/kubernetes/$version
mkdir -p "$dir"

PATH=$PATH:/usr/local/go/bin # where its own archive goes
export CGO_ENABLED=0 GOFLAGS=-mod=readonly

stamp=""
for package in k8s.io/client-go/pkg/version k8s.io/component-base/version; do
  IFS=. read -r major minor _ <<<"$version"
  stamp="$stamp -X $package.gitVersion=v$version -X $package.gitMajor=$major -X $package.gitMinor=$minor -X $package.gitTreeState=archive"
done

# build FOLDER PACKAGE [NAME] [go WORDS…]: beside first, so that a build that is killed leaves nothing that looks whole.
build() {
  local folder=$1 package=$2 name=${3:-${2##*/}}
  local words=("${@:4}")
  [[ -x ${KUBEBUILDER_ASSETS:-/nonexistent}/$name || -x $dir/$name ]] && return
  if ! command -v go >/dev/null; then
    echo "scripts/kubernetes.sh: there is no go, which builds $name: install Go 1.26 or newer," >&2
    echo "or put $name into a folder and name it in KUBEBUILDER_ASSETS" >&2
    exit 1
  fi
  echo "building $name" >&2
  (cd "$folder" && go "${words[@]:-build}" -trimpath -ldflags "-s -w $stamp" -o "$dir/.$name.new" "$package")
  mv "$dir/.$name.new" "$dir/$name"
}

build etcd go.etcd.io/etcd/server/v3 etcd
for name in kube-apiserver kube-proxy kubectl; do build . k8s.io/kubernetes/cmd/$name; done

if [[ $want == cluster || $want == e2e ]]; then
  for name in kube-controller-manager kube-scheduler kubelet; do build . k8s.io/kubernetes/cmd/$name; done
  for name in agnhost regression-issue-74839; do build . k8s.io/kubernetes/test/images/$name; done
  for name in containerd containerd-shim-runc-v2 ctr; do build containerd github.com/containerd/containerd/v2/cmd/$name; done
  for name in main/ptp main/bridge main/loopback ipam/host-local meta/portmap; do
    build cni github.com/containernetworking/plugins/plugins/$name
  done
  build coredns github.com/coredns/coredns
  build helm helm.sh/helm/v4/cmd/helm
fi
if [[ $want == e2e ]]; then
  build . k8s.io/kubernetes/test/e2e e2e.test test -c -vet=off
  build . github.com/onsi/ginkgo/v2/ginkgo
fi
echo "$dir"
