#!/usr/bin/env bash
# Images of pods in the cluster, made here, so that no registry is needed: pause, and agnhost, in which kubernetes' suite runs sh, curl, nc and dig: what
# its Dockerfile puts together, on a small Debian. Kept in the cache. The image of Ringway is deploy/image.sh's.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
mkdir -p "$images"
pack=$root/deploy/pack.sh

# The suite of this version asks for these (test/utils/image/manifest.go).
registry=registry.k8s.io/e2e-test-images
agnhost_names=$registry/agnhost:2.63.0,$registry/busybox:1.37.0-1,$registry/glibc-dns-testing:2.0.0

if [[ ! -f $images/pause.tar ]]; then
  work=$(mktemp -d)
  cat >"$work/pause.c" <<'C'
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
/* First process of a pod: holds its namespaces, and buries whom nobody else does. */
static void leave(int signal) { (void)signal; exit(0); }
static void bury(int signal) { (void)signal; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, leave); signal(SIGTERM, leave); signal(SIGCHLD, bury); for (;;) pause(); }
C
  mkdir "$work/root"
  cc -static -Os -o "$work/root/pause" "$work/pause.c"
  "$pack" "$work/root" "$images/pause.tar" "$pause_image" '"Entrypoint":["/pause"]'
  rm -rf "$work"
fi

# A server that sends what a proxy may take for an answer out of place.
if [[ ! -f $images/regression.tar ]]; then
  work=$(mktemp -d)
  "$pack" "$work" "$images/regression.tar" "$registry/regression-issue-74839:1.4" '"Entrypoint":["/regression-issue-74839"]' \
    "$(program regression-issue-74839)=/regression-issue-74839"
  rm -rf "$work"
fi

# test/images/agnhost/Dockerfile of the version that is pinned.
if [[ ! -f $images/agnhost.tar ]]; then
  say "making the image of the suite's pods: a small Debian with agnhost"
  work=$(mktemp -d)
  mirror=$(awk '/^URIs:/{print $2; exit} /^deb /{print $2; exit}' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
  debootstrap --variant=minbase \
    --include=curl,wget,netcat-openbsd,iproute2,iperf,bind9-dnsutils,iputils-ping,ca-certificates \
    bookworm "$work/root" ${mirror:+"$mirror"} >"$work/log" || { tail -5 "$work/log" >&2; die "debootstrap failed: see above"; }
  rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/* "$work"/root/usr/share/{doc,man,locale}/*
  mkdir -p "$work/root/uploads"
  cp "$(program agnhost)" "$(program coredns)" "$work/root/"
  ln -s agnhost "$work/root/agnhost-2"
  porter=$(cd "$root/tests/kubernetes" && PATH=$PATH:/usr/local/go/bin go list -f '{{.Dir}}' k8s.io/kubernetes/test/images/agnhost/porter)
  cp "$porter"/localhost.{crt,key} "$work/root/"
  chroot "$work/root" useradd -u 1000 user-defined-in-image
  chroot "$work/root" groupadd -g 50000 group-defined-in-image
  "$pack" "$work/root" "$images/agnhost.tar" "$agnhost_names" '"Entrypoint":["/agnhost"],"Cmd":["pause"]'
  rm -rf "$work"
fi
