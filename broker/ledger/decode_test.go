package ledger

import (
	"bytes"
	"reflect"
	"testing"
)

func FuzzDecodeBatch(f *testing.F) {
	sealed := func(b Batch) []byte {
		content, _ := encodeMutations(b.Mutations)
		return encodeRecord(&b, content)[4:]
	}
	f.Add(sealed(Batch{Seq: 7, Epoch: 2, ID: "2-1", Hash: Hash{1}, Mutations: []Mutation{{Key: "key", Value: []byte("value"), New: true}, {Key: "k"}}}))
	f.Add(sealed(Batch{ID: "none"}))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, p []byte) {
		body, err := decompress(p)
		if err != nil {
			return
		}
		b, content, err := decodeBody(body)
		if err != nil {
			return
		}
		again, err := decompress(encodeRecord(&b, content)[4:])
		encoded, _ := encodeMutations(b.Mutations)
		if err != nil || !bytes.Equal(again, body) || !bytes.Equal(encoded, content) {
			t.Errorf("%x decodes to %+v, which encodes differently", body, b)
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
