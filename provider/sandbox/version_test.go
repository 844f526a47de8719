package sandbox

import "testing"

func TestSafeVersions(t *testing.T) {
	for version, want := range map[string]bool{
		"1.1.5+ds1": false, "1.3.5": false, "1.3.6": true, "1.4.2": false, "1.4.3": true, "1.5.2": true, "1.10.0": true, "2.0.0": true,
		"1.5.0-rc.1": false, "1.5.2-dev": true, "": false, "x.y.z": false, "1.2": false, "0.9.9": false,
	} {
		if got := safe(version); got != want {
			t.Errorf("safe(%q) = %v", version, got)
		}
	}
}
