package ledger

import (
	"bytes"
	"reflect"
	"testing"
)

func FuzzDecodeBatch(f *testing.F) {
	sealed := func(b Batch) []byte { return encodeRecord(&b, encodeMutations(b.Mutations)) }
	f.Add(sealed(Batch{Seq: 7, Epoch: 2, ID: "2-1", Hash: Hash{1}, Mutations: []Mutation{{Key: "key", Value: []byte("value"), New: true}, {Key: "k"}}}))
	f.Add(sealed(Batch{ID: "none"}))
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < 4 {
			return
		}
		b, content, err := decodeRecord(p[4:])
		if err != nil {
			return
		}
		if got := encodeRecord(&b, content); !bytes.Equal(got[4:], p[4:]) || !bytes.Equal(encodeMutations(b.Mutations), content) {
			t.Errorf("%x decodes to %+v, which encodes differently", p, b)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"ID":"j-1","State":"queued","Stopping":8,"Hold":"$1.00","Log":[{"Seq":1,"State":"done"}]}`))
	f.Add([]byte(`{"Stopping":300}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		var r, again jobRecord
		if decode(Entry{Key: "job/x", Value: p}, &r) != nil {
			return
		}
		m, err := record("job/x", r, false)
		if err != nil {
			return // a state without a word, which no market saves
		}
		if err := decode(Entry{Key: m.Key, Value: m.Value}, &again); err == nil && !reflect.DeepEqual(r, again) {
			t.Errorf("%s changes when it is saved again: %+v, %+v", p, r, again)
		}
	})
}
