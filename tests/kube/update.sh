#!/usr/bin/env bash
# Writes the module file for a version of Kubernetes: go.mod, or kubernetes-1.NN.mod for PORTCULLIS_KUBERNETES=1.NN.
#
#     tests/kube/update.sh 1.36.3 go.mod
#     tests/kube/update.sh 1.37.2 kubernetes-1.37.mod
#
# Kubernetes' staging modules get their published versions, and what network-policy-api would raise is kept at
# what Kubernetes was released with: its programs are then as released, and the suites share their packages
# in Go's build cache.
set -euo pipefail
version=$1 file=$2
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

kubernetes=$(go mod download -json "k8s.io/kubernetes@v$version" | sed -nE 's/^\t"GoMod": "(.*)",$/\1/p')
staging() { sed -nE 's/^\t(k8s\.io\/[a-z-]+) => \.\/staging.*$/\1/p' "$kubernetes"; }
released() { sed -nE 's/^\t([^ ]+) (v[^ ]+)( \/\/ indirect)?$/\1 \2/p' "$kubernetes" | sort -u; }

{
    echo "// Kubernetes $version and upstream's test suites. Written by update.sh."
    echo "module portcullis.dev/tests/kube"
    echo "go 1.26.0"
    echo "require k8s.io/kubernetes v$version"
    echo "require sigs.k8s.io/network-policy-api v0.3.0"
    echo "tool ("
    printf '\tk8s.io/kubernetes/cmd/%s\n' kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl
    printf '\t%s\n' k8s.io/kubernetes/test/images/agnhost go.etcd.io/etcd/server/v3 github.com/onsi/ginkgo/v2/ginkgo
    echo ")"
    echo "replace ("
    staging | sed "s/.*/\t& => & v0.${version#1.}/"
    echo ")"
} >"$work/go.mod"
cp -r e2e conformance "$work"
cd "$work"
go mod tidy
go list -m -f '{{if not .Replace}}{{.Path}} {{.Version}}{{end}}' all | sort >selected
released | sort | join selected - | awk '
    BEGIN { print "\n// As in the go.mod of Kubernetes.\nreplace (" }
    $2 != $3 { printf "\t%s => %s %s\n", $1, $1, $3 }
    END { print ")" }' >>go.mod
go mod tidy
cd - >/dev/null
cp "$work/go.mod" "$file"
cp "$work/go.sum" "${file%.mod}.sum"
