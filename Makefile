# Rialto's habits, one target each. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := build

GOLANGCI := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOTESTSUM := go run gotest.tools/gotestsum@v1.13.0
RUNC_VERSION := v1.5.2
LDFLAGS := -s -w
# NVIDIA's header marks much of itself deprecated; the warnings are not ours to mend.
export CGO_CFLAGS := -O2 -g -Wno-deprecated-declarations
# What a bare Debian 12 lacks: to build runc and the agent, to run the lab, to look at the page, and to measure the rivals.
PACKAGES := gcc libc6-dev libseccomp-dev pkg-config git iproute2 util-linux procps debootstrap docker-registry chromium
RIVALS := skopeo umoci iperf3 nginx-light

.PHONY: build
build: bin/rialto bin/rialto-broker bin/rialto-provider bin/runc ## Build the three programs and runc into bin/

.PHONY: FORCE
FORCE:

bin/rialto bin/rialto-broker: FORCE
	@CGO_ENABLED=0 go build -buildvcs=auto -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

bin/rialto-provider: FORCE
	@CGO_ENABLED=1 go build -buildvcs=auto -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$(@F)

# The newest runc with every known escape fixed; Debian's own lacks them. Raise it together with the floor in
# provider/sandbox/version.go. The module's directory is read-only, so the binary is written here.
bin/runc:
	@mkdir -p bin; echo "building runc $(RUNC_VERSION)"
	@dir=$$(go mod download -json github.com/opencontainers/runc@$(RUNC_VERSION) | sed -n 's/^\t"Dir": "\(.*\)",*$$/\1/p'); \
	  go build -C "$$dir" -mod=readonly -trimpath -buildvcs=false -tags seccomp -ldflags '-s -w' -o "$(CURDIR)/$@" .

.PHONY: deps
deps: ## Install the Debian packages that build, tests and demo need (as root)
	@$(call install,$(PACKAGES))

.PHONY: deps/bench
deps/bench: deps
	@$(call install,$(RIVALS))

# install names the packages that are missing and installs them; other systems are told what to install.
define install
missing=""; for p in $(1); do \
  dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
if [ -n "$$missing" ]; then \
  echo "installing Debian packages:$$missing"; \
  command -v apt-get >/dev/null || { echo "no apt-get here; please install them yourself"; exit 1; }; \
  [ "$$(id -u)" = 0 ] || { echo "this needs root: sudo make deps"; exit 1; }; \
  apt-get update -qq >/dev/null && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
fi
endef

.PHONY: demo
demo: deps build ## The main job from end to end on this machine (root), proving that nothing is left
	@go run ./cmd/internal/labctl demo

.PHONY: dev
dev: deps build ## A broker and a provider with simulated GPUs to play with; Ctrl-C ends it
	@go run ./cmd/internal/labctl dev

.PHONY: test
# The whole system's tests come last and alone: they prove that nothing is left on the machine, whosever it is.
test: build ## Unit and end-to-end tests; what a machine lacks is skipped and named
	@export RIALTO_BIN="$(CURDIR)/bin"; run="$(GOTESTSUM) --format pkgname --format-hide-empty-pkg -- -timeout 20m"; \
	  $$run $$(go list ./... | grep -v /internal/e2e) && $$run ./cmd/internal/e2e

.PHONY: race
race: build ## The same under the race detector (slow)
	@RIALTO_BIN="$(CURDIR)/bin" go test -race -timeout 30m ./...

.PHONY: lint
lint: ## Lint and formatting
	@$(GOLANGCI) run ./...
	@test -z "$$(go fix -diff ./... 2>/dev/null)" || { go fix -diff ./...; exit 1; }

.PHONY: check
check: lint test ## Lint and tests: what every commit passes

ROUNDS ?= 7
BENCH_SCALE ?= 0.1
.PHONY: bench bench/job bench/blocks bench/market
bench: bench/job bench/blocks bench/market ## All benchmarks

bench/job: deps/bench build ## From the prompt to the first output; tunnel against veth
	@mkdir -p .cache
	@echo "measuring the tunnel against plain veth"
	@go test -run='^$$' -bench=Throughput -benchtime=7x ./tunnel/device >.cache/tunnel.txt
	@go run ./cmd/internal/labctl -rounds $(ROUNDS) -tunnel .cache/tunnel.txt bench

bench/blocks: deps/bench build ## Blocks: mounts, exchange, store, cold starts; BENCH_SCALE=1 for full size
	@mkdir -p .cache
	@echo "measuring exchange and store"
	@: >.cache/blocks.txt; bench() { "$$@" >>.cache/blocks.txt 2>&1 || { echo "a Go benchmark failed; its figures are left out:"; tail -5 .cache/blocks.txt; }; }; \
	  for p in exchange disk; do go test -c -o .cache/$$p.test ./blockstore/$$p; done; \
	  for i in 1 2 3; do \
	    bench .cache/exchange.test -test.run='^$$' -test.benchtime=1x -test.count=2 -test.bench='^BenchmarkFetch$$/^rtt=0s$$/^(fast|bitswap|stock|nginx|nginxTLS|tcp)$$'; \
	    bench .cache/exchange.test -test.run='^$$' -test.benchtime=1x -test.bench='^BenchmarkFetch$$/^rtt=50ms$$/^(fast|bitswap|tcp)$$'; \
	    bench .cache/disk.test -test.run='^$$' -test.benchtime=6x -test.bench='^BenchmarkPut$$/^(store|two_callers|badger|file)$$'; \
	  done; \
	  bench .cache/exchange.test -test.run='^$$' -test.benchtime=1x -test.bench='^BenchmarkFetch$$/^rtt=50ms$$/^stock$$'; \
	  bench .cache/exchange.test -test.run='^$$' -test.benchtime=1x -test.bench='^BenchmarkSwarm$$'
	@go run ./cmd/internal/labctl -scale $(BENCH_SCALE) -gobench .cache/blocks.txt blocks

MARKET := query_p50_us query_p99_us ranked_p99_us ranked_any_p99_us nomatch_p99_us btree_p99_us naive_p50_us updates_per_s \
  update_core_ratio reserve_per_s bytes_per_offer gang8_p99_ms price_ratio price_ratio_best2 \
  durable_per_s accept_p99_ms restart_s http_offers_p50_us http_offers_p99_us http_explained_p50_us http_explained_p99_us

# The index in CPU time of one thread. Durable steps, restarts (RIALTO_JOBS of them) and searches over HTTP (brief ones among
# 1,000,000 offers, explained ones among 10,000) in wall time.
bench/market: ## The order book of 10^6 offers beside a B-tree and a scan; durable steps, restarts, searches; medians of 3
	@mkdir -p .cache
	@go test -run='^$$' -bench=. -benchtime=1x -count=3 -timeout=30m ./broker/book | tee .cache/market.txt
	@go test -run='^$$' -bench='^Benchmark(Transitions|Accept|Restart)$$' -count=3 -timeout=30m ./broker/service | tee -a .cache/market.txt
	@go test -run='^$$' -bench='^BenchmarkHTTPOffers$$/^offers=1000000$$/^brief$$' -benchtime=3000x -count=3 ./broker/api | tee -a .cache/market.txt
	@go test -run='^$$' -bench='^BenchmarkHTTPOffers$$/^offers=10000$$/^explained$$' -benchtime=300x -count=3 ./broker/api | tee -a .cache/market.txt
	@awk -v keys='$(MARKET)' ' \
	  /^Benchmark/ { for (i = 3; i < NF; i += 2) v[$$(i+1), n[$$(i+1)]++] = $$i } \
	  function median(k,   i, j, t) { \
	    for (i = 1; i < n[k]; i++) for (j = i; j > 0 && v[k, j-1] + 0 > v[k, j] + 0; j--) { t = v[k, j]; v[k, j] = v[k, j-1]; v[k, j-1] = t } \
	    return v[k, int(n[k] / 2)] } \
	  END { m = split(keys, key, " "); for (i = 1; i <= m; i++) if (n[key[i]]) out = out (out ? "," : "") "\"" key[i] "\":" median(key[i]); print "{" out "}" }' \
	  .cache/market.txt

SIM ?= -seeds 20
.PHONY: sim
sim: ## The market in virtual time beside naive placers: welfare, prices, waiting, the index; SIM='-json -hosts 100'
	@go run ./cmd/internal/labctl sim $(SIM)

KILLS ?= 2000
.PHONY: campaign/blocks
campaign/blocks: ## Kill a host KILLS times at all that it does with images, compare every byte (root)
	@mkdir -p .cache; rm -f .cache/campaign.json
	@RIALTO_KILLS=$(KILLS) RIALTO_JSON="$(CURDIR)/.cache/campaign.json" \
	  go test -count=1 -v -timeout 12h -run '^TestKill$$' ./cmd/internal/campaign; cat .cache/campaign.json

.PHONY: campaign/market
campaign/market: build ## Kill a broker KILLS times while customers and providers use it, check every answer
	@mkdir -p .cache; rm -f .cache/market.json
	@RIALTO_BIN="$(CURDIR)/bin" RIALTO_KILLS=$(KILLS) RIALTO_JSON="$(CURDIR)/.cache/market.json" \
	  go test -count=1 -v -timeout 12h -run '^TestHistories$$' ./cmd/internal/histories; cat .cache/market.json

FUZZTIME ?= 30s
.PHONY: fuzz
# Minimising is off: it may take longer than the time given, and Go then reports a failure that is none.
fuzz: ## Every fuzz target for FUZZTIME (default 30s)
	@for pkg in $$(go list ./...); do \
	  for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$f"; go test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg; done; done

.PHONY: generate
generate: ## Regenerate the wire format's code (needs protoc)
	@PATH="$$(go env GOPATH)/bin:$$PATH" go generate ./broker/wire

.PHONY: help
help: ## This list
	@grep -hE '^[a-zA-Z/_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22
