// Package e2e is the NetworkPolicy part of Kubernetes' end-to-end tests as a test binary of its own.
// tests/kube/e2e.sh runs it.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"

	"k8s.io/kubernetes/test/e2e"
	"k8s.io/kubernetes/test/e2e/framework"
	"k8s.io/kubernetes/test/e2e/framework/config"

	// The specs.
	_ "k8s.io/kubernetes/test/e2e/network/netpol"

	// As upstream's binary: print a namespace's events when a spec fails, wait for nodes to be ready.
	_ "k8s.io/kubernetes/test/e2e/framework/debug/init"
	_ "k8s.io/kubernetes/test/e2e/framework/node/init"
)

var (
	summary    = flag.String("summary", "", "file to write one line per spec to")
	minimum    = flag.Int("min-specs", 1, "fail when fewer specs than this were run")
	skipReason = flag.String("skip-reason", "", "why specs that --ginkgo.skip matches are not run")
)

func TestMain(m *testing.M) {
	config.CopyFlags(config.Flags, flag.CommandLine)
	framework.RegisterCommonFlags(flag.CommandLine)
	framework.RegisterClusterFlags(flag.CommandLine)
	flag.Parse()
	framework.AfterReadingAllFlags(&framework.TestContext)
	os.Exit(m.Run())
}

func TestE2E(t *testing.T) { e2e.RunE2ETests(t) }

var _ = ginkgo.ReportAfterSuite("one line per spec", func(report ginkgo.Report) {
	if *summary == "" {
		return
	}
	var lines strings.Builder
	counts := map[string]int{}
	for _, spec := range report.SpecReports {
		if spec.LeafNodeType != types.NodeTypeIt {
			if spec.Failed() {
				fmt.Fprintf(&lines, "FAIL %v: %s\n", spec.LeafNodeType, spec.Failure.Message)
			}
			continue
		}
		// The framework registers specs of its own, which e2e.sh does not select.
		if !strings.Contains(spec.FileName(), "/network/netpol/") {
			continue
		}
		outcome, detail := outcomeOf(spec)
		counts[outcome]++
		fmt.Fprintf(&lines, "%s %s (%s)\n", outcome, spec.FullText(), detail)
	}
	ran := counts["PASS"] + counts["FAIL"]
	fmt.Fprintf(&lines, "e2e: %d specs ran in %.0f s: %d passed, %d failed; %d skipped\n",
		ran, report.RunTime.Seconds(), counts["PASS"], counts["FAIL"], counts["SKIP"])
	if err := os.WriteFile(*summary, []byte(lines.String()), 0o644); err != nil {
		ginkgo.Fail(err.Error())
	}
	if ran < *minimum {
		ginkgo.Fail(fmt.Sprintf("%d specs ran, at least %d were expected to", ran, *minimum))
	}
})

// outcomeOf returns the word for a spec's result, and its duration or the reason why it did not run.
func outcomeOf(spec ginkgo.SpecReport) (outcome, detail string) {
	switch spec.State {
	case types.SpecStatePassed:
		return "PASS", fmt.Sprintf("%.0f s", spec.RunTime.Seconds())
	case types.SpecStateSkipped, types.SpecStatePending:
		if spec.Failure.Message != "" {
			return "SKIP", spec.Failure.Message
		}
		return "SKIP", *skipReason
	default:
		message, _, _ := strings.Cut(spec.Failure.Message, "\n")
		return "FAIL", fmt.Sprintf("%s after %.0f s: %s", spec.State, spec.RunTime.Seconds(), message)
	}
}
