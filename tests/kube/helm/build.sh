#!/usr/bin/env bash
# Prints the path of helm, after building it where it is missing. It needs Go: about two minutes of CPU time.
set -euo pipefail
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis
# What is built from the same sources has the same name, so a checkout never rebuilds another's.
program=$cache/helm/$(cat go.mod go.sum build.sh | sha256sum | cut -c 1-16)
if [ ! -x "$program" ]; then
    # Where tests/setup.sh puts it.
    PATH=$PATH:$cache/go/bin
    command -v go >/dev/null || { echo 'helm: no Go toolchain: run tests/setup.sh --cluster' >&2; exit 1; }
    mkdir -p "$cache/helm"
    echo 'helm: building helm' >&2
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$program.$$" helm.sh/helm/v3/cmd/helm
    mv "$program.$$" "$program"
fi
echo "$program"
