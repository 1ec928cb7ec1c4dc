#!/usr/bin/env bash
# Prints the path of a program that the tests use, after building it where it is missing. It needs Go.
#
#     tests/kube/program.sh helm        installs the chart; two minutes of CPU time
#     tests/kube/program.sh promtool    evaluates the alerts; three minutes of CPU time
#     tests/kube/program.sh yaml        reads YAML as kubectl does; some seconds
set -euo pipefail
cd "$(dirname "$0")"
fail() { printf '%s\n' "$*" >&2; exit 1; }
name=${1:-} flags=(-ldflags '-s -w') others=()
case $name in
    helm) module=helm package=helm.sh/helm/v3/cmd/helm ;;
    # Without the clients of clouds, which find what to scrape: rules need none of them.
    promtool) module=promtool package=github.com/prometheus/prometheus/cmd/promtool flags+=(-tags remove_all_sd) ;;
    # A few modules of those of Kubernetes, but none of its programs.
    yaml) module=. package=./yaml others=(yaml/main.go) ;;
    *) fail "program: which one: helm, promtool or yaml?" ;;
esac
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis
# What is built from the same sources has the same name, so a checkout never rebuilds another's.
program=$cache/$name/$(cat program.sh "$module"/go.{mod,sum} "${others[@]}" | sha256sum | cut -c 1-16)
if [ ! -x "$program" ]; then
    # Where tests/setup.sh puts it.
    PATH=$PATH:$cache/go/bin
    command -v go >/dev/null || fail "$name: no Go toolchain: run tests/setup.sh --cluster"
    mkdir -p "$cache/$name"
    echo "$name: building $name" >&2
    CGO_ENABLED=0 go build -C "$module" -trimpath -buildvcs=false "${flags[@]}" -o "$program.$$" "$package"
    mv "$program.$$" "$program"
fi
echo "$program"
