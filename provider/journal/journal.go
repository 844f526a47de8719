// Package journal is the agent's durable memory: a Badger store of one record per lease and one epoch
// per GPU.
//
// Keys and values:
//
//	"v"            the format's version, decimal: 2
//	"e/" + uuid    the GPU's highest epoch, 8 bytes big endian; never deleted, never lowered
//	"l/" + lease   a provider.Record as JSON, see record.go; StateGone is an explicit value
//
// Rules, each the answer to a reproduced loss: every commit is synchronous (a later Sync misses
// rotated write-ahead logs), values stay inline and the value log is never collected (collection
// brought deleted keys back), nothing depends on a delete (a record that came back would be gone by
// its state, and its epochs stale), and Open is tried once more (a kill between creating and sizing a
// log file fails the first Open and only that). After a failed commit the caller must stop.
package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/dgraph-io/badger/v4"

	"rialto/broker"
	"rialto/provider"
)

const (
	formatVersion = "2"
	versionKey    = "v"
	epochPrefix   = "e/"
	leasePrefix   = "l/"

	// maxRecord is far below Badger's threshold of 1 MiB above which values leave the tree.
	maxRecord = 900 << 10
)

// Config says where the journal is.
type Config struct {
	Dir    string
	Logger *slog.Logger // nil: discard
}

// Journal implements [provider.Journal].
type Journal struct {
	db *badger.DB
}

var _ provider.Journal = (*Journal)(nil)

// Open opens or creates the journal. Only one process can have it open.
func Open(c Config) (*Journal, error) {
	if c.Dir == "" {
		return nil, errors.New("open journal: no directory given")
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	opts := badger.DefaultOptions(c.Dir).
		WithSyncWrites(true).
		WithLogger(badgerLog{log}).
		WithMetricsEnabled(false).
		// A host has tens of leases: small tables keep the agent's memory and disk small.
		WithMemTableSize(8 << 20).
		WithValueLogFileSize(16 << 20).
		WithNumMemtables(2).
		WithBlockCacheSize(4 << 20).
		WithNumCompactors(2)
	db, err := badger.Open(opts)
	if err != nil && strings.Contains(err.Error(), "Create a new file") {
		db, err = badger.Open(opts)
	}
	if err != nil {
		return nil, fmt.Errorf("open journal %s: %w", c.Dir, err)
	}
	j := &Journal{db: db}
	if err := j.checkVersion(); err != nil {
		return nil, errors.Join(fmt.Errorf("open journal %s: %w", c.Dir, err), db.Close())
	}
	return j, nil
}

// Close closes the journal.
func (j *Journal) Close() error { return j.db.Close() }

func (j *Journal) checkVersion() error {
	return j.db.Update(func(tx *badger.Txn) error {
		item, err := tx.Get([]byte(versionKey))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return tx.Set([]byte(versionKey), []byte(formatVersion))
		}
		if err != nil {
			return err
		}
		return item.Value(func(v []byte) error {
			if string(v) != formatVersion {
				return fmt.Errorf("format version %q, this agent knows %s", v, formatVersion)
			}
			return nil
		})
	})
}

// Epochs implements [provider.Journal].
func (j *Journal) Epochs(ctx context.Context) (map[string]uint64, error) {
	epochs := make(map[string]uint64)
	err := j.each(ctx, epochPrefix, func(key string, value []byte) error {
		if len(value) != 8 {
			return fmt.Errorf("epoch of %s: %d bytes", key, len(value))
		}
		epochs[key] = binary.BigEndian.Uint64(value)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return epochs, nil
}

// Records implements [provider.Journal].
func (j *Journal) Records(ctx context.Context) ([]provider.Record, error) {
	var records []provider.Record
	err := j.each(ctx, leasePrefix, func(key string, value []byte) error {
		r, err := decode(value)
		if err != nil {
			return fmt.Errorf("record %s: %w", key, err)
		}
		if string(r.Lease) != key {
			return fmt.Errorf("record %s: names lease %s", key, r.Lease)
		}
		if r.State != provider.StateGone {
			records = append(records, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	return records, nil
}

// Save implements [provider.Journal]. A record that is gone is stored without its secrets.
func (j *Journal) Save(ctx context.Context, r provider.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if r.State == provider.StateGone {
		r = provider.Record{Lease: r.Lease, Job: r.Job, Broker: r.Broker, State: r.State, GPUs: r.GPUs}
	}
	value, err := encode(r)
	if err != nil {
		return fmt.Errorf("save lease %s: %w", r.Lease, err)
	}
	err = j.db.Update(func(tx *badger.Txn) error {
		for _, g := range r.GPUs {
			if err := raise(tx, g); err != nil {
				return err
			}
		}
		return tx.Set([]byte(leasePrefix+string(r.Lease)), value)
	})
	if err != nil {
		return fmt.Errorf("save lease %s: %w", r.Lease, err)
	}
	return nil
}

// Forget deletes the records that are gone, up to limit of them, so that the journal does not grow
// for ever. Nothing depends on it.
func (j *Journal) Forget(ctx context.Context, limit int) error {
	var gone []string
	err := j.each(ctx, leasePrefix, func(key string, value []byte) error {
		r, err := decode(value)
		if err == nil && r.State == provider.StateGone && len(gone) < limit {
			gone = append(gone, key)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	err = j.db.Update(func(tx *badger.Txn) error {
		for _, key := range gone {
			if err := tx.Delete([]byte(leasePrefix + key)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget: %w", err)
	}
	return nil
}

func (j *Journal) each(ctx context.Context, prefix string, visit func(key string, value []byte) error) error {
	return j.db.View(func(tx *badger.Txn) error {
		it := tx.NewIterator(badger.IteratorOptions{PrefetchValues: true, PrefetchSize: 64, Prefix: []byte(prefix)})
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := ctx.Err(); err != nil {
				return err
			}
			key := string(it.Item().Key()[len(prefix):])
			if err := it.Item().Value(func(v []byte) error { return visit(key, v) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// raise makes a GPU's stored epoch at least g.Epoch.
func raise(tx *badger.Txn, g broker.GPULease) error {
	key := []byte(epochPrefix + g.UUID)
	item, err := tx.Get(key)
	switch {
	case errors.Is(err, badger.ErrKeyNotFound):
	case err != nil:
		return err
	default:
		var known uint64
		err := item.Value(func(v []byte) error {
			if len(v) != 8 {
				return fmt.Errorf("epoch of %s: %d bytes", g.UUID, len(v))
			}
			known = binary.BigEndian.Uint64(v)
			return nil
		})
		if err != nil || known >= g.Epoch {
			return err
		}
	}
	return tx.Set(key, binary.BigEndian.AppendUint64(nil, g.Epoch))
}

// badgerLog passes the warnings of Badger on.
type badgerLog struct{ log *slog.Logger }

func (l badgerLog) Errorf(format string, args ...any) {
	l.log.Error("badger", slog.String("text", strings.TrimSpace(fmt.Sprintf(format, args...))))
}

func (l badgerLog) Warningf(format string, args ...any) {
	l.log.Warn("badger", slog.String("text", strings.TrimSpace(fmt.Sprintf(format, args...))))
}

func (badgerLog) Infof(string, ...any)  {}
func (badgerLog) Debugf(string, ...any) {}
