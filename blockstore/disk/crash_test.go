package disk_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"rialto/blockstore"
	"rialto/blockstore/disk"
	"rialto/blockstore/storetest"
)

const crashDir = "BLOCKSTORE_DISK_CRASH_DIR"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		writeUntilKilled(dir)
	}
	os.Exit(m.Run())
}

// crashBlock is the i-th block that the child writes.
func crashBlock(i int) blockstore.Block {
	p := fmt.Appendf(nil, "%*d", 1+(i*7919)%60_000, i)
	b, err := blockstore.NewBlock(p)
	if err != nil {
		panic(err)
	}
	return b
}

// writeUntilKilled puts, and now and then deletes, and tells of each batch that the store has confirmed.
func writeUntilKilled(dir string) {
	s, err := disk.Open(context.Background(), disk.Config{Dir: dir, Reserve: -1, PackSize: 1 << 20})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	const batch = 10
	for i := 0; ; i += batch {
		var blocks []blockstore.Block
		for j := range batch {
			blocks = append(blocks, crashBlock(i+j))
		}
		if err := s.Put(context.Background(), blocks...); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		fmt.Println(i + batch)
		if i >= batch {
			if err := s.Delete(context.Background(), crashBlock(i-batch).CID()); err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
		}
	}
}

// Killed at any moment, the store has every block that it confirmed, and not one wrong byte.
func TestKill(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 5 {
		dir := t.TempDir()
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), crashDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		confirmed := 0
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.Atoi(lines.Text()); err == nil {
				confirmed = n
			}
			if confirmed >= 50+round*37 && cmd.ProcessState == nil {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		checkAfterKill(t, dir, confirmed)
	}
}

func checkAfterKill(t *testing.T, dir string, confirmed int) {
	t.Helper()
	s := open(t, disk.Config{Dir: dir})
	defer s.Close()
	for i := range confirmed + 100 {
		want := crashBlock(i)
		has, err := s.Has(t.Context(), want.CID())
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Get(t.Context(), want.CID())
		deleted := i%10 == 0
		switch {
		case has && err != nil:
			t.Errorf("block %d of %d: %v", i, confirmed, err)
		case !has && !errors.Is(err, blockstore.ErrNotFound):
			t.Errorf("block %d is not here, but get says %v", i, err)
		case !has && i < confirmed && !deleted:
			t.Errorf("block %d of %d confirmed ones is lost", i, confirmed)
		}
	}
	more := storetest.Block(t, "after", 1000)
	if err := s.Put(t.Context(), more); err != nil {
		t.Error(err)
	}
}
