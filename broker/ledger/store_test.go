package ledger_test

import (
	"testing"

	"rialto/broker/ledger"
	"rialto/broker/ledger/ledgertest"
)

// plenty is a disk with room, whatever the machine has.
func plenty(string) (uint64, error) { return 1 << 40, nil }

func openBadger(t *testing.T, dir string) *ledger.Badger {
	t.Helper()
	s, err := ledger.Open(t.Context(), ledger.Config{Dir: dir, Free: plenty})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func TestMemory(t *testing.T) {
	ledgertest.Run(t, func(*testing.T) ledger.Store { return new(ledger.Memory) })
}

func TestBadger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledger.Store {
		t.Helper()
		return openBadger(t, t.TempDir())
	})
}
