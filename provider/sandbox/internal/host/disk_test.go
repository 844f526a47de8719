package host

import (
	"os"
	"path/filepath"
	"testing"
)

// TestFindLoop looks for a device by a path with a symbolic link, as a state directory may be given.
func TestFindLoop(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(".", link); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(link, "image")
	if device, err := FindLoop(path); device != "" || err != nil {
		t.Errorf("before: %q, %v", device, err)
	}
	mount, err := MakeDisk(t.Context(), "", path, MinDiskMiB)
	if err != nil {
		t.Fatal(err)
	}
	defer mount.Close()
	device, err := FindLoop(path)
	if device == "" || err != nil {
		t.Fatalf("%q, %v", device, err)
	}
	if other, err := FindLoop(filepath.Join(dir, "imag")); other != "" || err != nil {
		t.Errorf("another: %q, %v", other, err)
	}
	if err := mount.Close(); err != nil {
		t.Fatal(err)
	}
	if err := AwaitLoopFree(path); err != nil {
		t.Error(err)
	}
	if device, err := FindLoop(path); device != "" || err != nil {
		t.Errorf("after: %q, %v", device, err)
	}
}
