package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"rialto/blockstore"
	"rialto/broker"
	"rialto/pricing"
)

// Market returns whom one deals with. It needs no token.
func (c *Client) Market(ctx context.Context) (MarketInfo, error) {
	return get[MarketInfo](ctx, c, "/v1/market")
}

// Quote prices a job on the offer that it would get now. It needs no token.
func (c *Client) Quote(ctx context.Context, r QuoteRequest) (Quote, error) {
	var q Quote
	err := c.call(ctx, http.MethodPost, "/v1/quotes", nil, r, &q)
	return q, err
}

// Submit sends a signed job spec. The key makes it happen once, however often it is sent: after an
// [*UnreachableError] send the same again.
func (c *Client) Submit(ctx context.Context, spec []byte, idempotencyKey string) (Job, error) {
	var j Job
	header := http.Header{"Idempotency-Key": {idempotencyKey}}
	err := c.call(ctx, http.MethodPost, "/v1/jobs", header, SubmitRequest{Spec: spec}, &j)
	return j, err
}

// Jobs returns all the account's jobs, newest first, page by page.
func (c *Client) Jobs(ctx context.Context) ([]Job, error) {
	all := []Job{}
	for cursor := ""; ; {
		page, err := get[Jobs](ctx, c, "/v1/jobs?limit=500&cursor="+url.QueryEscape(cursor))
		if err != nil {
			return nil, err
		}
		all = append(all, page.Jobs...)
		if page.Next == "" || page.Next == cursor {
			return all, nil
		}
		cursor = page.Next
	}
}

// Job returns one job.
func (c *Client) Job(ctx context.Context, id broker.JobID) (Job, error) {
	return get[Job](ctx, c, jobPath(id))
}

// Cancel asks for a job to end.
func (c *Client) Cancel(ctx context.Context, id broker.JobID) (Job, error) {
	var j Job
	err := c.call(ctx, http.MethodDelete, jobPath(id), nil, nil, &j)
	return j, err
}

// ChangeBid sends a signed change of what an interruptible job bids. It may be sent as often as it takes.
func (c *Client) ChangeBid(ctx context.Context, id broker.JobID, change []byte) (Job, error) {
	var j Job
	err := c.call(ctx, http.MethodPut, jobPath(id)+"/bid", nil, ChangeBidRequest{Change: change}, &j)
	return j, err
}

// Lease returns the job's current or last lease.
func (c *Client) Lease(ctx context.Context, id broker.JobID) (Lease, error) {
	return get[Lease](ctx, c, jobPath(id)+"/lease")
}

// Receipt returns the bill of the job's last lease; [broker.ErrNotFound] until there is one.
func (c *Client) Receipt(ctx context.Context, id broker.JobID) (Receipt, error) {
	return get[Receipt](ctx, c, jobPath(id)+"/receipt")
}

// Account returns the token's account.
func (c *Client) Account(ctx context.Context) (Account, error) {
	return get[Account](ctx, c, "/v1/account")
}

// BindKey binds the key that may sign jobs to the account, once.
func (c *Client) BindKey(ctx context.Context, key broker.PeerID) (Account, error) {
	var a Account
	err := c.call(ctx, http.MethodPut, "/v1/account/key", nil, BindKeyRequest{Key: string(key)}, &a)
	return a, err
}

// SetLimits bounds what the account may spend from now on.
func (c *Client) SetLimits(ctx context.Context, l Limits) (Account, error) {
	var a Account
	err := c.call(ctx, http.MethodPut, "/v1/account/limits", nil, l, &a)
	return a, err
}

// OpenAccount makes an account; it needs the admin's token. A nil deposit means the broker's grant.
func (c *Client) OpenAccount(ctx context.Context, name string, deposit *pricing.Money) (OpenedAccount, error) {
	return c.openAccount(ctx, OpenAccountRequest{Name: name}, deposit)
}

// OpenCustodialAccount is [Client.OpenAccount] for an account whose key the broker holds.
func (c *Client) OpenCustodialAccount(ctx context.Context, name string, deposit *pricing.Money) (OpenedAccount, error) {
	return c.openAccount(ctx, OpenAccountRequest{Name: name, Custodial: true}, deposit)
}

func (c *Client) openAccount(ctx context.Context, r OpenAccountRequest, deposit *pricing.Money) (OpenedAccount, error) {
	var a OpenedAccount
	if deposit != nil {
		r.DepositNanoUSD = new(int64(*deposit))
	}
	err := c.call(ctx, http.MethodPost, "/v1/admin/accounts", nil, r, &a)
	return a, err
}

// Deposit adds money to an account; it needs the admin's token. The ref names the payment and makes it count once: after
// an [*UnreachableError] send the same again. Another amount or account under the same ref is a [broker.ErrConflict].
func (c *Client) Deposit(ctx context.Context, id broker.AccountID, amount pricing.Money, ref string) (Account, error) {
	var a Account
	path := "/v1/admin/accounts/" + url.PathEscape(string(id)) + "/deposits"
	err := c.call(ctx, http.MethodPost, path, nil, DepositRequest{AmountNanoUSD: int64(amount), Ref: ref}, &a)
	return a, err
}

// OwnerToken makes a token that speaks for a provider; it needs the admin's token.
func (c *Client) OwnerToken(ctx context.Context, provider broker.PeerID) (OwnerToken, error) {
	var t OwnerToken
	err := c.call(ctx, http.MethodPost, "/v1/admin/providers/"+url.PathEscape(string(provider))+"/tokens", nil, nil, &t)
	return t, err
}

// Accounts lists all accounts; it needs the admin's token.
func (c *Client) Accounts(ctx context.Context) ([]Account, error) {
	list, err := get[Accounts](ctx, c, "/v1/admin/accounts")
	return list.Accounts, err
}

// Accused lists the peers that providers say sent them wrong blocks; it needs the admin's token.
func (c *Client) Accused(ctx context.Context) ([]Accused, error) {
	list, err := get[AccusedPeers](ctx, c, "/v1/admin/accused")
	return list.Accused, err
}

// Image returns what the broker knows about the root of the image with a digest; [broker.ErrNotFound] if nothing.
func (c *Client) Image(ctx context.Context, digest string) (Image, error) {
	return get[Image](ctx, c, "/v1/images/"+url.PathEscape(digest))
}

// BuildImage asks the broker to vouch for an image, and returns how far that is. Asking again changes nothing.
func (c *Client) BuildImage(ctx context.Context, image, digest string) (Image, error) {
	var out Image
	err := c.call(ctx, http.MethodPost, "/v1/images", nil, ImageRequest{Image: image, Digest: digest}, &out)
	return out, err
}

// Traces lists the commands of the image with a digest of which the broker remembers what their runs read first.
func (c *Client) Traces(ctx context.Context, digest string) ([]TracedCommand, error) {
	list, err := get[Traces](ctx, c, tracesPath(digest))
	return list.Commands, err
}

// Trace returns what the runs of one of them read first; [broker.ErrNotFound] if there were none.
func (c *Client) Trace(ctx context.Context, digest, command string) (Trace, error) {
	return get[Trace](ctx, c, tracesPath(digest)+"/"+url.PathEscape(command))
}

func tracesPath(digest string) string { return "/v1/images/" + url.PathEscape(digest) + "/traces" }

// HasBlock reports whether the broker holds a block.
func (c *Client) HasBlock(ctx context.Context, cid blockstore.CID) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.do(ctx, http.MethodHead, "/v1/blocks/"+cid.String(), nil, nil)
	if p, ok := errors.AsType[*Problem](err); ok && p.Status == http.StatusNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

// PutBlock uploads a block of weights or of an image. Putting one that the broker holds changes nothing.
func (c *Client) PutBlock(ctx context.Context, b blockstore.Block) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	resp, err := c.do(ctx, http.MethodPut, "/v1/blocks/"+b.CID().String(), header, b.Data())
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Events yields a job's history after the event with number after, and then what happens, until the job
// has ended. An error ends it too; call again with the last number seen to go on without gap or repeat.
func (c *Client) Events(ctx context.Context, id broker.JobID, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		header := http.Header{"Accept": {"text/event-stream"}, "Last-Event-Id": {strconv.FormatUint(after, 10)}}
		resp, err := c.do(ctx, http.MethodGet, jobPath(id)+"/events", header, nil)
		if err != nil {
			yield(Event{}, err)
			return
		}
		defer resp.Body.Close()
		for e, err := range readEvents(resp.Body) {
			if err != nil {
				if ctx.Err() != nil {
					err = ctx.Err()
				} else if !errors.Is(err, errStream) {
					err = &UnreachableError{URL: c.base.String(), Err: err}
				}
			} else if e.Seq != after+1 {
				err = fmt.Errorf("%w: event %d follows %d", errStream, e.Seq, after)
			}
			after = e.Seq
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

var errStream = errors.New("bad event stream")

// readEvents decodes server-sent events. The broker ends a stream with the event "end"; a stream that
// ends otherwise broke off.
func readEvents(r io.Reader) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, 256<<10)
		var name, data string
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch {
			case lines.Text() == "" && name == "end":
				return
			case lines.Text() == "" && data != "":
				var e Event
				if err := json.Unmarshal([]byte(data), &e); err != nil {
					yield(Event{}, fmt.Errorf("%w: %w", errStream, err))
					return
				}
				if !yield(e, nil) {
					return
				}
				name, data = "", ""
			case field == "event":
				name = value
			case field == "data":
				data += value
			}
		}
		err := lines.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		yield(Event{}, err)
	}
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	var out T
	err := c.call(ctx, http.MethodGet, path, nil, nil, &out)
	return out, err
}

func jobPath(id broker.JobID) string { return "/v1/jobs/" + url.PathEscape(string(id)) }
