package host

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMainThreadStays has many threads change their namespace: none is the one that is never replaced.
func TestMainThreadStays(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		if err := onThread(func() error { return unix.Unshare(unix.CLONE_NEWUTS) }); err != nil {
			t.Fatal(err)
		}
	}
	if after, err := os.Readlink("/proc/self/ns/uts"); err != nil || after != before {
		t.Errorf("the main thread is in %s, was in %s: %v", after, before, err)
	}
}
