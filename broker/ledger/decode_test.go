package ledger

import (
	"bytes"
	"reflect"
	"testing"
)

func FuzzDecodeMutation(f *testing.F) {
	f.Add(encodeMutation(Mutation{Key: "key", Value: []byte("value"), New: true}))
	f.Add(encodeMutation(Mutation{Key: "k"}))
	f.Add([]byte{0, 255, 255, 1})
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := decodeMutation(p)
		if err == nil && !bytes.Equal(encodeMutation(m), p) {
			t.Errorf("%x decodes to %+v, which encodes differently", p, m)
		}
	})
}

func FuzzDecodeHeader(f *testing.F) {
	f.Add(uint64(7), encodeHeader(&Batch{Seq: 7, Epoch: 2, ID: "2-1", Hash: Hash{1}, Mutations: make([]Mutation, 3)}))
	f.Add(uint64(0), []byte{})
	f.Fuzz(func(t *testing.T, seq uint64, p []byte) {
		b, count, err := decodeHeader(seq, p)
		if err != nil {
			return
		}
		b.Mutations = make([]Mutation, count)
		if !bytes.Equal(encodeHeader(&b), p) {
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
