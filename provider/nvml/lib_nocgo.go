//go:build !cgo || !linux

package nvml

func open() (library, error) { return nil, errNoCgo }
