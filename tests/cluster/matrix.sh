#!/usr/bin/env bash
# Runs the tests of a cluster on clusters of every kind, one after the other, and prints a table of the results.
#
#     tests/cluster/matrix.sh [NUMBER...]     all rows of the table below, or those of these numbers
#
# Each row has the tests of pods, Services and addresses that are used again; the rows marked `all` also have
# upstream's suites and what operators do. Each value of the first five columns meets each value of every other of
# them at least once. Logs, and the table as Markdown, are in target/reports/matrix. All rows take about an hour on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

# CNI, families, mode of kube-proxy, variant of iptables, Kubernetes, which tests, backend of the agents
rows=(
    "bridge          dual nftables legacy 1.36 -   auto"
    "bridge          ipv4 iptables legacy 1.37 -   auto"
    "bridge          ipv6 nftables nft    1.36 -   auto"
    "ptp             dual iptables nft    1.36 -   auto"
    "ptp             ipv4 iptables nft    1.36 -   auto"
    "ptp             ipv6 nftables legacy 1.37 -   auto"
    "flannel-host-gw dual nftables legacy 1.37 -   auto"
    "flannel-host-gw ipv4 iptables legacy 1.36 -   auto"
    "flannel-host-gw ipv6 iptables nft    1.36 -   auto"
    "flannel-vxlan   dual nftables legacy 1.36 -   auto"
    "flannel-vxlan   ipv4 nftables legacy 1.36 -   auto"
    "flannel-vxlan   ipv6 iptables nft    1.37 -   auto"
    "bridge          dual iptables nft    1.36 all auto"
    "bridge          dual iptables nft    1.37 all auto"
    "ptp             ipv6 nftables nft    1.37 -   nftables"
    "flannel-vxlan   ipv4 nftables nft    1.36 -   nftables"
    "bridge          dual iptables nft    1.36 all nftables"
)
cargo=${CARGO:-cargo}
reports=$PWD/target/reports/matrix
mkdir -p "$reports"
failed=0
table=$reports/table.md
{
    echo "| CNI | families | kube-proxy | iptables | Kubernetes | --backend | tests | result |"
    echo "|---|---|---|---|---|---|---|---|"
} >"$table"
"$cargo" build --quiet --workspace --bins
for number in "${@:-${!rows[@]}}"; do
    for row in $number; do
        read -r cni families proxy variant kubernetes which backend <<<"${rows[row]}"
        skip=(--skip upstream --skip operators)
        [ "$which" = - ] || skip=()
        log=$reports/$row.log
        started=$SECONDS
        printf '%2d: %s %s kube-proxy=%s iptables=%s %s --backend=%s ' \
            "$row" "$cni" "$families" "$proxy" "$variant" "$kubernetes" "$backend"
        result=passed
        CLUSTER_FULL=1 CLUSTER_ARGS="--cni $cni --families $families --kube-proxy $proxy --iptables $variant \
--kubernetes $kubernetes --backend $backend" \
            "$cargo" test --quiet --workspace --test cluster -- "${skip[@]}" >"$log" 2>&1 || result=FAILED
        read -r passed failures < <(awk '/^test result:/ { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
        # A cluster that did not start has run nothing.
        [ "$passed" -gt 0 ] || result=FAILED
        echo "$result: $passed passed, $failures failed in $((SECONDS - started)) s"
        [ $result = passed ] || { failed=$((failed + 1)); echo "    $log"; }
        tests="pods, Services, reused addresses"
        [ "$which" = - ] || tests="all, with upstream's suites"
        echo "| $cni | $families | $proxy | $variant | $kubernetes | $backend | $tests | $result: $passed of $((passed + failures)) |" >>"$table"
    done
done
echo "$table"
exit $((failed > 0))
