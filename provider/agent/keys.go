package agent

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"rialto/blockstore"
	"rialto/provider"
	"rialto/tunnel/console"
)

// keyPatience is how long a leased workload waits for the keys of its private image and weights. A customer's machine
// brings them within seconds of the lease; the GPUs earn nothing until then.
const keyPatience = time.Minute

var errNoKey = errors.New("no key came within " + keyPatience.String() +
	" of the lease: `rialto run` brings it while it stays, `rialto run -d` to the first host alone; start the job again")

// keyring is what opens the private image and weights of one workload. The customer brings the keys through the lease's
// tunnel. They are here until image and weights are shown, in memory alone: after that the mount server has what it
// needs to decrypt, and it outlives the agent. A workload that only the next agent starts gets its keys from the customer
// again.
type keyring struct {
	wanted []string // roots

	mu      sync.Mutex
	keys    map[string]blockstore.Key
	used    bool          // nobody needs them any more
	changed chan struct{} // closed and replaced when a key comes
	all     func()        // is called when each root has its key
}

func newKeyring(roots []string) *keyring {
	return &keyring{wanted: roots, keys: make(map[string]blockstore.Key), changed: make(chan struct{}), all: func() {}}
}

// expect has all called when each root has its key, unless that is so already.
func (k *keyring) expect(all func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.all = all
}

// put takes a key from the customer. One that comes again takes the place of the first.
func (k *keyring) put(root string, key blockstore.Key) error {
	if !slices.Contains(k.wanted, root) {
		return console.ErrNotPrivate
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.used {
		return nil
	}
	_, again := k.keys[root]
	k.keys[root] = key
	close(k.changed)
	k.changed = make(chan struct{})
	if !again && len(k.keys) == len(k.wanted) {
		k.all()
	}
	return nil
}

// get returns a key, or what is closed when another one has come.
func (k *keyring) get(root string) (key blockstore.Key, ok bool, changed <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	key, ok = k.keys[root]
	return key, ok, k.changed
}

// forget drops all keys.
func (k *keyring) forget() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.keys)
	k.used = true
}

// running reports whether the workload's process was started, perhaps by an earlier agent.
func (w *workload) running() bool { return w.record().State == provider.StateRunning }

// unlock returns how the images get the key of a root: nil for what is public, and for a workload that an earlier agent
// started, which it was opened for then.
func (w *workload) unlock(private bool, root string) func(context.Context) (blockstore.Key, error) {
	if !private || w.running() {
		return nil
	}
	return func(ctx context.Context) (blockstore.Key, error) {
		confirmed := w.confirmed
		var late <-chan time.Time
		for {
			key, ok, changed := w.keys.get(root)
			if ok {
				return key, nil
			}
			select {
			case <-changed:
			case <-confirmed:
				confirmed = nil
				timer := time.NewTimer(keyPatience)
				defer timer.Stop() // the loop comes here once
				late = timer.C
			case <-late:
				return blockstore.Key{}, errNoKey
			case <-ctx.Done():
				return blockstore.Key{}, context.Cause(ctx)
			}
		}
	}
}
