#!/usr/bin/env bash
# kubernetes' own suite against a cluster of its own, and what is needed to understand a spec that fails. `make e2e` is its front.
#   FOCUS, SKIP    regular expressions of specs; by default the groups of e2e-specs.txt
#   RUNS=1         how often in a row
#   PROCS=1        how many specs at a time
#   KEEP=1         use the cluster that is up, and leave it
#   EVIDENCE       where evidence goes, target/e2e unless given
# Other settings: see cluster.sh.
set -euo pipefail
[[ -z ${KEEP:-} ]] && is_new=1
. "$(dirname "$0")/lib.sh"
cluster=$here/cluster.sh
out=${EVIDENCE:-$root/${CARGO_TARGET_DIR:-target}/e2e}
runs=${RUNS:-1}

# Lines of e2e-specs.txt: a word and a regular expression, and for those that are not run the reason.
patterns() { sed -n "s/^$1 \+//p" "$here/e2e-specs.txt" | sed 's/ *#.*//' | paste -sd'|'; }
if is_dual; then groups=dual; else groups=run; fi
focus=${FOCUS:-$(patterns "$groups")}
skip=${SKIP:-$(patterns skip)}
if is_dual; then skip=${SKIP:-$(patterns skip-dual)}; fi

# What a node can tell of itself, into a folder.
collect() {
  local to=$1 name file
  mkdir -p "$to"
  for name in $(node_names); do
    if [[ $PROXY == ringway ]]; then
      for command in status services backends flows neighbors stats; do
        ringway_on "$name" "$command" >"$to/$name-ringway-$command.txt" 2>&1 || true
      done
    fi
    in_node "$name" sh -c 'ip -d -s link; ip address; ip rule; ip route show table all; ip neighbor; nft list ruleset' >"$to/$name-network.txt" 2>&1 || true
    for file in kubelet containerd kube-proxy; do
      cp "$state/$name/var/log/$file.log" "$to/$name-$file.log" 2>/dev/null || true
    done
    cp "$out/pcap/$name".pcap* "$to/" 2>/dev/null || true
  done
  kubectl -n kube-system logs -l app.kubernetes.io/name=ringway --prefix --tail=-1 >"$to/ringway.log" 2>&1 || true
  kubectl get pods,services,endpointslices -A -o yaml >"$to/objects.yaml" 2>&1 || true
}

ringway_on() {
  local pod
  pod=$(kubectl -n kube-system get pods -l app.kubernetes.io/name=ringway --field-selector "spec.nodeName=$1" -o name | head -1)
  kubectl -n kube-system exec "$pod" -- ringway "$2"
}

# The last minutes of each node's wire, in a ring of files.
start_capture() {
  local name
  mkdir -p "$out/pcap"
  for name in $(node_names); do
    in_netns "$name" setsid tcpdump -i eth0 -n -s 128 -U -Z root -C 20 -W 3 -w "$out/pcap/$name.pcap" >/dev/null 2>&1 </dev/null &
    captures+=($!)
  done
}

run() {
  local number=$1 failures=0 line
  mkdir -p "$out/run$number"
  say "run $number of $runs: the log is $out/run$number/log"
  # In the control plane's network, as who administers a cluster.
  in_netns control env KUBECTL="$(program kubectl)" "$(program ginkgo)" --procs="${PROCS:-1}" --randomize-all --focus="$focus" --skip="$skip" \
    -v --no-color --timeout=3h --show-node-events=false "$(program e2e.test)" -- --provider=skeleton --kubeconfig="$state/pki/admin.kubeconfig" \
    --kubectl-path="$(program kubectl)" --report-dir="$out/run$number" --minStartupPods=0 --allowed-not-ready-nodes=0 2>&1 |
    while IFS= read -r line; do
      printf '%s\n' "$line" >>"$out/run$number/log"
      if [[ $line == "• [FAILED]"* ]]; then
        failures=$((failures + 1))
        say "a spec failed: evidence in $out/run$number/failure$failures"
        collect "$out/run$number/failure$failures"
      fi
    done || true
  python3 "$here/e2e-table.py" "$out/run$number/junit_01.xml"
}

rm -rf "$out"
mkdir -p "$out"
captures=()
leave() {
  ((${#captures[@]} == 0)) || kill "${captures[@]}" 2>/dev/null || true
  [[ -n ${KEEP:-} ]] || "$cluster" down
}
trap leave EXIT
if [[ -z ${KEEP:-} ]]; then
  "$cluster" down
  "$cluster" up >/dev/null
fi
start_capture
status=0
for ((number = 1; number <= runs; number++)); do run "$number" || status=1; done
exit "$status"
