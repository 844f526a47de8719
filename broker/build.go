package broker

import "time"

// BuildState says how far a broker is with the root of an image.
type BuildState string

// States of a build. What a broker never heard of has none.
const (
	BuildReady   BuildState = "ready"
	BuildRunning BuildState = "building" // it runs, or waits for its turn
	BuildFailed  BuildState = "failed"   // a moment ago; it may be asked for again later
)

// ImageBuild is what a broker knows about the root of an image.
//
// Once it is ready, the broker vouches for the root: it read the layers that Digest names, each checked against its
// own digest, and Root is what they add up to. A customer who trusts the broker with that signs the root in his spec.
type ImageBuild struct {
	Digest string // "sha256:…"
	State  BuildState
	Root   string    // CID, when ready
	Bytes  int64     // of the layers, as the registry has them; zero while not known
	Done   int64     // of Bytes, read so far
	Built  time.Time // when ready
	Error  string    // when failed
}
