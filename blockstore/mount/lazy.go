package mount

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"rialto/blockstore"
	"rialto/blockstore/erofs"
	"rialto/blockstore/mount/internal/wire"
)

// virtual places files on the virtual device, each in one piece.
type virtual struct{ layout *blockstore.Layout }

func (v virtual) Devices() []int64 { return devices(v.layout.Size, 1) }

func (v virtual) Chunks(n *blockstore.Node, places []erofs.Place) (int64, []erofs.Place) {
	return chunkFor(n.Size), append(places, erofs.Place{Device: 1, Addr: v.layout.File(n)})
}

// alternating places files on two names of the virtual device, each leaf on the other one than that before it. So no
// request of the kernel spans two leaves, and none is larger than what FUSE asks in one piece.
type alternating struct{ layout *blockstore.Layout }

func (v alternating) Devices() []int64 { return devices(v.layout.Size, 2) }

func (v alternating) Chunks(n *blockstore.Node, places []erofs.Place) (int64, []erofs.Place) {
	size := min(chunkFor(n.Size), blockstore.MaxBlock)
	at := v.layout.File(n)
	for o := int64(0); o < n.Size; o += size {
		places = append(places, erofs.Place{Device: 1 + int(o/size)%2, Addr: at + o})
	}
	return size, places
}

func devices(size int64, n int) []int64 {
	if size == 0 {
		return nil
	}
	return slices.Repeat([]int64{size}, n)
}

// chunkFor returns the smallest chunk that holds a file.
func chunkFor(size int64) int64 {
	chunk := int64(blockstore.Page)
	for chunk < size {
		chunk *= 2
	}
	return chunk
}

// mountLazy mounts a tree whose data are served.
func (m *Mounts) mountLazy(ctx context.Context, at string, root blockstore.CID, t *blockstore.Tree, rec *record) error {
	if err := m.publish(ctx, root, t); err != nil {
		return err
	}
	if rec.Device = m.device(); rec.Device == 0 {
		return errGone
	}
	direct := rec.Tier == Loop || m.cfg.Can.ShortReads != nil
	meta, name, count := m.metaPath(root, t.Private(), direct), root.String(), 1
	if direct {
		name, count = name+wire.Direct, 2
	}
	err := m.make(t, meta, func(w io.Writer) error {
		if direct {
			return erofs.Write(w, t, alternating{t.Layout()})
		}
		return erofs.Write(w, t, virtual{t.Layout()})
	})
	if err != nil {
		return err
	}
	if len(t.Blocks) == 0 {
		count = 0
	}
	files := slices.Repeat([]string{filepath.Join(m.serverDir(), wire.DeviceDir, name)}, count)
	if rec.Tier == Loop {
		return mountLoop(at, meta, files)
	}
	return mountFile(at, meta, files)
}

// publish has the server serve a tree's virtual device.
func (m *Mounts) publish(ctx context.Context, root blockstore.CID, t *blockstore.Tree) error {
	table := m.tablePath(root, t.Private())
	q := wire.Request{Op: wire.OpAdd, Root: root, Table: table, Deadline: m.cfg.Deadline}
	if t.Private() {
		q.Secret = wire.NewSecret()
	}
	err := m.make(t, table, func(w io.Writer) error {
		b, err := wire.NewTable(t, t.Layout()).Encode(q.Secret)
		if err == nil {
			_, err = w.Write(b)
		}
		return err
	})
	if err != nil {
		return err
	}
	_, err = m.call(ctx, q)
	for range 3 { // a server that ends by itself may do so right now
		if !errors.Is(err, errGone) {
			break
		}
		if err = m.ensure(ctx); err == nil {
			_, err = m.call(ctx, q)
		}
	}
	return err
}

func (m *Mounts) tablePath(root blockstore.CID, private bool) string {
	if private {
		return filepath.Join(m.privateDir(root), "slots")
	}
	return filepath.Join(m.cfg.Dir, "tables", root.String()+".slots")
}

func (m *Mounts) metaPath(root blockstore.CID, private, direct bool) string {
	kind := "cached.erofs"
	if direct {
		kind = "direct.erofs"
	}
	if private {
		return filepath.Join(m.privateDir(root), kind)
	}
	return filepath.Join(m.cfg.Dir, "meta", root.String()+"-"+kind)
}

// make makes a file of a tree. That of a private tree is made anew for each mount.
func (m *Mounts) make(t *blockstore.Tree, path string, write func(io.Writer) error) error {
	if !t.Private() {
		return m.artifact(path, write)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return writeOnly(path, write)
}

// stamp tells whether a file was touched since it was last compared with its sum.
type stamp struct {
	ino, size    uint64
	mtime, ctime unix.Timespec
	sum          string
}

func stampOf(path, sum string) (stamp, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return stamp{}, err
	}
	return stamp{st.Ino, uint64(st.Size), st.Mtim, st.Ctim, sum}, nil
}

// intact reports whether a file has the sha256 sum. It reads the file once; later its inode tells.
func (m *Mounts) intact(path, sum string) bool {
	now, err := stampOf(path, sum)
	if err != nil {
		return false
	}
	m.mu.Lock()
	before := m.sums[path]
	m.mu.Unlock()
	if before == now {
		return true
	}
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.CopyBuffer(h, f, make([]byte, 1<<20)); err != nil || hex.EncodeToString(h.Sum(nil)) != sum {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sums[path] = now
	return true
}

// sumSuffix names the file that holds another one's sum.
const sumSuffix = ".sha256"

// artifact makes a file, unless it is there and what it was when it was made.
func (m *Mounts) artifact(path string, write func(io.Writer) error) error {
	sum, err := os.ReadFile(path + sumSuffix)
	if err == nil && m.intact(path, strings.TrimSpace(string(sum))) {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	got, err := writeFile(path, write)
	if err != nil {
		return err
	}
	if _, err = writeFile(path+sumSuffix, func(w io.Writer) error {
		_, err := io.WriteString(w, got+"\n")
		return err
	}); err != nil {
		return err
	}
	now, err := stampOf(path, got)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sums[path] = now
	return nil
}

func hexSum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// newSuffix ends the name of a file while it is written.
const newSuffix = ".new"

// sweepNew removes what is written no more.
func sweepNew(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), newSuffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeFile replaces a file in one step and returns its sha256 in hex. The disk has it when it returns.
func writeFile(path string, write func(io.Writer) error) (string, error) {
	h := sha256.New()
	err := replace(path, func(f *os.File) error {
		b := bufio.NewWriterSize(f, 1<<20)
		if err := write(io.MultiWriter(b, h)); err != nil {
			return err
		}
		if err := b.Flush(); err != nil {
			return err
		}
		return f.Sync()
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// writeOnly replaces a file in one step. Nobody wants it after a crash.
func writeOnly(path string, write func(io.Writer) error) error {
	return replace(path, func(f *os.File) error {
		b := bufio.NewWriterSize(f, 1<<20)
		if err := write(b); err != nil {
			return err
		}
		return b.Flush()
	})
}

func replace(path string, write func(*os.File) error) error {
	f, err := os.OpenFile(path+newSuffix, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err = write(f); err == nil {
		err = os.Rename(path+newSuffix, path)
	}
	if err != nil {
		_ = os.Remove(path + newSuffix) // not worth another error
	}
	return err
}
