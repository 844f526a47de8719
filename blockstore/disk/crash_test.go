package disk_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"rialto/blockstore"
	"rialto/blockstore/disk"
)

const (
	crashDir   = "BLOCKSTORE_DISK_CRASH_DIR"
	openDir    = "BLOCKSTORE_DISK_OPEN_DIR"
	crashFirst = "BLOCKSTORE_DISK_CRASH_FIRST" // number of the first block to put
	killsVar   = "RIALTO_KILLS"                // rounds of the campaign
)

// TestMain lets the test binary be the process that is killed, or that Badger kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv(openDir); dir != "" {
		if err := openAndCompare(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(crashDir); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Println("error", err)
		}
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// crashBlock is the i-th block that a child puts: random bytes, mostly small, now and then large.
func crashBlock(i int) blockstore.Block {
	random := rand.New(rand.NewPCG(uint64(i), 7))
	size := 1 + random.IntN(20_000)
	if random.IntN(20) == 0 {
		size = 1 + random.IntN(blockstore.MaxBlock)
	}
	p := make([]byte, size)
	for j := range p {
		p[j] = byte(random.Uint32() >> 8)
	}
	b, err := blockstore.NewBlock(p)
	if err != nil {
		panic(err)
	}
	return b
}

// swept says which blocks a child's sweep does not keep.
func swept(c blockstore.CID) bool { return c[0]%8 == 0 }

// writeUntilKilled puts, deletes, sweeps and reads, says what it is about to do and what the store has
// confirmed, and kills itself at a random moment.
func writeUntilKilled(dir string) error {
	ctx := context.Background()
	first, err := strconv.Atoi(os.Getenv(crashFirst))
	if err != nil {
		return err
	}
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	kill := func() { self.Kill() }
	if rand.IntN(4) == 0 { // also while it opens
		time.AfterFunc(time.Duration(rand.Int64N(int64(30*time.Millisecond))), kill)
	}
	s, err := disk.Open(ctx, disk.Config{Dir: dir, Reserve: -1, PackSize: 1 << 20})
	if err != nil {
		return err
	}
	time.AfterFunc(time.Duration(rand.Int64N(int64(100*time.Millisecond))), kill)
	for i := first; ; {
		n := 1 + rand.IntN(12)
		var blocks []blockstore.Block
		for j := range n {
			blocks = append(blocks, crashBlock(i+j))
		}
		if err := s.Put(ctx, blocks...); err != nil {
			return err
		}
		fmt.Println("put", i, i+n)
		i += n
		switch rand.IntN(4) {
		case 0:
			victim := max(first, i-1-rand.IntN(40))
			fmt.Println("deleting", victim)
			if err := s.Delete(ctx, crashBlock(victim).CID()); err != nil {
				return err
			}
			fmt.Println("deleted", victim)
		case 1:
			fmt.Println("sweeping", i)
			if _, err := s.Sweep(ctx, func(c blockstore.CID) bool { return !swept(c) }); err != nil {
				return err
			}
			fmt.Println("swept", i)
		}
	}
}

// model is what is known of a store from what its process said before it died.
type model struct {
	put     map[int]bool // confirmed, and no delete or sweep of it was begun
	gone    map[int]bool // deletion confirmed
	started int          // blocks up to here may have been put
}

// tell reads a child's words. It returns what the child said was wrong.
func (m *model) tell(out *bufio.Scanner) error {
	for out.Scan() {
		word, rest, _ := strings.Cut(out.Text(), " ")
		numbers := strings.Fields(rest)
		n := func(i int) int {
			v, _ := strconv.Atoi(numbers[i])
			return v
		}
		switch word {
		case "put":
			for i := n(0); i < n(1); i++ {
				m.put[i] = true
			}
			m.started = n(1)
		case "deleting":
			delete(m.put, n(0))
		case "deleted":
			m.gone[n(0)] = true
		case "sweeping", "swept":
			for i := range n(0) {
				if c := crashBlock(i).CID(); swept(c) && m.put[i] {
					delete(m.put, i)
					m.gone[i] = m.gone[i] || word == "swept"
				} else if swept(c) && word == "swept" {
					m.gone[i] = true
				}
			}
		default:
			return errors.New(out.Text())
		}
	}
	return out.Err()
}

// Killed at any moment, time after time, the store has every block that it confirmed, none whose
// deletion it confirmed, and not one wrong byte.
func TestKill(t *testing.T) {
	rounds := 10
	if v := os.Getenv(killsVar); v != "" {
		var err error
		if rounds, err = strconv.Atoi(v); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	blocks := 0
	for round := 0; round < rounds; {
		dir := t.TempDir()
		m := model{put: make(map[int]bool), gone: make(map[int]bool)}
		for life := 0; life < 5 && round < rounds; life, round = life+1, round+1 {
			cmd := exec.Command(self)
			cmd.Env = append(os.Environ(), crashDir+"="+dir, crashFirst+"="+strconv.Itoa(m.started))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			told := m.tell(bufio.NewScanner(out))
			if told != nil {
				cmd.Process.Kill()
			}
			cmd.Wait()
			if told != nil {
				t.Fatal(told)
			}
			m.started += 12 // what was under way is not put again
			if life%2 == 1 {
				continue // two deaths in a row
			}
			if err := m.check(t.Context(), dir); err != nil {
				t.Fatalf("round %d: %v", round, err)
			}
		}
		blocks += len(m.put)
		os.RemoveAll(dir)
	}
	t.Logf("%d rounds, %d confirmed blocks compared", rounds, blocks)
}

func (m *model) check(ctx context.Context, dir string) error {
	s, err := disk.Open(ctx, disk.Config{Dir: dir, Reserve: -1, PackSize: 1 << 20})
	if err != nil {
		return err
	}
	defer s.Close()
	for i := range m.started {
		want := crashBlock(i)
		got, err := s.Get(ctx, want.CID())
		switch {
		case err != nil && !errors.Is(err, blockstore.ErrNotFound):
			return err
		case err != nil && m.put[i]:
			return fmt.Errorf("block %d is lost: %w", i, err)
		case err == nil && m.gone[i]:
			return fmt.Errorf("block %d came back", i)
		case err == nil && !bytes.Equal(got.Data(), want.Data()):
			return fmt.Errorf("block %d has other bytes", i)
		}
	}
	report, err := s.Scrub(ctx, 0)
	if err != nil || len(report.Damaged)+len(report.Unreadable) > 0 {
		return fmt.Errorf("scrub: %+v, %w", report, err)
	}
	return nil
}
