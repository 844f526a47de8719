package blockstore_test

import (
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) blockstore.Store { return new(blockstore.Memory) })
}
