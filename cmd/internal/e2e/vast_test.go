package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
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

// vastClient is Vast's own command line on the customer's host, with the key in KEY.
func (w *world) vastClient(ts *testscript.TestScript, args []string) *exec.Cmd {
	cmd := w.Customer.Host.Command(context.Background(), "vastai", append([]string{"--url", w.Market.URL, "--api-key", ts.Getenv("KEY"), "--no-color"}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"))
	return cmd
}

// vastai runs Vast's own command line and leaves what it printed in the file "answer". It ends with 0 whatever the
// market said; "! vastai" wants a refusal.
func (w *world) vastai(ts *testscript.TestScript, neg bool, args []string) {
	out, err := w.vastClient(ts, args).CombinedOutput()
	ts.Logf("%s", out)
	ts.Check(os.WriteFile(ts.MkAbs("answer"), out, 0o600))
	if refused := err != nil || bytes.Contains(out, []byte("Failed with error")); refused != neg {
		ts.Fatalf("vastai: refused %v: %v", refused, err)
	}
}

// owner leaves the token of the owner of a host in KEY.
func (w *world) owner(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: owner HOST")
	}
	var found struct {
		Offers []struct{ Host, Provider string }
	}
	out, err := lab.Output(w.Customer.Rialto(context.Background(), "offers", "--json"))
	ts.Check(err)
	ts.Check(json.Unmarshal(out, &found))
	for _, o := range found.Offers {
		if o.Host != args[0] {
			continue
		}
		out, err := lab.Output(w.Market.Host.Command(context.Background(), w.Bin("rialto-broker"), "account", "owner", o.Provider,
			"--state", w.Path("broker"), "--json"))
		ts.Check(err)
		var made struct{ Token string }
		ts.Check(json.Unmarshal(out, &made))
		ts.Setenv("KEY", made.Token)
		return
	}
	ts.Fatalf("nothing of %s is on offer: %s", args[0], out)
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
	found := regexp.MustCompile(`"` + regexp.QuoteMeta(args[1]) + `": ?"?([^",}\]\n]+)`).FindStringSubmatch(answer)
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
