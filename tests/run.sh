#!/usr/bin/env bash
# What `make test` runs after set-up: lints, then every test, then one line with the totals.
# `run.sh lint` stops after the lints. The first failure ends it.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
cargo=${CARGO:-cargo}

step() { printf '\n== %s\n' "$*"; "$@"; }

step "$cargo" fmt --all --check
step "$cargo" clippy --workspace --all-targets --quiet -- -D warnings
RUSTDOCFLAGS='-D warnings' step "$cargo" doc --workspace --no-deps --quiet
step "$cargo" deny --log-level error check bans licenses sources
[ "${1:-}" = lint ] && exit 0

# Root without sudo where we are root, as in CI; the lab makes network namespaces.
if [ "$(id -u)" -ne 0 ]; then
    # The binaries are built as the user; only the tests run as root.
    export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='sudo -E'
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER='sudo -E'
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$cargo" build --workspace --bins --quiet
# Minutes the first time: not inside of a test, and as the user who runs this.
KUBEBUILDER_ASSETS=$(tests/kube/build.sh cluster | tail -n 1)
export KUBEBUILDER_ASSETS
tests/kube/program.sh yaml >/dev/null
tests/kube/program.sh helm >/dev/null
started=$SECONDS
step "$cargo" test --workspace --no-fail-fast 2>&1 | tee "$log"

# Sums the closing lines of all test binaries; pipefail has ended a failed run before this.
awk -v seconds=$((SECONDS - started)) '
    /^test result:/ { passed += $4; failed += $6; ignored += $8 }
    END {
        printf "\n%d tests ran in %d s, %d ignored\n", passed + failed, seconds, ignored
        printf "%d passed, %d failed\n", passed, failed
        exit (failed > 0 || ignored > 0 || passed == 0)
    }' "$log"
