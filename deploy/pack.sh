#!/usr/bin/env bash
# A folder as an image of one layer, in the format of `docker save`, which all runtimes load.
#   pack.sh FOLDER FILE.tar NAMES CONFIG [PROGRAM=PATH…]
# NAMES: with commas between; CONFIG: members of the image's "config" object in JSON; programs of this machine are put to PATH in the folder, with the
# libraries that they are linked with.
set -euo pipefail
folder=$1 file=$2 names=$3 config=$4
shift 4

for word in "$@"; do
  install -D -m 755 -s "${word%%=*}" "$folder${word#*=}"
  # A static program has none.
  for library in $(ldd "${word%%=*}" 2>/dev/null | grep -o '/[^ ]*' || true); do
    install -D -m 755 "$(readlink -f "$library")" "$folder$library"
  done
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Equal content makes an equal image.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$folder" -cf "$work/layer.tar" .
layer=$(sha256sum "$work/layer.tar" | cut -d' ' -f1)
architecture=$(uname -m | sed 's/x86_64/amd64/; s/aarch64/arm64/')
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
printf '{"architecture":"%s","os":"linux","config":{%s,%s},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
  "$architecture" "$path" "$config" "$layer" >"$work/config.json"
id=$(sha256sum "$work/config.json" | cut -d' ' -f1)
mv "$work/config.json" "$work/$id.json"
printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["layer.tar"]}]' "$id" "${names//,/\",\"}" >"$work/manifest.json"
tar -C "$work" -cf "$file.new" manifest.json "$id.json" layer.tar
mv "$file.new" "$file"
