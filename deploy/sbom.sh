#!/usr/bin/env bash
# Prints what a program or an image consists of, as a software bill of materials (SBOM, CycloneDX 1.5):
#
#     deploy/sbom.sh PROGRAM ARCH         the crates of `kubectl-whatif` or `portcullis`, also those that only build it
#     deploy/sbom.sh PROGRAM ARCH ROOT    also Debian's packages that the image with this root has, as deploy/rootfs.sh
#                                         lists them in var/lib/dpkg/status.d
#
# The same sources make the same bytes: the time is SOURCE_DATE_EPOCH, by default that of the commit, and the serial
# number is a hash of the rest. Needs cargo and jq.
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \?//p' "$0" >&2; exit 2; }
program=$1 arch=$2 root=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.."
case $program in
    kubectl-whatif) package=portcullis-whatif ;;
    portcullis) package=portcullis-controller ;;
    *) echo "sbom: no program '$program'" >&2; exit 2 ;;
esac
case $arch in
    amd64) triple=x86_64-unknown-linux-gnu ;;
    arm64) triple=aarch64-unknown-linux-gnu ;;
    *) echo "sbom: no architecture '$arch': there are amd64 and arm64" >&2; exit 2 ;;
esac
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

"${CARGO:-cargo}" tree --locked --package $package --target $triple --edges no-dev --prefix depth \
    --format '|{p}|{l}' >"$stage/tree"
# Each line: name, version, architecture.
: >"$stage/packages"
[ -z "$root" ] || awk -F ': ' '
    FNR == 1 && NR > 1 { print field["Package"], field["Version"], field["Architecture"] }
    /^(Package|Version|Architecture): / { field[$1] = $2 }
    END { print field["Package"], field["Version"], field["Architecture"] }
' "$root"/var/lib/dpkg/status.d/* >"$stage/packages"

jq -n --arg program "$program" --arg arch "$arch" --arg image "$root" \
    --arg time "$(date --utc --date "@$SOURCE_DATE_EPOCH" +%FT%TZ)" \
    --rawfile lock Cargo.lock --rawfile tree "$stage/tree" --rawfile packages "$stage/packages" '
    def lines: split("\n")[] | select(. != "");
    # Old crates write "/" for "OR".
    def licenses: if . == "" then {} else {licenses: [{expression: gsub(" ?/ ?"; " OR ")}]} end;

    # The checksums of crates that come from crates.io.
    ([$lock | split("[[package]]\n")[1:][]
        | capture("name = \"(?<name>[^\"]+)\"\nversion = \"(?<version>[^\"]+)\"\n(.*\n)*?checksum = \"(?<sum>[0-9a-f]+)\"")
        | {key: "\(.name) \(.version)", value: .sum}] | from_entries) as $sums

    # Each line is a crate below the last line of a smaller depth. A crate that is listed again has (*).
    | reduce ($tree | lines
        | capture("^(?<depth>[0-9]+)\\|(?<name>\\S+) v(?<version>[^ |]+)[^|]*\\|(?<license>.*?)( \\(\\*\\))?$")) as $crate
        ({above: [], crates: {}, edges: {}};
            "pkg:cargo/\($crate.name)@\($crate.version | @uri)" as $ref
            | ($crate.depth | tonumber) as $depth
            | $sums["\($crate.name) \($crate.version)"] as $sum
            | .crates[$ref] = {type: "library", "bom-ref": $ref, name: $crate.name, version: $crate.version}
                + (if $sum then {hashes: [{alg: "SHA-256", content: $sum}]} else {} end)
                + ($crate.license | licenses) + {purl: $ref}
            | .edges[$ref] += []
            | if $depth > 0 then .edges[.above[$depth - 1]] += [$ref] else . end
            | .above = .above[:$depth] + [$ref])
    | .above[0] as $main
    | (.crates[$main] + {type: "application", name: $program}) as $application
    | [$packages | lines | split(" ")
        | "pkg:deb/debian/\(.[0] | @uri)@\(.[1] | @uri)?arch=\(.[2])" as $ref
        | {type: "library", "bom-ref": $ref, name: .[0], version: .[1], purl: $ref}] as $debian
    | ("image-linux-\($arch)") as $container
    | (if $image == "" then $application
        else {type: "container", "bom-ref": $container, name: "portcullis", version: $application.version} end) as $whole
    | {
        bomFormat: "CycloneDX",
        specVersion: "1.5",
        version: 1,
        metadata: {timestamp: $time, component: $whole},
        components: ([.crates | del(.[$main])[]] + $debian + (if $image == "" then [] else [$application] end)
            | sort_by(."bom-ref")),
        dependencies: ((.edges | to_entries | map({ref: .key, dependsOn: (.value | unique)}))
            + (if $image == "" then [] else [{ref: $container, dependsOn: ([$main] + [$debian[]."bom-ref"] | unique)}] end)
            | sort_by(.ref)),
    }' >"$stage/sbom"
sum=$(sha256sum "$stage/sbom")
serial=urn:uuid:${sum::8}-${sum:8:4}-8${sum:12:3}-8${sum:15:3}-${sum:18:12}
jq --arg serial "$serial" '{bomFormat, specVersion, serialNumber: $serial} + .' "$stage/sbom"
