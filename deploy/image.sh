#!/usr/bin/env bash
# The image of the DaemonSet without a container builder: the release binary, the libraries that it is linked with, and `sleep`, for cleanup.yaml.
#   deploy/image.sh FILE.tar [BINARY]
# Then: ctr -n k8s.io images import FILE.tar, docker load -i FILE.tar, podman load -i FILE.tar, or skopeo copy docker-archive:FILE.tar docker://REGISTRY/…
# NAME is the image's name, ringway:VERSION unless given.
set -euo pipefail
file=${1:?usage: deploy/image.sh FILE.tar [BINARY]}
deploy=$(cd "$(dirname "$0")" && pwd)
binary=${2:-$deploy/../${CARGO_TARGET_DIR:-target}/release/ringway}
[[ -x $binary ]] || { echo "deploy/image.sh: there is no $binary: make build" >&2; exit 1; }
name=${NAME:-docker.io/library/ringway:$(sed -n 's/^version = "\(.*\)"/\1/p' "$deploy/../Cargo.toml" | head -1)}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{etc,proc,sys,dev,run,tmp}
echo 'root:x:0:0:root:/:/bin/false' >"$root/etc/passwd"
"$deploy/pack.sh" "$root" "$file" "$name" '"Entrypoint":["/usr/local/bin/ringway"]' \
  "$binary=/usr/local/bin/ringway" "$(command -v sleep)=/bin/sleep"
