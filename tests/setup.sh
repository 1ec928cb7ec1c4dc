#!/usr/bin/env bash
# Installs what is missing of what the build, the lab and the tests need, and prints what it installs and where.
# Takes a moment where nothing is missing. Where something cannot be installed, it prints one line and stops.
#
#     tests/setup.sh              for `make build` and `make demo`: Rust, the packages of the lab
#     tests/setup.sh --lint       also cargo-deny
#     tests/setup.sh --cluster    also what a cluster of real nodes needs: Go, a container runtime
#     tests/setup.sh --release ARCH    also what a release for ARCH (amd64 or arm64) needs: a cross compiler, qemu, jq
#     tests/setup.sh --tests      all of it, and a browser for the page of `kubectl whatif plan`
#
# The packages are those of Debian and Ubuntu; on other distributions the script lists what to install.
# Rust comes from rustup, in its usual place; Go from the Go module proxy, in the cache of this project. No PATH and
# no profile is changed: the Makefile looks in both places.
set -euo pipefail
cd "$(dirname "$0")/.."

lint=no cluster=no browser=no jq=no cross=
case ${1:-} in
    '') ;;
    --release)
        jq=yes
        case ${2:-} in
            amd64) machine=x86_64 ;;
            arm64) machine=aarch64 ;;
            *) echo "setup: --release: which architecture: amd64 or arm64?" >&2; exit 2 ;;
        esac
        [ $machine = "$(uname -m)" ] || cross=$2 ;;
    --lint) lint=yes ;;
    --cluster) cluster=yes ;;
    --tests) lint=yes cluster=yes browser=yes jq=yes ;;
    *) echo "setup: unknown argument: $1" >&2; exit 2 ;;
esac
cargo_bin=${CARGO_HOME:-$HOME/.cargo}/bin
go_root=${XDG_CACHE_HOME:-$HOME/.cache}/portcullis/go
export PATH="$cargo_bin:$go_root/bin:$PATH"

fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }
note() { printf 'setup: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else fail "needs root for: $* (run as root, or install sudo)"; fi
}

# Each line: a package, then how to tell that it is there: commands, or files of which one exists.
packages() {
    cat <<'END'
ca-certificates /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt
conntrack conntrack
gcc cc
iproute2 ip tc
ipset ipset
iptables iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft
libc6-dev /usr/include/stdio.h
libclang-dev /usr/lib/*/libclang.so* /usr/lib/*/libclang-[0-9]*.so* /usr/lib/llvm-*/lib/libclang.so* /usr/lib/llvm-*/lib/libclang-[0-9]*.so* /usr/lib64/libclang.so* /usr/lib64/libclang-[0-9]*.so*
libfaketime /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib64/faketime/libfaketimeMT.so.1
libipset-dev /usr/include/libipset/session.h
nftables nft
procps sysctl
END
    [ $cluster = no ] || cat <<'END'
containerd containerd ctr
containernetworking-plugins /usr/lib/cni/bridge
debootstrap debootstrap
openssl openssl
runc runc
END
    [ $browser = no ] || echo 'chromium chromium'
    [ $jq = no ] || echo 'jq jq'
    [ -z "$cross" ] || cat <<END
gcc-${machine//_/-}-linux-gnu $machine-linux-gnu-gcc
libc6-dev-$cross-cross /usr/$machine-linux-gnu/include/stdio.h
libipset-dev:$cross /usr/lib/$machine-linux-gnu/libipset.so
qemu-user-static qemu-$machine-static
END
}

is_there() {
    local proof
    for proof; do
        case $proof in
            /*) ! compgen -G "$proof" >/dev/null || return 0 ;;
            *) PATH="$PATH:/usr/sbin:/sbin" command -v "$proof" >/dev/null || return 1 ;;
        esac
    done
    [[ $1 != /* ]]
}

missing_packages() {
    local line
    while read -ra line; do
        is_there "${line[@]:1}" || echo "${line[0]}"
    done < <(packages)
}

# Runs a command without its output; stops with a line of that when it fails.
quietly() {
    local log
    if ! log=$("$@" 2>&1); then
        log=$(grep -i -m 1 '^e\(rror\)\?:' <<<"$log" || tail -n 1 <<<"$log")
        fail "${log#setup: }"
    fi
}

install_packages() {
    command -v apt-get >/dev/null || fail "missing, and no apt-get here; install what Debian calls: $*"
    note "installing Debian's or Ubuntu's packages $*"
    # The libraries that a program for another architecture is linked with.
    [[ -z $cross || $(dpkg --print-foreign-architectures) == *$cross* ]] || quietly as_root dpkg --add-architecture "$cross"
    quietly as_root apt-get update -qq
    # Nothing that is installed is removed for it: Docker's own containerd, say.
    quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove "$@"
    # Debian starts and enables containerd. The clusters of the tests run their own, in their own namespaces.
    if [[ " $* " == *' containerd '* ]] && command -v systemctl >/dev/null; then
        note "disabling containerd.service, which nothing here needs"
        as_root systemctl disable --quiet containerd.service
        # In a container systemd may be installed, but not running.
        [ ! -d /run/systemd/system ] || as_root systemctl stop containerd.service
    fi
}

# Whether `cargo` here is new enough, and has what `run.sh lint` calls.
rust_works() {
    local version
    version=$(RUSTUP_AUTO_INSTALL=0 cargo --version 2>/dev/null) || return 1
    [ "$(printf '%s\n' "$rust" "$(cut -d ' ' -f 2 <<<"$version")" | sort -V | head -n 1)" = "$rust" ] || return 1
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1
}

install_rust() {
    local host=${RUSTUP_UPDATE_ROOT:-https://static.rust-lang.org/rustup}
    if ! command -v rustup >/dev/null; then
        is_there curl || install_packages curl ca-certificates
        local installer
        installer=$(curl --proto =https --tlsv1.2 -fsL --connect-timeout 20 "$host/rustup-init.sh") \
            || fail "cannot reach $host for Rust $rust: install it yourself (https://rustup.rs), then try again"
        note "installing rustup in $cargo_bin"
        # A cargo of the distribution may be there too; it is too old.
        RUSTUP_INIT_SKIP_PATH_CHECK=yes quietly sh -s -- -y --no-modify-path --default-toolchain none <<<"$installer"
    fi
    note "installing Rust $rust by rustup in ${RUSTUP_HOME:-$HOME/.rustup}"
    quietly rustup toolchain install "$rust" --profile minimal --component clippy,rustfmt --no-self-update
    rust_works || fail "Rust $rust is installed, but not used: $(cargo --version 2>&1 | head -n 1)"
}

# Whether `go` here builds tests/kube: as it is, or by fetching a newer toolchain by itself (GOTOOLCHAIN).
go_works() { (cd tests/kube && go list -m) >/dev/null 2>&1; }

# Go's own releases are modules too, which any older Go can fetch, and checks like every other module.
install_go() {
    command -v go >/dev/null || install_packages golang-go
    local version module directory
    version=$(sed -n 's/^go //p' tests/kube/go.mod)
    module=golang.org/toolchain@v0.0.1-go$version.linux-$(go env GOARCH)
    note "installing Go $version in $go_root"
    directory=$(cd / && GOTOOLCHAIN=local GO111MODULE=on go mod download -json "$module" 2>/dev/null \
        | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') \
        || fail "cannot fetch $module: install Go $version yourself (https://go.dev/dl), then try again"
    rm -rf "$go_root" "$go_root.new"
    mkdir -p "$(dirname "$go_root")"
    cp -r "$directory" "$go_root.new"
    # As modules go, its files are read-only, and an older Go has not made them executable.
    chmod -R u+w "$go_root.new"
    chmod +x "$go_root.new"/bin/* "$go_root.new"/pkg/tool/*/*
    mv "$go_root.new" "$go_root"
    go_works || fail "Go $version is installed, but fails: $(cd tests/kube && go list -m 2>&1 | head -n 1)"
}

# Rust first: where it cannot be had, nothing else is worth the wait.
rust=$(sed -n 's/^channel = "\(.*\)"$/\1/p' rust-toolchain.toml)
rust_works || install_rust
mapfile -t lacking < <(missing_packages)
if [ ${#lacking[@]} -gt 0 ]; then
    install_packages "${lacking[@]}"
    mapfile -t lacking < <(missing_packages)
    [ ${#lacking[@]} -eq 0 ] || fail "still missing after the installation: ${lacking[*]}"
fi
if [ -n "$cross" ] && ! rustup target list --installed 2>/dev/null | grep -q "^$machine-unknown-linux-gnu$"; then
    note "installing Rust's library for $cross by rustup"
    quietly rustup target add "$machine-unknown-linux-gnu"
fi
[ $cluster = no ] || go_works || install_go
ip -V >/dev/null
as_root ip netns list >/dev/null || fail "the kernel has no network namespaces (CONFIG_NET_NS)"

if [ $lint = yes ] && ! command -v cargo-deny >/dev/null; then
    note "building cargo-deny in $cargo_bin (once, some minutes)"
    cargo install --quiet --locked cargo-deny@0.20.2
fi
