//go:build !cgo || !linux

package nvml

import "errors"

func open() (library, error) {
	return nil, errors.New("this rialto-provider was built without NVML (it needs CGO_ENABLED=1 on Linux)")
}
