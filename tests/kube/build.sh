#!/usr/bin/env bash
# Prints the directory that has Kubernetes' own programs, after building those that are missing there.
#
#     tests/kube/build.sh [SET...]
#
#     api      kube-apiserver, etcd, kubectl: for tests with an API server. The default.
#     cluster  these, and what a cluster with kubelets needs: kubelet, kube-proxy, kube-controller-manager,
#              kube-scheduler, agnhost, pause; upstream's suites e2e.test (with ginkgo) and conformance.test;
#              crds/{standard,experimental}.yaml of network-policy-api
#     full     these, and what only some clusters need: flanneld; containerd-2/{containerd,ctr,…}
#
# PORTCULLIS_KUBERNETES=1.37 has that version built instead of go.mod's. For the set `api` alone,
# KUBEBUILDER_ASSETS, as envtest knows it, takes precedence. The directory is the last line of the output;
# progress goes to stderr. README.md has times and sizes.
set -euo pipefail
cd "$(dirname "$0")"
fail() { printf 'kube: %s\n' "$*" >&2; exit 1; }

kube=(kube-apiserver etcd kubectl) suites=() others=() flannel=() containerd=()
for name in "${@:-api}"; do
    case $name in
        api) ;;
        cluster | full)
            kube+=(kubelet kube-proxy kube-controller-manager kube-scheduler agnhost ginkgo)
            suites=(e2e.test conformance.test) others=(pause crds)
            [ "$name" = cluster ] || { flannel=(flanneld) containerd=(containerd-2); } ;;
        *) fail "no set '$name': there are api, cluster and full" ;;
    esac
done

if [ "${*:-api}" = api ] && [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    for program in "${kube[@]}"; do
        [ -x "$KUBEBUILDER_ASSETS/$program" ] || fail "KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS has no $program"
    done
    echo "$KUBEBUILDER_ASSETS"
    exit
fi

modfile=go.mod
[ -z "${PORTCULLIS_KUBERNETES:-}" ] || [ ! -e "kubernetes-$PORTCULLIS_KUBERNETES.mod" ] \
    || modfile=kubernetes-$PORTCULLIS_KUBERNETES.mod
version=$(sed -nE 's/^.*k8s\.io\/kubernetes v([0-9.]+).*$/\1/p' "$modfile" | head -n 1)
[[ $version == "${PORTCULLIS_KUBERNETES:-}"* ]] || fail "no Kubernetes $PORTCULLIS_KUBERNETES: go.mod has $version"

# What is built from the same sources has the same name, so a checkout never rebuilds another's.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis
key=$(cat "$modfile" "${modfile%.mod}.sum" build.sh e2e/* conformance/* flannel/* containerd/* \
    | sha256sum | cut -c 1-16)
directory=$cache/kube-$version-$key

lacking() {
    for name in "$@"; do
        [ -e "$directory/$name" ] || echo "$name"
    done
}
if [ -z "$(lacking "${kube[@]}" "${suites[@]}" "${others[@]}" "${flannel[@]}" "${containerd[@]}")" ]; then
    touch "$directory"
    echo "$directory"
    exit
fi
# Where tests/setup.sh puts it.
PATH=$PATH:$cache/go/bin
command -v go >/dev/null || fail "no Go toolchain to build Kubernetes: run tests/setup.sh --cluster," \
    "or set KUBEBUILDER_ASSETS for tests with an API server alone (setup-envtest)"
# What nobody has used for two weeks.
[ ! -d "$cache" ] || find "$cache" -maxdepth 1 -name 'kube-*' -mtime +14 -exec rm -rf {} +
mkdir -p "$directory"
exec 9>"$directory/lock"
flock 9
# Programs get their names in the directory when they are whole.
stage=$directory/.stage
trap 'rm -rf "$stage"' EXIT

# One set of flags for all, so that all share the packages in Go's build cache; -ldflags is for the linker alone.
export CGO_ENABLED=0
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    IFS=. read -r major minor _ <<<"$version"
    flags+=" -X $package.gitVersion=v$version -X $package.gitMajor=$major -X $package.gitMinor=$minor"
done
flags=(-trimpath -buildvcs=false -ldflags "$flags")

# Runs a step that makes programs in the stage, and says how long it takes.
step() { # WHAT COMMAND...
    local what=$1 started=$SECONDS
    local log=$cache/build-times/${what//[^a-zA-Z0-9.-]/-}
    shift
    echo "kube: building $what$([ ! -e "$log" ] || echo " ($(cat "$log") s last time)")" >&2
    rm -rf "$stage"
    mkdir -p "$stage" "$cache/build-times"
    "$@" 2>&1 | progress >&2
    mv "$stage"/* "$directory"
    echo "$((SECONDS - started))" >"$log"
    echo "kube: built $what in $((SECONDS - started)) s" >&2
}

# Of what `go build -v` prints, one line for 250 packages; warnings and errors as they are.
progress() {
    local line packages=0
    while IFS= read -r line; do
        case $line in
            'go: downloading '*) ;;
            *' '*) printf '%s\n' "$line" ;;
            *) packages=$((packages + 1))
                [ $((packages % 250)) -ne 0 ] || echo "kube: $packages packages compiled" ;;
        esac
    done
}

build_kube() {
    local packages=()
    for name in "$@"; do
        case $name in
            etcd) packages+=(go.etcd.io/etcd/server/v3) ;;
            agnhost) packages+=(k8s.io/kubernetes/test/images/agnhost) ;;
            ginkgo) packages+=(github.com/onsi/ginkgo/v2/ginkgo) ;;
            *) packages+=("k8s.io/kubernetes/cmd/$name") ;;
        esac
    done
    go build -v -modfile "$modfile" "${flags[@]}" -o "$stage/" "${packages[@]}"
    [ ! -e "$stage/server" ] || mv "$stage/server" "$stage/etcd"
}

# Prints the directory of a module's sources, after fetching them where no build has done so.
sources() { # DIRECTORY MODFILE MODULE
    go mod download -C "$1" -modfile "$2" "$3"
    go list -C "$1" -modfile "$2" -m -f '{{.Dir}}' "$3"
}

# Puts a copy of the module, changed by DIRECTORY/patch.sh, beside a module file that has it in the module's place.
patched() { # DIRECTORY MODFILE MODULE
    local copy=$stage/.patched module
    module=$(sources "$1" "$2" "$3")
    mkdir "$copy"
    cp -r "$module" "$copy/module"
    chmod -R u+w "$copy/module"
    "$1/patch.sh" "$copy/module"
    cp "$2" "$copy/go.mod"
    cp "${2%.mod}.sum" "$copy/go.sum"
    go mod edit -replace "$3=$copy/module" "$copy/go.mod"
}

build_suites() {
    patched conformance "$PWD/$modfile" sigs.k8s.io/network-policy-api
    go test -c -v -modfile "$stage/.patched/go.mod" "${flags[@]}" -vet=off -o "$stage/" "${@/#/./}"
}

build_others() {
    local kubernetes api
    kubernetes=$(sources . "$modfile" k8s.io/kubernetes)
    cc -Os -Wall -static -s -o "$stage/pause" "$kubernetes/build/pause/linux/pause.c"
    api=$(sources . "$modfile" sigs.k8s.io/network-policy-api)
    mkdir "$stage/crds"
    for channel in standard experimental; do
        install -m 644 "$api/config/crd/$channel/policy.networking.k8s.io_clusternetworkpolicies.yaml" \
            "$stage/crds/$channel.yaml"
    done
}

build_flannel() {
    patched flannel "$PWD/flannel/go.mod" github.com/flannel-io/flannel
    go build -C flannel -v -modfile "$stage/.patched/go.mod" "${flags[@]}" -o "$stage/flanneld" \
        github.com/flannel-io/flannel
}

build_containerd() {
    mkdir "$stage/containerd-2"
    go build -C containerd -v "${flags[@]}" -o "$stage/containerd-2/" \
        github.com/containerd/containerd/v2/cmd/{containerd,containerd-shim-runc-v2,ctr}
}

mapfile -t names < <(lacking "${kube[@]}")
[ ${#names[@]} -eq 0 ] || step "${names[*]} of Kubernetes $version" build_kube "${names[@]}"
mapfile -t names < <(lacking "${suites[@]}")
[ ${#names[@]} -eq 0 ] || step "${names[*]}" build_suites "${names[@]%.test}"
[ -z "$(lacking "${others[@]}")" ] || step "pause and CRDs" build_others
[ -z "$(lacking "${flannel[@]}")" ] || step "flanneld" build_flannel
[ -z "$(lacking "${containerd[@]}")" ] || step "containerd 2" build_containerd
echo "$directory"
