#!/usr/bin/env bash
# Fuzzes the engine: each target for so many seconds (60), from the seeds in this folder. What a run finds beyond them stays below target/.
# libFuzzer works with any toolchain; its sanitizers, which safe code has no use for, would need a nightly one.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
root=$(cd ../../.. && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/fuzz
coverage=(-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
  -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 -Cdebug-assertions=yes)
# A target triple keeps the instrumentation out of build scripts.
triple=$(rustc -vV | sed -n 's/^host: //p')
RUSTFLAGS="${coverage[*]} --cfg fuzzing" cargo build --release --target "$triple" --target-dir "$target" --bins
for name in parse engine quotes fragments; do
  found=$target/found/$name
  mkdir -p "$found"
  echo "fuzz: $name for $seconds s"
  "$target/$triple/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=5 -verbosity=0 -print_final_stats=1 \
    -artifact_prefix="$found/crash-" "$found" "seeds/$name" 2>&1 | grep -v '^$' | tail -8
done
