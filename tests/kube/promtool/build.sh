#!/usr/bin/env bash
# Prints the path of promtool, after building it where it is missing. It needs Go: about three minutes of CPU time.
set -euo pipefail
cd "$(dirname "$0")"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis
# What is built from the same sources has the same name, so a checkout never rebuilds another's.
program=$cache/promtool/$(cat go.mod go.sum build.sh | sha256sum | cut -c 1-16)
if [ ! -x "$program" ]; then
    # Where tests/setup.sh puts it.
    PATH=$PATH:$cache/go/bin
    command -v go >/dev/null || { echo 'promtool: no Go toolchain: run tests/setup.sh --cluster' >&2; exit 1; }
    mkdir -p "$cache/promtool"
    echo 'promtool: building promtool' >&2
    # Without the clients of clouds, which find what to scrape: rules need none of them.
    CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags remove_all_sd -ldflags '-s -w' -o "$program.$$" \
        github.com/prometheus/prometheus/cmd/promtool
    mv "$program.$$" "$program"
fi
echo "$program"
