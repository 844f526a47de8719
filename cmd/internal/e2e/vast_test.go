package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"rialto/cmd/internal/lab"
)

// custodial opens an account whose key the broker holds, and leaves its token in KEY.
func (w *world) custodial(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: custodial NAME DOLLARS")
	}
	cmd := w.Market.Host.Command(context.Background(), w.Bin("rialto-broker"), "account", "create", args[0], "--custodial",
		"--deposit", args[1], "--state", w.Path("broker"), "--json")
	out, err := lab.Output(cmd)
	ts.Check(err)
	var created struct{ Token string }
	ts.Check(json.Unmarshal(out, &created))
	ts.Setenv("KEY", created.Token)
}

// vast sends what a client of Vast does, and leaves the answer in the file "answer".
func (w *world) vast(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: vast METHOD PATH [BODY]")
	}
	answer, ok, err := w.send(ts, args)
	ts.Check(err)
	ts.Logf("%s", answer)
	if ok == neg {
		ts.Fatalf("vast: that was not wanted")
	}
}

// vastuntil repeats a vast until its answer matches.
func (w *world) vastuntil(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 3 {
		ts.Fatalf("usage: vastuntil PATTERN METHOD PATH [BODY]")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		answer, ok, err := w.send(ts, args[1:])
		if ok && want.MatchString(answer) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q did not come: %v %s", args[0], err, answer)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// output asks for an instance's output and fetches it until it matches.
func (w *world) output(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: output PATTERN PATH BODY")
	}
	want, err := regexp.Compile(args[0])
	ts.Check(err)
	deadline := time.Now().Add(30 * time.Second)
	for {
		text, ok, err := w.send(ts, []string{http.MethodPut, args[1], args[2]})
		if ok {
			var answer struct {
				URL string `json:"result_url"`
			}
			ts.Check(json.Unmarshal([]byte(text), &answer))
			path, here := strings.CutPrefix(answer.URL, w.Market.URL)
			if !here {
				ts.Fatalf("result_url %q is not at %s", answer.URL, w.Market.URL)
			}
			if text, ok, err = w.send(ts, []string{http.MethodGet, path}); ok && want.MatchString(text) {
				return
			}
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q did not come: %v %s", args[0], err, text)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// take leaves what the last answer says of a key in a variable.
func (*world) take(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: take NAME KEY")
	}
	answer := ts.ReadFile("answer")
	found := regexp.MustCompile(`"` + regexp.QuoteMeta(args[1]) + `":"?([^",}\]]+)`).FindStringSubmatch(answer)
	if found == nil {
		ts.Fatalf("no %s in %s", args[1], answer)
	}
	ts.Setenv(args[0], found[1])
}

// send makes one request from the customer's host with the key in KEY; $IMAGE and $ASK are known in the body.
func (w *world) send(ts *testscript.TestScript, args []string) (answer string, ok bool, err error) {
	body := ""
	if len(args) > 2 {
		body = strings.NewReplacer("$IMAGE", ts.Getenv("IMAGE"), "$ASK", ts.Getenv("ASK")).Replace(args[2])
	}
	transport := &http.Transport{DialContext: w.Customer.Host.Dial}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(context.Background(), args[0], w.Market.URL+args[1], strings.NewReader(body))
	if err != nil {
		return "", false, err
	}
	req.Header.Set("Authorization", "Bearer "+ts.Getenv("KEY"))
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", false, err
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return "", false, err
	}
	err = os.WriteFile(ts.MkAbs("answer"), text, 0o600)
	return string(text), resp.StatusCode == http.StatusOK, err
}
