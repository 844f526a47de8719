package service

import (
	"github.com/prometheus/client_golang/prometheus"

	"rialto/broker"
)

// metrics is what an operator watches.
type metrics struct {
	events  prometheus.Counter
	refused prometheus.Counter
	batch   prometheus.Histogram
	commit  prometheus.Histogram
	queue   prometheus.Gauge
	offers  prometheus.Gauge
	gpus    *prometheus.GaugeVec
	builds  *prometheus.CounterVec
	build   prometheus.Histogram
	hints   *prometheus.CounterVec

	accusations *prometheus.CounterVec
	distrusted  prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, v *view) *metrics {
	m := &metrics{
		events:  prometheus.NewCounter(prometheus.CounterOpts{Name: "rialto_broker_events_total", Help: "Events that stepped the market."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "rialto_broker_refused_events_total", Help: "Events that the market refused."}),
		batch: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rialto_broker_batch_records", Help: "Records per durable batch.", Buckets: prometheus.ExponentialBuckets(1, 2, 12),
		}),
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rialto_broker_commit_seconds", Help: "Time to make a batch durable.", Buckets: prometheus.ExponentialBuckets(1e-4, 2, 16),
		}),
		queue:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "rialto_broker_queue_events", Help: "Events that wait for the writer."}),
		offers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "rialto_broker_offers", Help: "Live offers."}),
		gpus: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "rialto_broker_gpus", Help: "GPUs of live offers, by whether they can be leased now.",
		}, []string{"state"}),
		builds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "rialto_broker_image_builds_total", Help: "Builds of image roots by outcome: ready, failed, or refused because too many wait.",
		}, []string{"outcome"}),
		build: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "rialto_broker_image_build_seconds", Help: "Time to build the root of an image, or to fail.", Buckets: prometheus.ExponentialBuckets(0.1, 2, 15),
		}),
	}
	m.hints = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rialto_broker_holds_traced_total", Help: "Holds by the trace that was sent with them: of the command, of others of the image, or none.",
	}, []string{"trace"})
	m.accusations = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rialto_broker_accusations_total", Help: "Providers' words that a peer sent wrong blocks, by whether they count.",
	}, []string{"counts"})
	m.distrusted = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "rialto_broker_distrusted_peers", Help: "Peers that are not named as sources of blocks.",
	})
	reg.MustRegister(m.accusations, m.distrusted)
	reg.MustRegister(m.events, m.refused, m.batch, m.commit, m.queue, m.offers, m.gpus, m.builds, m.build, m.hints, jobStates{
		v: v, desc: prometheus.NewDesc("rialto_broker_jobs", "Jobs by state.", []string{"state"}, nil),
	})
	return m
}

// observe reads the market; only the writer may call it.
func (m *metrics) observe(market *broker.Market, queued int) {
	offers := market.Offers()
	free, all := 0, 0
	for _, o := range offers {
		free += len(o.Free)
		all += len(o.GPUs)
	}
	m.queue.Set(float64(queued))
	m.offers.Set(float64(len(offers)))
	m.gpus.WithLabelValues("free").Set(float64(free))
	m.gpus.WithLabelValues("taken").Set(float64(all - free))
}

// jobStates counts jobs when asked.
type jobStates struct {
	v    *view
	desc *prometheus.Desc
}

func (j jobStates) Describe(c chan<- *prometheus.Desc) { c <- j.desc }

func (j jobStates) Collect(c chan<- prometheus.Metric) {
	for state, n := range j.v.states() {
		c <- prometheus.MustNewConstMetric(j.desc, prometheus.GaugeValue, float64(n), state.String())
	}
}
