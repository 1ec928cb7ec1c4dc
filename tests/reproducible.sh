#!/usr/bin/env bash
# Builds the programs of a release for ARCH once more, in a copy of the sources in another directory, and compares them
# with those of `make release`. The copy is of the commit: what is not committed is not in it.
#
#     tests/reproducible.sh ARCH
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:?which architecture: amd64 or arm64}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git archive HEAD | tar -x -C "$copy"
"$copy/deploy/build.sh" "$arch"
cd "$copy"
for program in target/*-unknown-linux-gnu/release/{portcullis,kubectl-whatif}; do
    cmp "$program" "$OLDPWD/$program" || { echo "reproducible: $program has other bytes in $copy" >&2; exit 1; }
    echo "reproducible: $(sha256sum "$program") here and in $OLDPWD"
done
