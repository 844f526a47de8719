package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config configures a Server. Market and Info are required.
type Config struct {
	Market Market
	Info   func() MarketInfo
	Blocks Blocks // nil: uploads are refused
	// AdminToken opens accounts; empty: nobody does.
	AdminToken string
	// BlockQuota is how many bytes of blocks that the broker did not hold an account may upload between two
	// starts of the broker; default 256 GiB, a few large models.
	BlockQuota int64
	// AccountRate limits what one account asks; default 500 a second, more than an upload of weights at
	// 1 Gbit/s asks (two requests for each block of 1 MiB), and bursts of 1000.
	AccountRate Rate
	// AddressRate limits what one address asks without a valid token; default 50 a second and bursts of 200.
	AddressRate Rate
	// Page answers GET of / and of what is below /page/; nil: there is no page.
	Page    http.Handler
	Metrics *prometheus.Registry // served at /metrics; nil: one of its own
	Logger  *slog.Logger         // nil: discard
}

func (c Config) withDefaults() (Config, error) {
	if c.Market == nil || c.Info == nil {
		return c, errors.New("broker api: market and info are required")
	}
	if c.BlockQuota == 0 {
		c.BlockQuota = 256 << 30
	}
	if c.AccountRate == (Rate{}) {
		c.AccountRate = Rate{PerSecond: 500, Burst: 1000}
	}
	if c.AddressRate == (Rate{}) {
		c.AddressRate = Rate{PerSecond: 50, Burst: 200}
	}
	for _, r := range []Rate{c.AccountRate, c.AddressRate} {
		if r.PerSecond < 1 || r.Burst < 1 {
			return c, fmt.Errorf("broker api: rate %+v: want at least one request", r)
		}
	}
	if c.Metrics == nil {
		c.Metrics = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// Server answers HTTP requests.
type Server struct {
	c       Config
	api     huma.API
	mux     *http.ServeMux
	metrics *metrics

	quota     *quota // bytes of blocks
	streams   *quota // open event streams
	watchers  *watchers
	accounts  *limiter
	addresses *limiter
}

// New returns a server that listens to nothing yet.
func New(c Config) (*Server, error) {
	c, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Server{
		c: c, mux: http.NewServeMux(), metrics: newMetrics(c.Metrics),
		quota: newQuota(c.BlockQuota), streams: newQuota(maxStreams), watchers: newWatchers(maxPriceStreams),
		accounts: newLimiter(c.AccountRate, limitKeys), addresses: newLimiter(c.AddressRate, limitKeys),
	}
	hc := huma.DefaultConfig("Rialto broker", c.Info().Version)
	hc.Info.Description = "An open market for GPU time. Amounts are integers in nanodollars."
	hc.OpenAPIPath, hc.DocsPath, hc.SchemasPath = "", "", ""
	hc.CreateHooks = nil // no $schema links in answers
	hc.Transformers = []huma.Transformer{s.transform}
	hc.Formats = map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()}
	hc.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "an account's token"},
		"admin": {Type: "http", Scheme: "bearer", Description: "the broker's admin token"},
	}
	s.api = humago.New(s.mux, hc)
	s.api.UseMiddleware(s.metrics.middleware, s.authenticate, badRequests, s.strictQuery)
	s.routeMarket()
	s.routeOffers()
	s.routeAccounts()
	s.routeJobs()
	s.routeQuotes()
	s.routeEvents()
	s.routeBlocks()
	s.routeImages()
	s.routeHosts()
	s.routePrices()
	s.routePriceStream()
	if err := s.routePlain(); err != nil {
		return nil, err
	}
	return s, nil
}

// jsonFormat is huma's, but for answers that are JSON already.
func jsonFormat() huma.Format {
	f := huma.DefaultJSONFormat
	f.Marshal = func(w io.Writer, v any) error {
		if e, ok := v.(interface{ encoded() []byte }); ok && e.encoded() != nil {
			_, err := w.Write(e.encoded())
			return err
		}
		return huma.DefaultJSONFormat.Marshal(w, v)
	}
	return f
}

// Handle serves another API beside this one, under a pattern of [http.ServeMux]. It must be called before the server is
// used. What h answers, it limits with [Server.Admit] and writes by itself.
func (s *Server) Handle(pattern string, h http.Handler) { s.mux.Handle(pattern, h) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Serve answers requests on l until ctx ends, and closes l. Requests under way get five seconds to end;
// event streams end at once and are resumed elsewhere.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       time.Minute, // a block of 1 MiB at 20 KiB/s
		WriteTimeout:      time.Minute, // event streams extend theirs
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(s.c.Logger.Handler(), slog.LevelDebug),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }() // ends with Shutdown or Close below
	select {
	case err := <-ended:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		err = errors.Join(err, srv.Close())
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// routePlain adds what is not part of the API's description.
func (s *Server) routePlain() error {
	spec, err := json.Marshal(s.api.OpenAPI())
	if err != nil {
		return fmt.Errorf("OpenAPI document: %w", err)
	}
	s.mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		s.write(w, spec)
	})
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.c.Metrics, promhttp.HandlerOpts{}))
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { s.write(w, []byte("ok\n")) })
	s.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.c.Market.Ready(); err != nil {
			s.writeProblem(w, problemOf(err))
			return
		}
		s.write(w, []byte("ready\n"))
	})
	if s.c.Page != nil {
		s.mux.Handle("GET /{$}", s.c.Page)
		s.mux.Handle("GET /page/", s.c.Page)
	}
	paths := []string{"/openapi.json", "/metrics", "/healthz", "/readyz"}
	for path := range s.api.OpenAPI().Paths {
		paths = append(paths, path)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { s.notRouted(w, r, paths) })
	return nil
}

// notRouted answers a wrong method or path.
func (s *Server) notRouted(w http.ResponseWriter, r *http.Request, paths []string) {
	allowed := ""
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		if _, pattern := s.mux.Handler(other); pattern != "/" {
			if allowed != "" {
				allowed += ", "
			}
			allowed += method
		}
	}
	if allowed != "" {
		w.Header().Set("Allow", allowed)
		s.writeProblem(w, problem(http.StatusMethodNotAllowed, "", fmt.Sprintf("%s takes %s", r.URL.Path, allowed)))
		return
	}
	p := problem(http.StatusNotFound, "", fmt.Sprintf("no such path: %.200q", r.URL.Path))
	p.Nearest = nearest(r.URL.Path, paths)
	s.writeProblem(w, p)
}

func (s *Server) writeProblem(w http.ResponseWriter, p *Problem) {
	body, err := json.Marshal(p)
	if err != nil {
		s.c.Logger.Error("problem not encoded", "err", err)
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	s.write(w, body)
}

func (s *Server) write(w http.ResponseWriter, body []byte) {
	if _, err := w.Write(body); err != nil {
		s.c.Logger.Debug("caller is gone", "err", err)
	}
}

// fail turns an error of the market into what a handler returns, and logs what is our own fault.
func (s *Server) fail(ctx context.Context, err error) error {
	p := problemOf(err)
	if p.Status == http.StatusInternalServerError && ctx.Err() == nil {
		s.c.Logger.Error("request failed", "err", err)
	}
	if p.Status == http.StatusServiceUnavailable {
		return huma.ErrorWithHeaders(p, http.Header{"Retry-After": {"1"}})
	}
	return p
}
