#!/usr/bin/env bash
# Checks what `make release` wrote to target/dist for ARCH, and the programs that it built:
#
#     tests/release.sh ARCH
#
#     - both programs start, name this commit, and contain no path of this machine
#     - `kubectl-whatif` answers questions on examples/ as the program for the other architecture does, if that is built
#     - the SBOMs name each crate of `cargo tree` and each package of the images, and nothing else
#     - the checksums are those of the files
# Programs for another architecture run with qemu.
set -euo pipefail
cd "$(dirname "$0")/.."
fail() { printf 'release: %s\n' "$*" >&2; exit 1; }
arch=${1:?which architecture: amd64 or arm64}
machine_of() { case $1 in amd64) echo x86_64 ;; arm64) echo aarch64 ;; *) fail "no architecture '$1'" ;; esac; }
programs_of() { echo "target/$(machine_of "$1")-unknown-linux-gnu/release"; }
# Runs a program that was built for the architecture $1.
run() {
    local machine
    machine=$(machine_of "$1")
    shift
    if [ "$machine" = "$(uname -m)" ]; then "$@"; else "qemu-$machine-static" "$@"; fi
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dist=target/dist

(cd $dist && sha256sum --check --quiet SHA256SUMS)
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
commit=${PORTCULLIS_COMMIT:-$(git describe --always --dirty --abbrev=40 --exclude='*')}
for program in portcullis kubectl-whatif; do
    path=$(programs_of "$arch")/$program
    said=$(run "$arch" "$path" --version)
    [ "$said" = "$program $version (commit $commit)" ] || fail "$path --version is '$said', and the commit is $commit"
    run "$arch" "$path" --help >/dev/null
    for directory in "$PWD" "${CARGO_HOME:-$HOME/.cargo}"; do
        ! grep --quiet --text --fixed-strings "$directory" "$path" || fail "$path contains the path $directory"
    done
done
echo "release: $arch: both programs are of $version (commit $commit), and contain no path of this machine"

# The answers of the program for the architecture $1, with their exit codes.
answers() {
    local program line
    program=$(programs_of "$1")/kubectl-whatif
    while read -r line; do
        echo "== $line"
        # shellcheck disable=SC2086 # the words of a question
        run "$1" "$program" $line 2>&1 || echo "exit code $?"
    done <<'END'
check jobs/cleanup shop/db-1:5432 -f examples/shop
check default/shell shop/db-1:5432 -f examples/shop/world.yaml --with examples/shop/policies -o json
map -f examples/shop
map -f examples/cluster/world.yaml -f examples/cluster/default-deny -o json
plan -f examples/shop --without netpol/shop/metrics
plan -f examples/cluster/world.yaml --with examples/cluster/guardrails -o json
lint -f examples
END
}
other=$([ "$arch" = amd64 ] && echo arm64 || echo amd64)
if [ -x "$(programs_of "$other")/kubectl-whatif" ]; then
    for one in "$arch" "$other"; do answers "$one" >"$work/$one"; done
    diff "$work/$other" "$work/$arch" >"$work/diff" || fail "$arch and $other answer differently: $(head -5 "$work/diff")"
    # A question that is wrong would be answered in the same way by both.
    ! grep -q '^exit code 2' "$work/$arch" || fail "a question has no answer: $(grep -B 3 '^exit code 2' "$work/$arch")"
    echo "release: $arch and $other give the same $(wc -c <"$work/$arch") bytes as answers to $(grep -c ^== "$work/$arch") questions"
fi

# The crates that `cargo tree` lists, each once.
crates() {
    "${CARGO:-cargo}" tree --locked --target "$(machine_of "$arch")-unknown-linux-gnu" --edges no-dev --prefix none \
        --format '{p}' "$@" | sed -E '/^$/d; s/^([^ ]+) v([^ ]+).*/\1 \2/' | sort -u
}
# What an SBOM names of an ecosystem, cargo or deb.
named() {
    jq -r --arg prefix "pkg:$1/" '[.metadata.component, .components[]][] | select((.purl // "") | startswith($prefix))
        | if .type == "application" then (.purl | split("/")[-1] | split("@") | join(" ")) else "\(.name) \(.version)" end' \
        "$2" | sort
}
same() { diff "$1" "$2" >"$work/diff" || fail "$3: $(head -5 "$work/diff")"; }
crates --package portcullis-whatif >"$work/plugin"
crates --package portcullis-controller >"$work/agent"
# They are built together, where the features of one program could add a crate to the other.
crates --package portcullis-whatif --package portcullis-controller >"$work/both"
sort -u "$work/plugin" "$work/agent" >"$work/union"
same "$work/union" "$work/both" "the programs that are built together have other crates"
check_crates() { # SBOM CRATES
    named cargo "$dist/$1" >"$work/named"
    same "$2" "$work/named" "$1 names other crates than cargo tree"
    echo "release: $1: $(wc -l <"$work/named") crates"
}
check_crates "kubectl-whatif-linux-$arch.cdx.json" "$work/plugin"
for backend in iptables nftables; do
    sbom=portcullis-image-linux-$arch.cdx.json
    [ $backend = iptables ] || sbom=portcullis-image-nftables-linux-$arch.cdx.json
    check_crates "$sbom" "$work/agent"
    root=$(${SUDO:-} tests/image.sh --root "$(programs_of "$arch")/portcullis" $backend)
    # What Debian itself prints for the packages whose files are in the image.
    (cd "$root/var/lib/dpkg/status.d" && sed -n 's/^Version: //p;s/^Package: //p' -- * | paste -d ' ' - -) | sort >"$work/packages"
    named deb "$dist/$sbom" >"$work/named"
    same "$work/packages" "$work/named" "$sbom names other packages than the image has"
    echo "release: $sbom: $(wc -l <"$work/named") packages of Debian"
done
