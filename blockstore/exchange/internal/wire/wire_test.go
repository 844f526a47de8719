package wire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"rialto/blockstore"
)

func begun() error { return nil }

func names(n int) []blockstore.CID {
	cids := make([]blockstore.CID, n)
	for i := range cids {
		cids[i] = blockstore.Sum([]byte{byte(i), byte(i >> 8)})
	}
	return cids
}

func TestAsk(t *testing.T) {
	for _, want := range []Ask{{Want, names(1)}, {Want, names(MaxNames)}, {Cancel, names(7)}, {Have, names(MaxAsked)}, {Move, names(MaxNames)}} {
		got, err := ReadAsk(bytes.NewReader(AppendAsk(nil, want.Type, want.CIDs)), begun)
		if err != nil || got.Type != want.Type || !slices.Equal(got.CIDs, want.CIDs) {
			t.Errorf("%d of type %d: got %d of type %d, %v", len(want.CIDs), want.Type, len(got.CIDs), got.Type, err)
		}
	}
}

func TestBadAsk(t *testing.T) {
	whole := AppendAsk(nil, Want, names(2))
	tests := []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"a type alone", whole[:1], io.ErrUnexpectedEOF},
		{"cut", whole[:len(whole)-1], io.ErrUnexpectedEOF},
		{"unknown type", AppendAsk(nil, 5, names(1)), ErrFrame},
		{"type 0", AppendAsk(nil, 0, names(1)), ErrFrame},
		{"no names", AppendAsk(nil, Want, nil), ErrFrame},
		{"too many wants", AppendAsk(nil, Want, names(MaxNames+1)), ErrFrame},
		{"too many moved", AppendAsk(nil, Move, names(MaxNames+1)), ErrFrame},
		{"too many asked", AppendAsk(nil, Have, names(MaxAsked+1)), ErrFrame},
	}
	for _, tc := range tests {
		if _, err := ReadAsk(bytes.NewReader(tc.in), begun); !errors.Is(err, tc.want) {
			t.Errorf("%s: error = %v, want %v", tc.name, err, tc.want)
		}
	}
}

func TestAnswer(t *testing.T) {
	for _, want := range []Answer{
		{Data, 1}, {Data, blockstore.MaxBlock}, {Absent, 0}, {Busy, 0}, {Busy, MaxRetry}, {Cancelled, 0}, {Map, MaxAsked},
	} {
		got, err := ReadAnswer(bytes.NewReader(AppendAnswer(nil, want)), begun)
		if err != nil || got != want {
			t.Errorf("got %v, %v, want %v", got, err, want)
		}
	}
	for _, bad := range []Answer{
		{0, 0},
		{6, 0},
		{Data, 0},
		{Data, blockstore.MaxBlock + 1},
		{Absent, 1},
		{Busy, MaxRetry + 1},
		{Cancelled, 1},
		{Map, 0},
		{Map, MaxAsked + 1},
	} {
		if _, err := ReadAnswer(bytes.NewReader(AppendAnswer(nil, bad)), begun); !errors.Is(err, ErrFrame) {
			t.Errorf("%v: error = %v, want %v", bad, err, ErrFrame)
		}
	}
}

func TestBits(t *testing.T) {
	b := NewBits(11)
	b.Set(0)
	b.Set(10)
	if !bytes.Equal(b, []byte{0x80, 0x20}) || !b.Has(10) || b.Has(9) {
		t.Errorf("bits = %x", b)
	}
	if _, err := ReadBits(bytes.NewReader([]byte{0x80, 0x10}), 11); !errors.Is(err, ErrFrame) {
		t.Errorf("spare bit: error = %v", err)
	}
	if _, err := ReadBits(bytes.NewReader([]byte{0x80}), 11); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut: error = %v", err)
	}
}

// What is accepted is written again as it came.
func FuzzAsk(f *testing.F) {
	f.Add(AppendAsk(nil, Want, names(3)))
	f.Add(AppendAsk(nil, Cancel, names(1)))
	f.Add(AppendAsk(nil, Move, names(2)))
	f.Add(AppendAsk(AppendAsk(nil, Have, names(9)), Want, names(2)))
	f.Fuzz(func(t *testing.T, p []byte) {
		r := bytes.NewReader(p)
		var again []byte
		for {
			a, err := ReadAsk(r, begun)
			if err != nil {
				break
			}
			again = AppendAsk(again, a.Type, a.CIDs)
		}
		if !bytes.HasPrefix(p, again) {
			t.Errorf("%x was read as %x", p, again)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(append(AppendAnswer(nil, Answer{Data, 3}), "abc"...))
	f.Add(append(AppendAnswer(nil, Answer{Map, 11}), 0x80, 0x20))
	f.Add(AppendAnswer(AppendAnswer(nil, Answer{Busy, 500}), Answer{Absent, 0}))
	f.Fuzz(func(t *testing.T, p []byte) {
		r := bytes.NewReader(p)
		var again []byte
		for {
			a, err := ReadAnswer(r, begun)
			if err != nil {
				break
			}
			body := make([]byte, a.Follow())
			if a.Type == Map {
				body, err = ReadBits(r, a.Value)
			} else {
				_, err = io.ReadFull(r, body)
			}
			if err != nil {
				break
			}
			again = append(AppendAnswer(again, a), body...)
		}
		if !bytes.HasPrefix(p, again) {
			t.Errorf("%x was read as %x", p, again)
		}
	})
}
