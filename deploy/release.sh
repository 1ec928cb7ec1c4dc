#!/usr/bin/env bash
# Writes what a release has beside the image to the directory OUT, from the programs in the directory PROGRAMS, which
# were built for the architecture ARCH (amd64 or arm64):
#
#     deploy/release.sh PROGRAMS ARCH OUT [ROOT NFTABLES_ROOT]
#
#     kubectl-whatif-linux-ARCH.tar.gz   the plugin with completions for shells and for kubectl
#     kubectl-whatif-linux-ARCH.cdx.json its SBOM (deploy/sbom.sh)
#     portcullis-image[-nftables]-linux-ARCH.cdx.json    the SBOMs of the images, if their roots are given (tests/image.sh)
#     netpol-whatif.yaml                 the manifest for krew, with those architectures whose archive is in OUT
#     portcullis-VERSION.tgz             the Helm chart
#     SHA256SUMS                         the checksums of all files in OUT
#
# The same files make the same bytes: all times are SOURCE_DATE_EPOCH, by default that of the commit.
set -euo pipefail
[ $# -eq 3 ] || [ $# -eq 5 ] || { sed -n '2,5s/^# \?//p' "$0" >&2; exit 2; }
programs=$(realpath "$1") arch=$2 root=${4:-} nftables_root=${5:-}
machine=$([ "$arch" = arm64 ] && echo aarch64 || echo x86_64)
mkdir -p "$3"
out=$(realpath "$3")
cd "$(dirname "$0")/.."
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
export SOURCE_DATE_EPOCH
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

# Packs entries of the stage.
pack() { # ARCHIVE ENTRY...
    local archive=$out/$1
    shift
    tar --create --directory "$stage" --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX \
        --mtime="@$SOURCE_DATE_EPOCH" "$@" | gzip --no-name --best >"$archive"
}

install -m 755 "$programs/kubectl-whatif" LICENSE "$stage"
chmod 644 "$stage/LICENSE"
# The program writes its completions. That of another architecture runs with qemu.
plugin=("$programs/kubectl-whatif")
"${plugin[@]}" --version >/dev/null 2>&1 || plugin=("qemu-$machine-static" "${plugin[@]}")
mkdir "$stage/completions"
for shell in bash elvish fish powershell zsh; do
    "${plugin[@]}" completion "$shell" >"$stage/completions/kubectl-whatif.$shell"
done
"${plugin[@]}" completion kubectl >"$stage/kubectl_complete-whatif"
chmod 755 "$stage/kubectl_complete-whatif"
pack "kubectl-whatif-linux-$arch.tar.gz" LICENSE completions kubectl-whatif kubectl_complete-whatif

deploy/sbom.sh kubectl-whatif "$arch" >"$out/kubectl-whatif-linux-$arch.cdx.json"
if [ -n "$root" ]; then
    deploy/sbom.sh portcullis "$arch" "$root" >"$out/portcullis-image-linux-$arch.cdx.json"
    deploy/sbom.sh portcullis "$arch" "$nftables_root" >"$out/portcullis-image-nftables-linux-$arch.cdx.json"
fi

# The chart has links to files beside it; an archive has the files.
cp -rL deploy/helm/portcullis "$stage"
pack "portcullis-$version.tgz" portcullis

# A platform is three lines: the selector, the archive, the program.
while IFS= read -r line; do
    case $line in
        *'- selector:'*) selector=$line ;;
        *addURIAndSha*)
            archive=$(grep -oE '[^/"]+\.tar\.gz' <<<"$line")
            uri=$(grep -oE 'https://[^"]+' <<<"$line")
            uri=${uri//'{{ .TagName }}'/v$version}
            [ -e "$out/$archive" ] || { IFS= read -r _; continue; }
            printf '%s\n      uri: %s\n      sha256: %s\n' "$selector" "$uri" \
                "$(sha256sum "$out/$archive" | cut -d ' ' -f 1)" ;;
        *) printf '%s\n' "${line//'{{ .TagName }}'/v$version}" ;;
    esac
done < <(grep -v '^#' .krew.yaml) >"$out/netpol-whatif.yaml"

cd "$out"
rm -f SHA256SUMS
sha256sum -- * >"$stage/SHA256SUMS"
mv "$stage/SHA256SUMS" .
