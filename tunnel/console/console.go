// Package console is what a customer asks of a running job: its output, another process in it, a connection
// to one of its ports. It speaks HTTP/1.1 on [tunnel.ConsolePort] of the job's address, inside the tunnel,
// which has authenticated and encrypted it already; the server only checks that the source is the customer's
// inner address, because the workload shares the network namespace.
//
//	GET  /v1/status                    200, JSON [Status]
//	GET  /v1/logs?follow=1&from=N      200, frames from byte N of the output on
//	POST /v1/exec  {JSON}              101, frames both ways       Upgrade: rialto-exec/1
//	POST /v1/dial?port=N               101, the connection's bytes  Upgrade: rialto-dial/1
//	POST /v1/key?root=CID  {32 bytes}  200, the host has the key of a private image or of private weights
//
// A frame is one byte of type, four bytes of payload length (big endian, at most [MaxPayload]) and the
// payload:
//
//	type  from    payload
//	 1    server  bytes of stdout
//	 2    server  bytes of stderr
//	 3    server  last frame: exit code, 4 bytes big endian, two's complement, then the reason as text
//	 4    server  last frame: why there is no exit code, as text
//	 5    server  nothing; sent every [heartbeat], so that a silent peer is a dead one
//	 6    server  last frame: all the output there is, and no end of the workload yet
//	16    client  bytes of stdin; of no length: end of stdin
//	17    client  rows and columns, 2 bytes each, big endian
//
// Frames stay in order: a process that does not read its input delays a resize behind it.
//
// The output is one sequence of bytes, stdout and stderr in the order in which they were written. N counts
// bytes of both, so a client that lost its connection, or whose agent restarted, asks for the rest: nothing
// is lost and nothing comes twice. An answer that is not 200 or 101 is a line of text.
package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

const (
	// MaxPayload is the most bytes that a frame carries.
	MaxPayload = 64 << 10
	// maxHeader bounds the header of a request and of an answer.
	maxHeader = 8 << 10
	// maxExec bounds the JSON of an exec request.
	maxExec = 256 << 10
	// heartbeat is how often the server speaks when it has nothing to say.
	heartbeat = 3 * time.Second
	// silence is when a client gives a connection up: three heartbeats and a bit.
	silence = 10 * time.Second
	// patience bounds the exchange of a request and the header of its answer.
	patience = 10 * time.Second
	// maxRoot bounds the name of what a key opens.
	maxRoot = 128
	// stuck is how long a write may wait for a peer that does not read.
	stuck = time.Minute
)

// Streams of a workload's output.
const (
	Stdout byte = 1
	Stderr byte = 2
)

// ErrNotStarted is what a Backend answers before the workload exists.
var ErrNotStarted = errors.New("the workload has not started yet")

// ErrNotPrivate is what a Backend answers to a key that the job has no use for.
var ErrNotPrivate = errors.New("the job has no private image or weights with this root")

// Secret is a key on its way. It prints as "redacted".
type Secret [32]byte

// Format hides the secret from every verb.
func (Secret) Format(s fmt.State, _ rune) { fmt.Fprint(s, "redacted") }

// LogValue hides the secret from logs.
func (Secret) LogValue() slog.Value { return slog.StringValue("redacted") }

// Sink receives a workload's output in order.
type Sink = func(stream byte, p []byte) error

// Exit is how a workload ended.
type Exit struct {
	Code   int
	Reason string // empty, or why it was ended
}

// Status is the present state of a workload.
type Status struct {
	Started bool   `json:"started"`
	Ended   bool   `json:"ended"`
	Code    int    `json:"exit_code"`
	Reason  string `json:"reason,omitempty"`
}

// Size is a terminal's size in characters.
type Size struct{ Rows, Cols uint16 }

// Exec is another process to run in the job.
type Exec struct {
	Args    []string
	Env     []string
	Workdir string
	TTY     bool
	Size    Size
	Stdin   io.Reader // nil: none
	Stdout  io.Writer
	Stderr  io.Writer   // unused with TTY
	Resize  <-chan Size // nil: the size stays
}

// Backend is a job as the console's server sees it. Methods are called concurrently and return soon after
// ctx has ended.
type Backend interface {
	// Status reports the present state without waiting.
	Status(ctx context.Context) (Status, error)
	// Logs feeds the output to sink from its first byte, each time the same, and with follow waits for the workload
	// to start and goes on until it has ended.
	Logs(ctx context.Context, follow bool, sink Sink) error
	// Wait returns how the workload ended, once it has.
	Wait(ctx context.Context) (Exit, error)
	// Exec runs another process and returns its exit code.
	Exec(ctx context.Context, e Exec) (int, error)
	// Dial connects to a TCP port of the workload on its loopback addresses.
	Dial(ctx context.Context, port uint16) (net.Conn, error)
	// Key takes the key of what has a root. To take it again is no error.
	Key(ctx context.Context, root string, key Secret) error
}

// RemoteError is the server's refusal, in its own words.
type RemoteError struct {
	Op      string // "logs", "exec", "dial", "status", "key"
	Code    int    // HTTP status; zero: said within the stream
	Message string
}

// Error implements error.
func (e *RemoteError) Error() string { return fmt.Sprintf("%s: %s", e.Op, e.Message) }
