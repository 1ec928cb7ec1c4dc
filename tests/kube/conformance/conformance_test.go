// Package conformance is network-policy-api's conformance suite as a test binary of its own, for
// kernels without SCTP sockets. tests/kube/conformance.sh runs it; overlay.sh says what differs from
// upstream.
package conformance

import (
	"os"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/yaml"

	api "sigs.k8s.io/network-policy-api/apis/v1beta1"
	"sigs.k8s.io/network-policy-api/conformance/tests"
	timeouts "sigs.k8s.io/network-policy-api/conformance/utils/config"
	"sigs.k8s.io/network-policy-api/conformance/utils/flags"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
)

// TestConformance runs every test of the suite with all features, apart from those for SCTP, and
// writes the conformance report. The implementation is described by the suite's own flags.
func TestConformance(t *testing.T) {
	cluster, err := config.GetConfig()
	check(t, err)
	clientSet, err := kubernetes.NewForConfig(cluster)
	check(t, err)
	c, err := client.New(cluster, client.Options{})
	check(t, err)
	check(t, api.Install(c.Scheme()))
	check(t, apiextensionsv1.AddToScheme(c.Scheme()))
	implementation, err := suite.ParseImplementation(
		*flags.ImplementationOrganization,
		*flags.ImplementationProject,
		*flags.ImplementationURL,
		*flags.ImplementationVersion,
		*flags.ImplementationContact,
		*flags.ImplementationAdditionalInformation,
	)
	check(t, err)

	// In these, every probe is an SCTP association.
	var sctp []string
	for _, test := range tests.ConformanceTests {
		if strings.Contains(test.ShortName, "SCTP") {
			sctp = append(sctp, test.ShortName)
		}
	}
	profile, err := suite.NewConformanceProfileTestSuite(suite.ConformanceProfileOptions{
		Options: suite.Options{
			Client:                     c,
			ClientSet:                  clientSet,
			KubeConfig:                 *cluster,
			CleanupBaseResources:       *flags.CleanupBaseResources,
			EnableAllSupportedFeatures: true,
			SkipTests:                  sctp,
			// Upstream's 3 s for a connection and 500 ms between two tries are for clusters far away: a
			// probe that must fail takes two timeouts, and there are more than a hundred.
			TimeoutConfig: timeouts.TimeoutConfig{
				RequestTimeout: time.Second,
				PokeInterval:   100 * time.Millisecond,
			},
		},
		Implementation:      *implementation,
		ConformanceProfiles: sets.New(suite.CNPConformanceProfileName),
	})
	check(t, err)
	profile.Setup(t)
	check(t, profile.Run(t, tests.ConformanceTests))
	report, err := profile.Report()
	check(t, err)
	document, err := yaml.Marshal(report)
	check(t, err)
	if *flags.ReportOutput != "" {
		check(t, os.WriteFile(*flags.ReportOutput, document, 0o644))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
