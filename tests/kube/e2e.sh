#!/usr/bin/env bash
# Runs Kubernetes' end-to-end tests of NetworkPolicy against a cluster, by four processes side by side, and
# prints one line for each spec. Fails when a spec fails, and when fewer ran than there are without SCTP.
#
#     tests/kube/e2e.sh KUBECONFIG [FLAG...]
#
# The flags are those of `ginkgo run`, for example --focus='named port' or --procs=1. What the tests log, and the
# results as JUnit XML, are in target/reports/e2e.
set -euo pipefail
KUBECONFIG=$(readlink -f "${1:?which kubeconfig}")
export KUBECONFIG
shift
cd "$(dirname "$0")"
programs=$(./build.sh cluster | tail -n 1)
reports=$(readlink -m ../../target/reports/e2e)
rm -rf "$reports"
mkdir -p "$reports"

# All of Kubernetes 1.36's that need no SCTP sockets; later versions have more. Some with SCTP in a policy probe by
# TCP alone.
specs=47
[ $# -eq 0 ] || specs=1
nodes=$("$programs/kubectl" get nodes -o name | wc -l)
status=0
# The framework brings specs of its own. It wants a provider, and would collect logs by SSH.
"$programs/ginkgo" run --procs=4 --timeout=30m --no-color --silence-skips \
    --focus-file=e2e/network/netpol/ --skip='Feature:SCTPConnectivity' "$@" "$programs/e2e.test" -- \
    --kubeconfig="$KUBECONFIG" --provider=skeleton --num-nodes="$nodes" --kubectl-path="$programs/kubectl" \
    --disable-log-dump --report-dir="$reports" --summary="$reports/summary" --min-specs="$specs" \
    --skip-reason='this kernel has no SCTP sockets' >"$reports/log" 2>&1 || status=$?
[ $status -eq 0 ] || cat "$reports/log"
cat "$reports/summary" || { echo "e2e: no specs ran" >&2; exit 1; }
exit $status
