package api

import (
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rialto_api_requests_total", Help: "Requests by operation and status.",
		}, []string{"operation", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rialto_api_request_seconds", Help: "Time to answer; event streams last as long as they are read.",
			Buckets: prometheus.ExponentialBuckets(1e-4, 4, 10),
		}, []string{"operation"}),
	}
	reg.MustRegister(m.requests, m.seconds)
	return m
}

func (m *metrics) middleware(ctx huma.Context, next func(huma.Context)) {
	begun := time.Now()
	next(ctx)
	op := ctx.Operation().OperationID
	m.requests.WithLabelValues(op, strconv.Itoa(ctx.Status())).Inc()
	m.seconds.WithLabelValues(op).Observe(time.Since(begun).Seconds())
}
