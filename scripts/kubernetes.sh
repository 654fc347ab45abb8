#!/usr/bin/env bash
# The real etcd, kube-apiserver, kube-proxy and kubectl for tests, built from the Go module proxy into the cache: pinned by tests/kubernetes/go.mod and
# tests/kubernetes/etcd/go.mod. Prints the folder. Does nothing when all is there. Cold on two cores: about 8 minutes and 2.1 GB of memory.
set -euo pipefail
cd "$(dirname "$0")/../tests/kubernetes"

version=$(sed -n 's|^require k8s.io/kubernetes v||p' go.mod)
dir=${XDG_CACHE_HOME:-$HOME/.cache}/ringway/kubernetes/$version
mkdir -p "$dir"

PATH=$PATH:/usr/local/go/bin # where its own archive goes
if ! command -v go >/dev/null; then
  echo "scripts/kubernetes.sh: there is no go, which builds kube-apiserver and etcd: install Go 1.26 or newer," >&2
  echo "or put etcd and kube-apiserver into a folder and name it in KUBEBUILDER_ASSETS" >&2
  exit 1
fi

export CGO_ENABLED=0 GOFLAGS=-mod=readonly

# build FOLDER NAME PACKAGE FLAGS: beside first, so that a build that is killed leaves nothing that looks whole.
build() {
  [ -x "$dir/$2" ] && return
  echo "building $2" >&2
  (cd "$1" && go build -trimpath -ldflags "-s -w $4" -o "$dir/.$2.new" "$3")
  mv "$dir/.$2.new" "$dir/$2"
}

stamp=""
for package in k8s.io/client-go/pkg/version k8s.io/component-base/version; do
  IFS=. read -r major minor _ <<<"$version"
  stamp="$stamp -X $package.gitVersion=v$version -X $package.gitMajor=$major -X $package.gitMinor=$minor -X $package.gitTreeState=archive"
done
build etcd etcd go.etcd.io/etcd/server/v3 ""
build . kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver "$stamp"
build . kube-proxy k8s.io/kubernetes/cmd/kube-proxy "$stamp"
build . kubectl k8s.io/kubernetes/cmd/kubectl "$stamp"
echo "$dir"
