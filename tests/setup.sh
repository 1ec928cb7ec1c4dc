#!/usr/bin/env bash
# Installs what the build, the lab and the tests need, and says what is missing where it can't.
# Does nothing, fast, where all is there. Debian and Ubuntu; elsewhere it lists what to install.
set -euo pipefail

packages=(iptables ipset libipset-dev libclang-dev iproute2 nftables conntrack procps gcc libc6-dev)
commands=(iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft ipset ip tc nft conntrack sysctl cc)
# With --tests also what the tests alone need: a browser for the page of `kubectl whatif plan`, and
# cargo-deny for licences and sources.
tests=no
if [ "${1:-}" = "--tests" ]; then
    tests=yes
    packages+=(chromium)
    commands+=(chromium)
fi

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "needs root for: $* (run as root, or install sudo)"; fi
}

missing() {
    local found=()
    for command in "${commands[@]}"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || found+=("$command")
    done
    [ -e /usr/include/libipset/session.h ] || found+=(libipset/session.h)
    compgen -G '/usr/lib/*/libclang*.so*' >/dev/null \
        || compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null || found+=(libclang)
    printf '%s\n' "${found[@]}"
}

lacking=$(missing)
if [ -n "$lacking" ]; then
    command -v apt-get >/dev/null \
        || fail "missing: ${lacking//$'\n'/ }; install what Debian calls: ${packages[*]}"
    echo "setup: installing ${packages[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${packages[@]}" >/dev/null
    lacking=$(missing)
    [ -z "$lacking" ] || fail "still missing after the installation: ${lacking//$'\n'/ }"
fi

command -v cargo >/dev/null || fail "no cargo: install Rust by rustup (https://rustup.rs)"
# The tests build Kubernetes; Debian's Go is too old for it, so it is not installed here.
if [ $tests = yes ] && [ -z "${KUBEBUILDER_ASSETS:-}" ] && ! command -v go >/dev/null; then
    echo "setup: no Go: tests with an API server will fail; install it (https://go.dev/dl, tests/kube/go.mod" \
        "says which version), or set KUBEBUILDER_ASSETS (setup-envtest)" >&2
fi
ip -V >/dev/null
as_root ip netns list >/dev/null || fail "the kernel has no network namespaces (CONFIG_NET_NS)"

if [ $tests = yes ] && ! command -v cargo-deny >/dev/null; then
    echo "setup: building cargo-deny (once, some minutes)"
    cargo install --quiet --locked cargo-deny@0.20.2
fi
