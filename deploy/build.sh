#!/usr/bin/env bash
# Builds `portcullis` and `kubectl-whatif` as they are released, for ARCH (amd64 or arm64), on a machine of either
# architecture. They are in target/TRIPLE/release, for example target/aarch64-unknown-linux-gnu/release:
#
#     deploy/build.sh ARCH
#
# The same sources, toolchain and C libraries shall make the same bytes in every directory: paths of this machine are left
# out of the programs. PORTCULLIS_COMMIT is what they report as their commit.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    amd64) machine=x86_64 ;;
    arm64) machine=aarch64 ;;
    *) echo "build: which architecture: amd64 or arm64?" >&2; exit 2 ;;
esac
triple=$machine-unknown-linux-gnu
if [ "$(uname -m)" != $machine ]; then
    # Only the linker: the crates that compile C find this compiler by its name.
    linker=${triple^^}
    export "CARGO_TARGET_${linker//-/_}_LINKER=$machine-linux-gnu-gcc"
fi
# Panics and log lines name files: those of the workspace, and those of crates.io.
export RUSTFLAGS="--remap-path-prefix=$PWD=/portcullis --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}/registry/src=/crates"
# One build of both, because its features decide what is compiled. The target is named also where nothing is
# cross-compiled: then the flags do not apply to build scripts.
"${CARGO:-cargo}" build --release --locked --target "$triple" \
    --package portcullis-controller --package portcullis-whatif
