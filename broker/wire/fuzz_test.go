package wire_test

import (
	"bytes"
	"reflect"
	"testing"

	"rialto/p2p/identity"
)

// fuzz opens arbitrary payloads, well signed, as the named message: no panic, and what opens has this one encoding.
// Envelopes are fuzzed in rialto/p2p/identity.
func fuzz(f *testing.F, name string) {
	f.Helper()
	k := zeroKey(f)
	var m message
	for _, each := range allMessages(k) {
		if each.name == name {
			m = each
		}
	}
	domain := "rialto/1/" + name
	for _, x := range m.samples {
		envelope, err := m.seal(k, x)
		if err != nil {
			f.Fatal(err)
		}
		payload, _, err := identity.Open(domain, envelope)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload []byte) {
		envelope, err := identity.Seal(k, domain, payload)
		if err != nil {
			return
		}
		x, _, err := m.open(envelope)
		if err != nil {
			return
		}
		again, err := m.seal(k, x)
		if err != nil || !bytes.Equal(again, envelope) {
			t.Fatalf("sealed again: %v\n%x\n%x", err, again, envelope)
		}
		if y, _, err := m.open(again); err != nil || !reflect.DeepEqual(x, y) {
			t.Errorf("got %+v, %v\nwant %+v", y, err, x)
		}
	})
}

func FuzzOfferSet(f *testing.F)  { fuzz(f, "offerset") }
func FuzzJobSpec(f *testing.F)   { fuzz(f, "jobspec") }
func FuzzBidChange(f *testing.F) { fuzz(f, "bidchange") }
func FuzzHold(f *testing.F)      { fuzz(f, "hold") }
func FuzzAnswer(f *testing.F)    { fuzz(f, "answer") }
func FuzzConfirm(f *testing.F)   { fuzz(f, "confirm") }
func FuzzRelease(f *testing.F)   { fuzz(f, "release") }
func FuzzReport(f *testing.F)    { fuzz(f, "report") }
func FuzzTrace(f *testing.F)     { fuzz(f, "trace") }
func FuzzPoison(f *testing.F)    { fuzz(f, "poison") }
func FuzzAdvice(f *testing.F)    { fuzz(f, "advice") }
func FuzzRenewal(f *testing.F)   { fuzz(f, "renewal") }
func FuzzReceipt(f *testing.F)   { fuzz(f, "receipt") }
