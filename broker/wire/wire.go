// Package wire is the market's wire format: signed messages between customers, brokers and providers.
//
// # Format
//
// A message is a protobuf payload (messages.proto) in a signed envelope ([rialto/p2p/identity]) whose domain
// is "rialto/1/" and the message's name in lower case, so that a signed hold can never pass for a report.
//
// Each value has exactly one encoding: fields in ascending order, each at most once, none with its zero value
// except embedded messages, lists of names sorted. An Open function decodes, checks every rule, encodes the
// result again and refuses the input unless both are equal. Unknown or repeated fields, unknown enum
// values, numbers out of range, lists and strings over their limit (limits.go), text that is not UTF-8 or
// not printable and repeated keys are errors that match [broker.ErrInvalid]. A Seal function checks the same rules,
// so what we send, a peer of the same version can read. A field added later is not encoded while it is
// zero: an old peer still reads messages that do not use it and refuses those that do.
//
// Text for people that may come from anywhere (refusals, reasons, a broken workload's message) is cut and
// cleaned when sealed, because a report must not be lost for an odd byte in a registry's answer.
//
// # Who signs
//
//	JobSpec, BidChange                 the customer, who must be its Customer
//	OfferSet                           the provider, who must be the Provider of each offer
//	Answer, Report, TraceReport        the provider; the caller compares it with the lease
//	PoisonReport                       the provider that got the wrong block
//	Hold, Confirm, Release, Renewal,
//	Advice                             the broker; the caller compares it with its own
//	Receipt                            the broker
//
// # Exchanges
//
// Each is one request and one answer on a stream of its own (see rialto/p2p):
//
//	[ProtocolOffers]    agent to broker    OfferSet, answered by an Advice; by nothing, if the broker is older than that
//	[ProtocolHold]      broker to agent    Hold, answered by an Answer
//	[ProtocolConfirm]   broker to agent    Confirm, answered by nothing
//	[ProtocolRelease]   broker to agent    Release, answered by nothing
//	[ProtocolReport]    agent to broker    Report, answered by a Renewal
//	[ProtocolTrace]     agent to broker    TraceReport, answered by nothing
//	[ProtocolPoison]    agent to broker    PoisonReport, answered by nothing
package wire

//go:generate go build -o ../../.cache/protoc-gen-go google.golang.org/protobuf/cmd/protoc-gen-go
//go:generate protoc --plugin=../../.cache/protoc-gen-go --go_out=. --go_opt=paths=source_relative messages.proto

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"rialto/broker"
	"rialto/p2p/identity"
)

// Protocols of the exchanges.
const (
	ProtocolOffers  = "/rialto/1/offers"
	ProtocolHold    = "/rialto/1/hold"
	ProtocolConfirm = "/rialto/1/confirm"
	ProtocolRelease = "/rialto/1/release"
	ProtocolReport  = "/rialto/1/report"
	ProtocolTrace   = "/rialto/1/trace"
	ProtocolPoison  = "/rialto/1/poison"
)

// codec is all that differs between the messages: X is the vocabulary's type, M the schema's.
type codec[X any, M proto.Message] struct {
	name   string // also ends the domain
	max    int    // bytes of an envelope
	fresh  func() M
	encode func(X) M
	decode func(checker, M) X // pure; reports to the checker
	signer func(X, identity.ID) error
}

func (c codec[X, M]) domain() string { return "rialto/1/" + c.name }

// payload encodes x without checking it.
func (c codec[X, M]) payload(x X) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(c.encode(x))
}

func (c codec[X, M]) seal(k identity.Key, x X) ([]byte, error) {
	payload, err := c.payload(x)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", c.name, err)
	}
	if _, err := c.parse(payload, k.ID()); err != nil {
		return nil, fmt.Errorf("seal %s: %w", c.name, err)
	}
	envelope, err := identity.Seal(k, c.domain(), payload)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", c.name, err)
	}
	if len(envelope) > c.max {
		return nil, fmt.Errorf("seal %s: %d bytes, at most %d: %w", c.name, len(envelope), c.max, broker.ErrInvalid)
	}
	return envelope, nil
}

func (c codec[X, M]) open(envelope []byte) (X, broker.PeerID, error) {
	return c.openWith(identity.Open, envelope)
}

// reopen is open for what was opened before: the signature is not checked again, every other rule is.
func (c codec[X, M]) reopen(envelope []byte) (X, broker.PeerID, error) {
	return c.openWith(identity.Reopen, envelope)
}

func (c codec[X, M]) openWith(open func(domain string, envelope []byte) ([]byte, identity.ID, error), envelope []byte) (X, broker.PeerID, error) {
	var none X
	if len(envelope) > c.max {
		return none, "", fmt.Errorf("open %s: %d bytes, at most %d: %w", c.name, len(envelope), c.max, broker.ErrInvalid)
	}
	payload, signer, err := open(c.domain(), envelope)
	if err != nil {
		return none, "", fmt.Errorf("open %s: %w: %w", c.name, broker.ErrInvalid, err)
	}
	x, err := c.parse(payload, signer)
	if err != nil {
		return none, "", fmt.Errorf("open %s from %s: %w", c.name, signer, err)
	}
	return x, broker.PeerID(signer), nil
}

// parse decodes what signer signed and holds it to every rule.
func (c codec[X, M]) parse(payload []byte, signer identity.ID) (X, error) {
	var none X
	m := c.fresh()
	// No message nests deeper than a GPU in an offer in an offer set.
	if err := (proto.UnmarshalOptions{DiscardUnknown: true, RecursionLimit: 4}).Unmarshal(payload, m); err != nil {
		return none, fmt.Errorf("%w: %w", broker.ErrInvalid, err)
	}
	var failed error
	x := c.decode(checker{first: &failed}, m)
	if failed == nil && c.signer != nil {
		failed = c.signer(x, signer)
	}
	if failed != nil {
		return none, failed
	}
	again, err := c.payload(x)
	if err != nil {
		return none, fmt.Errorf("%w: %w", broker.ErrInvalid, err)
	}
	if !bytes.Equal(again, payload) {
		return none, fmt.Errorf("unknown, repeated or misplaced field: %w", broker.ErrInvalid)
	}
	return x, nil
}
