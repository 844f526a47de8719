//go:build !linux

package device

import (
	"context"

	"rialto/tunnel"
)

// Device does not exist on this operating system.
type Device struct{ tunnel.Device }

// Open reports ErrUnsupported.
func Open(context.Context, Config) (*Device, error) { return nil, ErrUnsupported }

// CheckLimit reports ErrUnsupported.
func CheckLimit() error { return ErrUnsupported }

func removeSocket(context.Context, string) error { return ErrUnsupported }
