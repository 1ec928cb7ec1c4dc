#!/usr/bin/env bash
# Prints the path of the program that reads YAML as kubectl does, after building it where it is missing.
# It needs Go, and a few modules of Kubernetes, but not its programs: some seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis
# What is built from the same sources has the same name, so a checkout never rebuilds another's.
program=$cache/yaml/$(cat go.mod yaml/main.go | sha256sum | cut -c 1-16)
if [ ! -x "$program" ]; then
    # Where tests/setup.sh puts it.
    PATH=$PATH:$cache/go/bin
    command -v go >/dev/null || { echo 'yaml: no Go toolchain: run tests/setup.sh --cluster' >&2; exit 1; }
    mkdir -p "$cache/yaml"
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -o "$program.$$" ./yaml
    mv "$program.$$" "$program"
fi
echo "$program"
