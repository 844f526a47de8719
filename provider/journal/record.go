package journal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"rialto/broker"
	"rialto/pricing"
	"rialto/provider"
	"rialto/tunnel"
)

// record is the stored form of a provider.Record. It differs in its private key, which the record
// hides from every printer. Adding a field that may be absent keeps the format's version.
type record struct {
	Lease       broker.LeaseID       `json:"lease"`
	Job         broker.JobID         `json:"job"`
	Broker      broker.PeerID        `json:"broker"`
	State       provider.State       `json:"state"`
	GPUs        []broker.GPULease    `json:"gpus"`
	Simulated   bool                 `json:"simulated,omitempty"`
	Spec        []byte               `json:"spec,omitempty"`
	Bid         []byte               `json:"bid,omitempty"`
	Sources     []broker.BlockSource `json:"sources,omitempty"`
	TunnelKey   string               `json:"tunnel_key,omitempty"`
	TunnelPort  uint16               `json:"tunnel_port,omitempty"`
	Answer      []byte               `json:"answer,omitempty"`
	Deadline    provider.Instant     `json:"deadline,omitzero"`
	TTL         time.Duration        `json:"ttl_ns,omitempty"`
	MaxDuration time.Duration        `json:"max_duration_ns,omitempty"`
	Rate        pricing.Rate         `json:"rate_nanousd_per_hour,omitempty"`
	Tariff      broker.Tariff        `json:"tariff,omitzero"`
	Report      broker.Report        `json:"report,omitzero"`
	Acked       uint64               `json:"acked,omitempty"`
	Counted     bool                 `json:"counted,omitempty"`
	Linger      time.Time            `json:"linger,omitzero"`
	Rank        int                  `json:"rank,omitempty"`
}

func encode(r provider.Record) ([]byte, error) {
	if r.Lease == "" || !r.State.Valid() {
		return nil, fmt.Errorf("record without lease or state: %w", broker.ErrInvalid)
	}
	stored := record{
		Lease: r.Lease, Job: r.Job, Broker: r.Broker, State: r.State, GPUs: r.GPUs, Simulated: r.Simulated,
		Spec: r.Spec, Bid: r.Bid, Sources: r.Sources, TunnelPort: r.TunnelPort, Answer: r.Answer,
		Deadline: r.Deadline, TTL: r.TTL, MaxDuration: r.MaxDuration, Rate: r.Rate, Tariff: r.Tariff, Report: r.Report, Acked: r.Acked, Counted: r.Counted,
		Linger: r.Linger.Round(0), Rank: r.Rank,
	}
	if r.TunnelKey != (tunnel.PrivateKey{}) {
		stored.TunnelKey = r.TunnelKey.Base64()
	}
	value, err := json.Marshal(stored)
	if err != nil {
		return nil, err
	}
	if len(value) > maxRecord {
		return nil, provider.ErrTooLarge
	}
	return value, nil
}

func decode(value []byte) (provider.Record, error) {
	var stored record
	d := json.NewDecoder(bytes.NewReader(value))
	d.DisallowUnknownFields()
	if err := d.Decode(&stored); err != nil {
		return provider.Record{}, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return provider.Record{}, errors.New("text after the record")
	}
	if stored.Lease == "" || !stored.State.Valid() {
		return provider.Record{}, fmt.Errorf("record without lease or state: %w", broker.ErrInvalid)
	}
	r := provider.Record{
		Lease: stored.Lease, Job: stored.Job, Broker: stored.Broker, State: stored.State, GPUs: stored.GPUs,
		Simulated: stored.Simulated, Spec: stored.Spec, Bid: stored.Bid, Sources: stored.Sources,
		TunnelPort: stored.TunnelPort, Answer: stored.Answer, Deadline: stored.Deadline, TTL: stored.TTL,
		MaxDuration: stored.MaxDuration, Rate: stored.Rate, Tariff: stored.Tariff, Report: stored.Report, Acked: stored.Acked, Counted: stored.Counted, Linger: stored.Linger,
		Rank: stored.Rank,
	}
	if stored.TunnelKey != "" {
		key, err := tunnel.ParsePrivateKey(stored.TunnelKey)
		if err != nil {
			return provider.Record{}, err
		}
		r.TunnelKey = key
	}
	return r, nil
}
