#!/usr/bin/env bash
# Changes the copy of network-policy-api in the directory $1, so that its conformance suite runs with the
# image that image.sh makes of agnhost, on a kernel without SCTP sockets:
#
# - Servers are started as /agnhost, not by /bin/bash, which the image lacks. What listens on SCTP ports listens on
#   TCP ports, for otherwise its pod would never be ready.
# - A probe by SCTP is logged and left out; the other probes of its test are made.
# - A test that the suite is asked to skip counts as skipped, not as passed.
#
# A change that no longer applies to a later version of the suite ends the build.
set -euo pipefail
cd "$1/conformance"

# Filters FILE through the sed script; PATTERN must be in COUNT lines of the result.
change() { # FILE SCRIPT PATTERN COUNT
    sed -E -i "$2" "$1"
    local found
    found=$(grep -cE "$3" "$1" || true)
    [ "$found" -eq "$4" ] || { echo "kube: $1 has $found lines with '$3', not $4" >&2; exit 1; }
}

# ["/bin/bash", "-c", "/agnhost a b"] becomes ["/agnhost", "a", "b"]. No argument ends inside of {{ }}: the spaces
# there are kept as @.
change base/manifests.yaml '
    s/SERVE_SCTP_PORT_/SERVE_PORT_/
    /command: \["\/bin\/bash", "-c", "/ {
        s/"\/bin\/bash", "-c", //
        :inside
        s/(\{\{[^}]*) ([^}]*\}\})/\1@\2/
        t inside
        :between
        s/(command: \[.*[^,]) /\1", "/
        t between
        s/@/ /g
    }' 'command: \["/agnhost", "[^ ]+"' 30
change utils/kubernetes/helper.go '
    /^func PokeServer\(/a\
	if protocol == "sctp" {\
		t.Logf("not probed: %s/%s to %s:%d by SCTP", clientNamespace, clientPod, targetHost, targetPort)\
		return\
	}' 'not probed: ' 1
change utils/suite/suite.go '
    s/t\.Logf\("Skipping %s", test\.ShortName\)/t.Skip("this kernel has no SCTP sockets")/' 't\.Skip\(' 1
