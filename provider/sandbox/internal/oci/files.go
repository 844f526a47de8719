package oci

import (
	"os"
	"path/filepath"
)

// etcFiles are the names in /etc that every container gets anew.
func etcFiles() []string { return []string{"hosts", "hostname", "resolv.conf"} }

// WriteFiles writes a container's files of /etc to dir.
func WriteFiles(dir, hostname string) error {
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
