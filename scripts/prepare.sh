#!/usr/bin/env bash
# Installs what building, testing and the demo need, and nothing that is there already. Debian and its derivatives; needs root only if something is missing.
#   prepare.sh cluster     and what a cluster's nodes and images need
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'prepare: %s\n' "$*" >&2; }

# command that must exist = package that brings it
tools=(
  clang=clang llvm-strip=llvm make=make m4=m4 pkg-config=pkg-config cc=gcc c++=g++
  ip=iproute2 ss=iproute2 nft=nftables sysctl=procps nsenter=util-linux setpriv=util-linux taskset=util-linux
  curl=curl openssl=openssl ethtool=ethtool tcpdump=tcpdump iperf3=iperf3 ping=iputils-ping tracepath=iputils-tracepath python3=python3
  scapy=python3-scapy
)
# headers have no command: ask dpkg
libraries=(libelf-dev zlib1g-dev libc6-dev libfaketime)

if [[ ${1:-} == cluster ]]; then tools+=(runc=runc debootstrap=debootstrap bridge=iproute2); fi

missing=()
for tool in "${tools[@]}"; do
  command -v "${tool%%=*}" >/dev/null || missing+=("${tool#*=}")
done
for library in "${libraries[@]}"; do
  dpkg-query -W -f '${Status}' "$library" 2>/dev/null | grep -q 'install ok installed' || missing+=("$library")
done

if ((${#missing[@]})); then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  command -v apt-get >/dev/null || { say "missing: ${missing[*]}; there is no apt-get here: install them by hand"; exit 1; }
  ((EUID == 0)) || { say "missing: ${missing[*]}; run this as root, or: sudo apt-get install ${missing[*]}"; exit 1; }
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# rust-version of the workspace decides.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(cargo --version 2>/dev/null | awk '{print $2}') || have=""
if [[ -z $have || $(printf '%s\n%s\n' "$wanted" "$have" | sort -V | head -1) != "$wanted" ]]; then
  if ! command -v rustup >/dev/null && ((EUID == 0)) && apt-cache show rustup >/dev/null 2>&1; then
    say "installing rustup"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rustup >/dev/null
  fi
  if command -v rustup >/dev/null; then
    say "Rust ${have:-is missing,} needs to be at least $wanted: rustup installs the stable toolchain"
    rustup toolchain install stable --profile minimal -c rustfmt -c clippy >&2
    rustup default stable >&2
  else
    say "Rust ${have:-is missing,} needs to be at least $wanted, and there is no rustup: install it from https://rustup.rs and run this again"
    exit 1
  fi
fi
for component in fmt clippy; do
  cargo "$component" --version >/dev/null 2>&1 || { say "cargo $component is missing: rustup component add rustfmt clippy"; exit 1; }
done
