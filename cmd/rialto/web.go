package main

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"rialto/broker/page"
	"rialto/cmd/internal/cli"
)

// maxWebLogs bounds the logs that the page follows at once: each is a tunnel.
const maxWebLogs = 8

func (a *app) webCommand() *cobra.Command {
	var port uint16
	c := &cobra.Command{
		Use:   "web",
		Short: "Show the market's page, signed in, with firm quotes and the logs of your jobs",
		Long: "Show the market's page on this machine, signed in with the login of the command line. The logs of your jobs come\n" +
			"through their tunnels, never through the broker, and its calculator asks hosts for firm quotes, which it signs with\n" +
			"your key and runs when you accept them. Only this machine can reach the page, and only who has the link;\n" +
			"each link works once.",
		Example: "  rialto web\n  rialto web --port 8080",
		Args:    cli.Args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			m, err := a.connect()
			if err != nil {
				return err
			}
			token, err := a.token(m)
			if err != nil {
				return err
			}
			l, err := new(net.ListenConfig).Listen(c.Context(), "tcp", netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port).String())
			if err != nil {
				return cli.Hint(fmt.Errorf("listen: %w", err), "--port 0 takes a free port")
			}
			return a.serveWeb(c.Context(), l, m, token)
		},
	}
	c.Flags().Uint16Var(&port, "port", 0, "port on 127.0.0.1; 0 takes a free one")
	return c
}

// token returns the token that connect found for a broker.
func (a *app) token(m *market) (string, error) {
	if !m.known {
		return "", cli.Hint(errors.New("no account is known for "+m.url), "%s", welcome)
	}
	if t := a.getenv("RIALTO_TOKEN"); t != "" {
		return t, nil
	}
	c, err := m.home.config()
	return c.Token, err
}

// serveWeb answers until ctx ends, and closes l.
func (a *app) serveWeb(ctx context.Context, l net.Listener, m *market, token string) error {
	w, err := newWeb(a, l.Addr().String(), m, token)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	srv := &http.Server{
		Handler: w, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // streams end at once; nothing is lost with them
	defer stop()
	w.invite()
	a.say("Ctrl-C ends it.")
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// web is the market's page on the customer's machine.
//
// Other programs and users of the machine can connect to it, and so can any page that the customer's browser shows. So a
// request must name this very address as its host, which a rebound name cannot; a request with an origin must come from
// this page; and whatever is more than the page's own code needs the session's token, which only who opened a link has.
// A link carries its key in the fragment, which browsers keep to themselves, and works once. The broker's token never
// reaches the browser.
type web struct {
	app     *app
	address string // host:port of the listener
	market  *market
	broker  *url.URL
	session string // token of the page
	page    http.Handler
	proxy   *httputil.ReverseProxy
	logs    chan struct{} // a place for each log that is followed

	mu  sync.Mutex
	key string // of the link that was shown last; used up: empty
}

func newWeb(a *app, address string, m *market, token string) (*web, error) {
	base, err := url.Parse(m.url)
	if err != nil {
		return nil, err
	}
	site, err := page.Handler()
	if err != nil {
		return nil, err
	}
	w := &web{app: a, address: address, market: m, broker: base, session: rand.Text(), page: site, logs: make(chan struct{}, maxWebLogs)}
	w.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(base) // and its host
			for _, name := range []string{"Cookie", "Origin", "Referer", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				r.Out.Header.Del(name)
			}
			r.Out.Header.Set("Authorization", "Bearer "+token)
		},
		ModifyResponse: func(r *http.Response) error {
			r.Header.Del("Set-Cookie")
			return nil
		},
		ErrorHandler: func(rw http.ResponseWriter, _ *http.Request, err error) {
			if !errors.Is(err, context.Canceled) {
				refuse(rw, http.StatusBadGateway, fmt.Sprintf("the broker at %s cannot be reached: %v", base, err))
			}
		},
	}
	return w, nil
}

// invite makes a new link and prints it.
func (w *web) invite() {
	w.mu.Lock()
	w.key = rand.Text()
	link := "http://" + w.address + "/#key=" + w.key
	w.mu.Unlock()
	w.app.say("Open %s", link)
}

// ServeHTTP implements http.Handler.
func (w *web) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	origin, site := r.Header.Get("Origin"), r.Header.Get("Sec-Fetch-Site")
	switch {
	case r.Host != w.address:
		refuse(rw, http.StatusMisdirectedRequest, "this is "+w.address+" and answers to no other name")
	case origin != "" && origin != "http://"+w.address, site == "cross-site" && r.URL.Path != "/":
		refuse(rw, http.StatusForbidden, "another page may not ask here")
	case r.URL.Path == "/" || strings.HasPrefix(r.URL.Path, "/page/"):
		w.page.ServeHTTP(rw, r)
	case r.URL.Path == "/local/enter":
		w.enter(rw, r)
	case !w.shows(r, w.session):
		refuse(rw, http.StatusUnauthorized, "open the link that `rialto web` printed last: each works once, and in one tab")
	case strings.HasPrefix(r.URL.Path, "/local/logs/") && r.Method == http.MethodGet:
		w.log(rw, r, strings.TrimPrefix(r.URL.Path, "/local/logs/"))
	case r.URL.Path == "/local/quotes" || strings.HasPrefix(r.URL.Path, "/local/quotes/"):
		w.quotes(rw, r)
	case strings.HasPrefix(r.URL.Path, "/v1/") && (r.Method == http.MethodGet || r.Method == http.MethodPost && r.URL.Path == "/v1/offers:explain"):
		w.proxy.ServeHTTP(rw, r)
	default:
		refuse(rw, http.StatusNotFound, "the page has no use for this; the broker is at "+w.broker.String())
	}
}

// shows reports whether a request carries a secret.
func (*web) shows(r *http.Request, secret string) bool {
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && secret != "" && subtle.ConstantTimeCompare([]byte(got), []byte(secret)) == 1
}

// enter gives the session's token for the key of a link, once, and prints a link for the next tab.
func (w *web) enter(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	ok := r.Method == http.MethodPost && w.shows(r, w.key)
	if ok {
		w.key = ""
	}
	w.mu.Unlock()
	if !ok {
		refuse(rw, http.StatusForbidden, "this link was used already; `rialto web` printed another one")
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(rw).Encode(map[string]string{"token": w.session, "broker": w.broker.String()}) // a tab that is gone asks again
	w.app.say("A tab is signed in. For another one:")
	w.invite()
}

// log streams what a job's container prints, through the job's tunnel.
func (w *web) log(rw http.ResponseWriter, r *http.Request, job string) {
	select {
	case w.logs <- struct{}{}:
		defer func() { <-w.logs }()
	default:
		refuse(rw, http.StatusTooManyRequests, fmt.Sprintf("%d logs are followed already: close a tab", maxWebLogs))
		return
	}
	s, err := w.app.reach(r.Context(), job, -1, true)
	if err != nil {
		refuse(rw, http.StatusBadGateway, err.Error())
		return
	}
	defer s.close()
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	rw.Header().Set("Cache-Control", "no-store")
	control, begun := http.NewResponseController(rw), false
	_, _, err = s.console.Logs(r.Context(), true, func(_ byte, p []byte) error {
		begun = true
		if _, err := rw.Write(p); err != nil {
			return err
		}
		return control.Flush()
	})
	switch err = s.explain(err); {
	case err == nil || r.Context().Err() != nil:
	case begun:
		fmt.Fprintf(rw, "\n[%v]\n", err)
	default:
		refuse(rw, http.StatusBadGateway, err.Error())
	}
}

// refuse answers with a problem, as the broker does.
func refuse(rw http.ResponseWriter, status int, detail string) {
	rw.Header().Set("Content-Type", "application/problem+json")
	rw.Header().Set("Cache-Control", "no-store")
	rw.WriteHeader(status)
	_ = json.NewEncoder(rw).Encode(map[string]any{"title": http.StatusText(status), "status": status, "detail": detail}) // a caller that is gone misses nothing
}
