#!/usr/bin/env bash
# The image of the DaemonSet without a container builder: the release binary, the libraries that it is linked with, and `sleep`, for cleanup.yaml.
#   deploy/image.sh FILE.tar [BINARY]     then: ctr -n k8s.io images import FILE.tar, docker load -i FILE.tar, podman load, skopeo copy docker-archive:FILE.tar …
# NAME is the image's name, ringway:VERSION unless given.
set -euo pipefail
file=${1:?usage: deploy/image.sh FILE.tar [BINARY]}
deploy=$(cd "$(dirname "$0")" && pwd)
binary=${2:-$deploy/../${CARGO_TARGET_DIR:-target}/release/ringway}
[[ -x $binary ]] || { echo "deploy/image.sh: there is no $binary: make build" >&2; exit 1; }
name=${NAME:-docker.io/library/ringway:$(sed -n 's/^version = "\(.*\)"/\1/p' "$deploy/../Cargo.toml" | head -1)}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
install -D -m 755 -s "$binary" "$root/usr/local/bin/ringway"
install -D -m 755 "$(command -v sleep)" "$root/bin/sleep"
mkdir -p "$root"/{etc,proc,sys,dev,run,tmp}
echo 'root:x:0:0:root:/:/bin/false' >"$root/etc/passwd"
# Where the loader looks for them.
for program in "$binary" "$(command -v sleep)"; do
  ldd "$program" | grep -o '/[^ ]*' | while read -r library; do
    install -D -m 755 "$(readlink -f "$library")" "$root/lib/$(basename "$library")"
    [[ $library == *ld-linux* ]] && install -D -m 755 "$(readlink -f "$library")" "$root$library"
  done || true
done
"$deploy/pack.sh" "$root" "$file" "$name" '"Entrypoint":["/usr/local/bin/ringway"]'
