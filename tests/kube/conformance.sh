#!/usr/bin/env bash
# Runs network-policy-api's conformance suite with all features against a cluster that has its CRD, and prints
# one line for each test. Fails when a test fails, and when fewer ran than there are without SCTP.
#
#     tests/kube/conformance.sh KUBECONFIG [FLAG...]
#
# The flags are those of a Go test binary, for example -test.run=/CNPAdminTierPriorityField. What the tests log,
# and the suite's report, are in target/reports/conformance.
set -euo pipefail
KUBECONFIG=$(readlink -f "${1:?which kubeconfig}")
export KUBECONFIG
shift
cd "$(dirname "$0")"
programs=$(./build.sh cluster | tail -n 1)
reports=$(readlink -m ../../target/reports/conformance)
rm -rf "$reports"
mkdir -p "$reports"

# All of v0.3.0's but the 20 whose every probe is by SCTP.
tests=92
[ $# -eq 0 ] || tests=1
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' ../../Cargo.toml)
started=$SECONDS
status=0
"$programs/conformance.test" -test.v -test.timeout=30m -report-output="$reports/report.yaml" \
    -organization=portcullis -project=portcullis -url="not published" -version="v$version" \
    -contact="not published" -additional-info='SCTP was not tested: the kernel had no SCTP sockets.' \
    "$@" >"$reports/log" 2>&1 || status=$?
[ $status -eq 0 ] || cat "$reports/log"

# The tests proper are two levels below TestConformance, and SCTP's tests are skipped as a whole.
sed -nE 's/^ +--- (PASS|FAIL|SKIP): TestConformance\/(.*)$/\1 \2/p' "$reports/log" \
    | awk '$1 == "SKIP" { print $0 ": this kernel has no SCTP sockets"; next } $2 ~ "/"' | tee "$reports/summary"
count() { grep -c "^$1 " "$reports/summary" || true; }
echo "conformance: $(($(count PASS) + $(count FAIL))) tests ran in $((SECONDS - started)) s:" \
    "$(count PASS) passed, $(count FAIL) failed; $(count SKIP) skipped;" \
    "$(grep -c 'not probed: .* by SCTP' "$reports/log" || true) probes by SCTP left out of the others"
if [ "$(($(count PASS) + $(count FAIL)))" -lt $tests ]; then
    echo "conformance: at least $tests tests were expected to run" >&2
    exit 1
fi
exit $status
