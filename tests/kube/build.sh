#!/usr/bin/env bash
# Says in which directory kube-apiserver, etcd and kubectl are, and builds them there the first time
# (about 7 minutes on 2 cores). KUBEBUILDER_ASSETS, as envtest knows it, takes precedence.
# The last line of the output is the directory; everything else goes to stderr.
set -euo pipefail
cd "$(dirname "$0")"

binaries=(kube-apiserver etcd kubectl)
fail() { printf 'kube: %s\n' "$*" >&2; exit 1; }

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for binary in "${binaries[@]}"; do
        [ -x "$KUBEBUILDER_ASSETS/$binary" ] || fail "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $binary"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

# What is built from the same sources has the same name, so a checkout never rebuilds another's.
key=$(cat go.mod go.sum cmd/*/main.go build.sh | sha256sum | cut -c 1-16)
directory=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/kube-$key

# A binary gets its name when it is whole.
lacking=()
for binary in "${binaries[@]}"; do
    [ -x "$directory/$binary" ] || lacking+=("$binary")
done
if [ ${#lacking[@]} -gt 0 ]; then
    command -v go >/dev/null \
        || fail "no Go toolchain to build ${lacking[*]}: install Go (https://go.dev/dl), or set KUBEBUILDER_ASSETS (setup-envtest)"
    mkdir -p "$directory"
    exec 9>"$directory/lock"
    flock 9
    version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
    IFS=. read -r major minor _ <<<"${version#v}"
    flags="-s -w"
    for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
        flags+=" -X $package.gitVersion=$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
    done
    for binary in "${lacking[@]}"; do
        [ -x "$directory/$binary" ] && continue
        echo "kube: building $binary of Kubernetes $version (once, some minutes)" >&2
        CGO_ENABLED=0 go build -trimpath -ldflags "$flags" -o "$directory/.$binary" "./cmd/$binary"
        mv "$directory/.$binary" "$directory/$binary"
    done
fi
echo "$directory"
