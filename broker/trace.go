package broker

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"
)

// TracedCommand is what a broker knows about the blocks of an image that runs of one command read first.
type TracedCommand struct {
	Command string    // see CommandHash
	Runs    int       // that are remembered, of different providers
	Blocks  int       // of the longest of them
	Updated time.Time // when the newest of them was leased
}

// CommandHash names a job's command without telling it: SHA-256 over its arguments, each behind its length in eight
// bytes, in hexadecimal. The hash of no arguments stands for an image's own command.
func CommandHash(command []string) string {
	h := sha256.New()
	for _, argument := range command {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(argument))))
		h.Write([]byte(argument))
	}
	return hex.EncodeToString(h.Sum(nil))
}
