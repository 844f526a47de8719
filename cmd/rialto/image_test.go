//go:build unix

package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"rialto/blockstore"
	"rialto/broker/api"
)

// TestVouchedRootIsOptional asks brokers that know the root of an image, and others.
func TestVouchedRootIsOptional(t *testing.T) {
	name := pushImage(t)
	root := blockstore.Sum([]byte("root")).String()
	for _, c := range []struct {
		status       int
		state, known string
		want         string
		fails        bool
	}{
		{status: 200, state: "ready", known: root, want: root},
		{status: 200, state: "building"},
		{status: 200, state: "failed"},
		{status: 200, state: "building", known: root},
		{status: 404},
		{status: 500},
		{status: 200, state: "ready", known: "bafynothing", fails: true},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			fmt.Fprintf(w, `{"state":%q,"root":%q}`, c.state, c.known)
		}))
		client, err := api.NewClient(srv.URL, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := (&market{Client: client, home: home(t.TempDir())}).findVouched(t.Context(), name)
		srv.Close()
		if got.digest == "" || got.root != c.want || (err != nil) != c.fails {
			t.Errorf("%+v: got %+v, %v", c, got, err)
		}
	}
}
