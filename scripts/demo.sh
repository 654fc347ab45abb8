#!/usr/bin/env bash
# The demo: builds, then runs target/release/ringway-demo, which lays out the namespaces and cleans up after itself.
# Whatever ends it (also Ctrl-C), nothing stays behind.
set -euo pipefail
cd "$(dirname "$0")/.."

((EUID == 0)) || { echo "demo: needs root, for network namespaces and BPF: sudo make demo" >&2; exit 1; }
target=${CARGO_TARGET_DIR:-target}

echo "demo: [1/5] installing what is missing"
scripts/prepare.sh
echo "demo: [2/5] building (the first time takes a few minutes)"
cargo build --release -p ringway-agent -p ringway-tests --bins

demo=$target/release/ringway-demo
trap '"$demo" --sweep' EXIT
"$demo"
