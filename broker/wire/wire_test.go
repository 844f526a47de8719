package wire_test

import (
	"errors"
	"reflect"
	"testing"

	"rialto/broker"
	"rialto/broker/wire"
	"rialto/p2p/identity"
)

// message is one message's pair of functions with its samples, without their types.
type message struct {
	name    string
	samples []any
	seal    func(identity.Key, any) ([]byte, error)
	open    func([]byte) (any, broker.PeerID, error)
}

func newMessage[X any](
	name string, seal func(identity.Key, X) ([]byte, error), open func([]byte) (X, broker.PeerID, error), samples ...X,
) message {
	m := message{
		name: name,
		seal: func(k identity.Key, x any) ([]byte, error) { return seal(k, x.(X)) },
		open: func(b []byte) (any, broker.PeerID, error) { return open(b) },
	}
	for _, s := range samples {
		m.samples = append(m.samples, s)
	}
	return m
}

// allMessages lists every message of the wire, with samples for the party of the given key.
func allMessages(k identity.Key) []message {
	id := peerID(k)
	return []message{
		newMessage("offerset", wire.SealOfferSet, wire.OpenOfferSet, sampleOfferSet(id)),
		newMessage("jobspec", wire.SealJobSpec, wire.OpenJobSpec, sampleJobSpec(id), samplePrivate(id)),
		newMessage("bidchange", wire.SealBidChange, wire.OpenBidChange, sampleBidChange(id)),
		newMessage("hold", wire.SealHold, wire.OpenHold, sampleHold(id)),
		newMessage("answer", wire.SealAnswer, wire.OpenAnswer, sampleAnswers()...),
		newMessage("confirm", wire.SealConfirm, wire.OpenConfirm, sampleConfirm()),
		newMessage("release", wire.SealRelease, wire.OpenRelease, sampleRelease()),
		newMessage("report", wire.SealReport, wire.OpenReport, sampleReport(id), sampleBroken()),
		newMessage("trace", wire.SealTrace, wire.OpenTrace, sampleTraceReport()),
		newMessage("poison", wire.SealPoison, wire.OpenPoison, samplePoison(id)),
		newMessage("advice", wire.SealAdvice, wire.OpenAdvice, sampleAdvice()),
		newMessage("renewal", wire.SealRenewal, wire.OpenRenewal, sampleRenewal()),
		newMessage("receipt", wire.SealReceipt, wire.OpenReceipt, sampleReceipt(id)),
	}
}

// Every exported field of the vocabulary survives a round trip. When a field is added to the vocabulary, this
// test asks for a sample of it, and then for its conversion.
func TestEveryFieldSurvives(t *testing.T) {
	k := newKey(t)
	for _, m := range allMessages(k) {
		set := map[string]bool{}
		for _, want := range m.samples {
			envelope, err := m.seal(k, want)
			if err != nil {
				t.Errorf("%s: %v", m.name, err)
				continue
			}
			got, signer, err := m.open(envelope)
			if err != nil || signer != peerID(k) || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, %s, %v\nwant %+v, %s", m.name, got, signer, err, want, k.ID())
			}
			fields(m.name, reflect.ValueOf(want), set)
		}
		for field, ok := range set {
			if !ok {
				t.Errorf("%s is in no sample", field)
			}
		}
	}
}

// fields notes for each exported field below v whether any sample sets it.
func fields(path string, v reflect.Value, set map[string]bool) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			fields(path, v.Elem(), set)
		}
	case reflect.Slice:
		for i := range v.Len() {
			fields(path, v.Index(i), set)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				name := path + "." + f.Name
				set[name] = set[name] || !v.Field(i).IsZero()
				fields(name, v.Field(i), set)
			}
		}
	default: // nothing below it
	}
}

func TestEnvelopesAreNotInterchangeable(t *testing.T) {
	k := newKey(t)
	for _, from := range allMessages(k) {
		envelope, err := from.seal(k, from.samples[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, to := range allMessages(k) {
			if _, _, err := to.open(envelope); to.name != from.name && !errors.Is(err, broker.ErrInvalid) {
				t.Errorf("a %s opened as a %s: %v, want ErrInvalid", from.name, to.name, err)
			}
		}
	}
}

// One bit of each byte; rialto/p2p/identity flips them all.
func TestBitFlipsAreRefused(t *testing.T) {
	k := newKey(t)
	for _, m := range allMessages(k) {
		envelope, err := m.seal(k, m.samples[0])
		if err != nil {
			t.Fatal(err)
		}
		for i := range envelope {
			envelope[i] ^= 1 << (i % 8)
			if _, _, err := m.open(envelope); !errors.Is(err, broker.ErrInvalid) {
				t.Errorf("%s: bit %d of byte %d flipped: %v, want ErrInvalid", m.name, i%8, i, err)
			}
			envelope[i] ^= 1 << (i % 8)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b)
	for _, m := range allMessages(k) {
		b.Run(m.name, func(b *testing.B) {
			envelope, err := m.seal(k, m.samples[0])
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := m.open(envelope); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
