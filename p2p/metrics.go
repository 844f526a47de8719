package p2p

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// outcome is how a request ended, as a metric's label.
type outcome string

const (
	answered outcome = "answered"
	failed   outcome = "error"   // the handler returned an error
	panicked outcome = "panic"   // the handler panicked
	refused  outcome = "refused" // too long, or too many at the same time
	aborted  outcome = "aborted" // its stream broke, or its bytes did not arrive in time
)

type metrics struct {
	peers    prometheus.Gauge
	requests *prometheus.HistogramVec // side, protocol, outcome
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		peers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "rialto_p2p_peers", Help: "Peers with at least one connection.",
		}),
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rialto_p2p_request_duration_seconds",
			Help: "Requests by side (client or server), protocol and outcome.",
			// From a loopback answer to the default handler timeout.
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60},
		}, []string{"side", "protocol", "outcome"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.peers, m.requests} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) served(protocolName string, o outcome, took time.Duration) {
	m.requests.WithLabelValues("server", protocolName, string(o)).Observe(took.Seconds())
}

func (m *metrics) requested(protocolName string, err error, took time.Duration) {
	o := answered
	if err != nil {
		o = failed
	}
	m.requests.WithLabelValues("client", protocolName, string(o)).Observe(took.Seconds())
}
