package oci

import (
	"os"
	"path/filepath"
)

// NoticeDir is the folder in a container's own that it sees as [provider.NoticeDir].
const NoticeDir = "notices"

// etcFiles are the names in /etc that every container gets anew.
func etcFiles() []string { return []string{"hosts", "hostname", "resolv.conf"} }

// WriteFiles writes a container's files of /etc to dir, and makes the folder of its notices.
func WriteFiles(dir, hostname string) error {
	notices := filepath.Join(dir, NoticeDir)
	if err := os.MkdirAll(notices, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(notices, 0o755); err != nil { // whatever the umask
		return err
	}
	content := map[string]string{
		"hosts":       "127.0.0.1\tlocalhost " + hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback " + hostname + "\n",
		"hostname":    hostname + "\n",
		"resolv.conf": "# No name server: this container reaches its tunnel and nothing else.\noptions timeout:1 attempts:1\n",
	}
	for _, name := range etcFiles() {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content[name]), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil { // whatever the umask
			return err
		}
	}
	return nil
}
