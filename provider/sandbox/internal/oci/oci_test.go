package oci

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"rialto/provider"
)

func rootWith(tb testing.TB, passwd, group string) string {
	tb.Helper()
	root := tb.TempDir()
	if err := os.Mkdir(filepath.Join(root, "etc"), 0o755); err != nil {
		tb.Fatal(err)
	}
	for name, content := range map[string]string{"passwd": passwd, "group": group} {
		if err := os.WriteFile(filepath.Join(root, "etc", name), []byte(content), 0o644); err != nil {
			tb.Fatal(err)
		}
	}
	return root
}

func TestLookupUser(t *testing.T) {
	root := rootWith(t, "# comment\nroot:x:0:0::/root:/bin/sh\nann:x:1000:1001::/:/bin/sh\nbad:x:4294967295:1::/:\n7:x:70:71::/:/bin/sh\n",
		"root:x:0:\nvideo:x:44:ann,bob\naudio:x:45:ann\nann:x:1001:ann\n")
	for _, tc := range []struct {
		user string
		want specs.User
		err  string
	}{
		{"", specs.User{}, ""},
		{"ann", specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{44, 45}}, ""},
		{"1000", specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{44, 45}}, ""},
		{"ann:video", specs.User{UID: 1000, GID: 44}, ""},
		{"ann:9", specs.User{UID: 1000, GID: 9}, ""},
		{"12:34", specs.User{UID: 12, GID: 34}, ""},
		{"12", specs.User{UID: 12}, ""},
		{"zoe", specs.User{}, "not in the image's /etc/passwd"},
		{"bad", specs.User{}, "not in the image's /etc/passwd"},
		{"ann:zoo", specs.User{}, "not in the image's /etc/group"},
		{"ann:", specs.User{}, "want uid"},
		{":video", specs.User{}, "want uid"},
		{"4294967295", specs.User{}, "not in"},
		{"-1", specs.User{}, "not in"},
	} {
		got, err := LookupUser(root, tc.user)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("user %q: error %v, want %q", tc.user, err, tc.err)
			}
			continue
		}
		if err != nil || got.UID != tc.want.UID || got.GID != tc.want.GID || !slices.Equal(got.AdditionalGids, tc.want.AdditionalGids) {
			t.Errorf("user %q: got %+v, %v, want %+v", tc.user, got, err, tc.want)
		}
	}
	if got, err := LookupUser(t.TempDir(), ""); err != nil || got.UID != 0 {
		t.Errorf("image without accounts: %+v, %v", got, err)
	}
}

// TestAccountsOfHostileImages has things at /etc/passwd that a careless reader follows, opens or reads.
func TestAccountsOfHostileImages(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("spy:x:5:5::/:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(path string) error{
		"absolute link": func(p string) error { return os.Symlink(outside, p) },
		"relative link": func(p string) error { return os.Symlink(strings.Repeat("../", 20)+outside, p) },
		"magic link":    func(p string) error { return os.Symlink("/proc/self/root"+outside, p) },
		"fifo":          func(p string) error { return unix.Mkfifo(p, 0o666) },
		"directory":     func(p string) error { return os.Mkdir(p, 0o755) },
		"huge": func(p string) error {
			if err := os.WriteFile(p, []byte("spy:x:5:5::/:/bin/sh\n"), 0o644); err != nil {
				return err
			}
			return os.Truncate(p, 1<<40)
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := rootWith(t, "", "")
			path := filepath.Join(root, "etc/passwd")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := plant(path); err != nil {
				t.Fatal(err)
			}
			if u, err := LookupUser(root, "spy"); err == nil {
				t.Errorf("found %+v", u)
			}
		})
	}
	t.Run("link inside the image", func(t *testing.T) {
		root := rootWith(t, "", "")
		path := filepath.Join(root, "etc/passwd")
		if err := os.Rename(path, path+".real"); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".real", []byte("ann:x:5:5::/:/bin/sh\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/passwd.real", path); err != nil {
			t.Fatal(err)
		}
		if u, err := LookupUser(root, "ann"); err != nil || u.UID != 5 {
			t.Errorf("got %+v, %v", u, err)
		}
	})
}

func FuzzLookupUser(f *testing.F) {
	f.Add("root:x:0:0::/root:/bin/sh\n", "root:x:0:\n", "root")
	f.Add("a:x:1:2::/:/\n", "g:x:3:a,a,b\n", "a:g")
	f.Add(":::::::\n\x00", ":", "1:2:3")
	f.Fuzz(func(t *testing.T, passwd, group, user string) {
		u, err := LookupUser(rootWith(t, passwd, group), user)
		if err == nil && (u.UID >= 1<<31 || u.GID >= 1<<31 || len(u.AdditionalGids) > maxGroups) {
			t.Errorf("got %+v", u)
		}
	})
}

// TestNothingRefusedIsAllowed holds the list of what is refused on purpose against the filter.
func TestNothingRefusedIsAllowed(t *testing.T) {
	refused := map[string]string{
		"mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr quotactl quotactl_fd statmount " +
			"listmount swapon swapoff": "change what is mounted",
		"setns unshare": "make or join namespaces, the door of most kernel escapes",
		"ptrace":        "steer other processes",
		"bpf init_module finit_module delete_module create_module kexec_load kexec_file_load": "load code into the kernel",
		"add_key keyctl request_key":                      "key rings are not divided by namespace",
		"io_uring_setup io_uring_enter io_uring_register": "a large surface with many holes, and a way around this filter",
		"userfaultfd":                         "holds kernel threads at a chosen moment, which exploits need",
		"perf_event_open lookup_dcookie":      "side channels on neighbours",
		"open_by_handle_at name_to_handle_at": "open files by number, past every mount",
		"fanotify_init fanotify_mark":         "watch the whole file system",
		"settimeofday clock_settime clock_adjtime adjtimex sethostname setdomainname syslog reboot acct vhangup": "the host's own",
		"iopl ioperm": "hardware ports",
	}
	s := Seccomp()
	allowed := map[string]int{}
	for _, call := range s.Syscalls {
		if call.Action != specs.ActAllow {
			continue
		}
		for _, name := range call.Names {
			allowed[name]++
			if allowed[name] > 1 && len(call.Args) == 0 {
				t.Errorf("%s is listed twice", name)
			}
		}
	}
	for names, why := range refused {
		for name := range strings.FieldsSeq(names) {
			if allowed[name] > 0 {
				t.Errorf("%s is allowed: %s", name, why)
			}
		}
	}
	if s.DefaultAction != specs.ActErrno {
		t.Errorf("default action %s", s.DefaultAction)
	}
	if allowed["read"] != 1 || allowed["socket"] != 4 {
		t.Errorf("read %d, socket %d", allowed["read"], allowed["socket"])
	}
}

func TestSpecRefuses(t *testing.T) {
	root := t.TempDir()
	good := provider.Program{RootFS: root, Args: []string{"/x"}}
	if _, err := Spec(provider.Launch{}, good, Place{}); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*provider.Program){
		"no command":       func(p *provider.Program) { p.Args = nil },
		"empty command":    func(p *provider.Program) { p.Args = []string{""} },
		"zero byte":        func(p *provider.Program) { p.Env = []string{"A=\x00"} },
		"relative workdir": func(p *provider.Program) { p.Workdir = "tmp" },
		"relative source":  func(p *provider.Program) { p.Mounts = []provider.Mount{{Source: "x", Target: "/x"}} },
		"root target":      func(p *provider.Program) { p.Mounts = []provider.Mount{{Source: root, Target: "/a/.."}} },
		"dev target":       func(p *provider.Program) { p.Mounts = []provider.Mount{{Source: root, Target: "/dev/x"}} },
		"relative target":  func(p *provider.Program) { p.Mounts = []provider.Mount{{Source: root, Target: "x"}} },
		"file as device":   func(p *provider.Program) { p.Devices = []string{"/etc/passwd"} },
		"missing device":   func(p *provider.Program) { p.Devices = []string{"/dev/no-such"} },
	} {
		p := good
		change(&p)
		if _, err := Spec(provider.Launch{}, p, Place{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestOnlyRootHasCapabilities(t *testing.T) {
	root := t.TempDir()
	for user, want := range map[string]int{"0": len(Capabilities()), "5": 0} {
		s, err := Spec(provider.Launch{}, provider.Program{RootFS: root, Args: []string{"/x"}, User: user}, Place{})
		if err != nil {
			t.Fatal(err)
		}
		c := s.Process.Capabilities
		if len(c.Bounding) != want || len(c.Effective) != want || len(c.Permitted) != want || len(c.Inheritable)+len(c.Ambient) != 0 {
			t.Errorf("user %s: %+v", user, c)
		}
	}
}
