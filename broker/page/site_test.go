package page_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"rialto/broker"
	"rialto/pricing"
)

// market is a world with hours behind it and something of everything on offer.
func market(t *testing.T, hours int) *world {
	t.Helper()
	w := newWorld(t)
	for _, o := range []struct {
		host, model, region string
		gpus                int
		rate                pricing.Rate
		change              func(*broker.Offer)
	}{
		{"fjord", "RTX 4090", "NO", 4, 36 * cent, nil},
		{"basalt", "RTX 4090", "IS", 8, 38 * cent, nil},
		{"harbour", "RTX 4090", "NL", 2, 41 * cent, nil},
		{"prairie", "RTX 4090", "US", 6, 34 * cent, nil},
		{"moraine", "H100 SXM", "CH", 8, 189 * cent, charging},
		{"boreal", "H100 SXM", "SE", 8, 182 * cent, charging},
		{"canyon", "H100 SXM", "US", 8, 175 * cent, nil},
		{"lagoon", "L40S", "IT", 4, 62 * cent, reserved},
		{"tundra", "L40S", "FI", 2, 66 * cent, nil},
		{"attic", "RTX 3090", "DE", 1, 17 * cent, claimed},
		{"toybox", "RTX 4090", "DE", 2, 40 * cent, simulated},
	} {
		change := o.change
		if change == nil {
			change = func(*broker.Offer) {}
		}
		w.agent(o.host, o.model, o.region, o.gpus, o.rate, change)
	}
	w.past(hours)
	t.Cleanup(w.run(5 * time.Second))
	for _, a := range w.hub.list() {
		a.offer.Rate = a.base
		a.post(t)
	}
	w.printed()
	w.serve()
	w.work()
	return w
}

// printed waits until what is on offer has a price: the first print after a start may come before the offers do.
func (w *world) printed() {
	w.t.Helper()
	stale := func() bool {
		b, err := w.Prices(w.t.Context())
		return err != nil || slices.ContainsFunc(b.Rows, func(r broker.PriceRow) bool { return r.FreeGPUs > 0 && r.Print.Quality == pricing.Stale })
	}
	for begun := time.Now(); stale(); time.Sleep(50 * time.Millisecond) {
		if time.Since(begun) > patience {
			w.t.Fatal("offers have no price")
		}
	}
}

// work gives the customer a job that runs, one that is done and one that failed.
func (w *world) work() {
	w.t.Helper()
	a := w.host("basalt")
	done := w.granted(w.submit(a.id(), 2).ID)
	a.report(w.t, done, 1, broker.PhaseReady, 0)
	a.report(w.t, done, 2, broker.PhaseExited, 0, func(r *broker.Report) { r.ExitCode = 3 })
	a = w.host("boreal")
	broken := w.granted(w.submit(a.id(), 1).ID)
	a.report(w.t, broken, 1, broker.PhaseBroken, 0, func(r *broker.Report) { r.Message = "no command python3 in the image" })
	a = w.host("moraine")
	w.lease = w.granted(w.submit(a.id(), 3).ID)
	a.report(w.t, w.lease, 1, broker.PhaseReady, 0)
	w.running, w.done, w.failed = w.lease.Job, done.Job, broken.Job
	w.gang = w.submit("", 1, func(s *broker.JobSpec) {
		s.GPU.Model, s.Nodes, s.MaxDuration, s.MaxCost = "H100 SXM", 3, time.Hour, 0
		s.Command = []string{"torchrun", "train.py"}
	}).ID
	for rank := range 3 {
		w.granted(broker.MemberID(w.gang, rank))
	}
}

func (w *world) host(name string) *agent {
	w.t.Helper()
	for _, a := range w.hub.list() {
		if a.offer.Host == name {
			return a
		}
	}
	w.t.Fatalf("no host %s", name)
	return nil
}

// TestSite drives the page as people do, in a headless Chromium, against a real broker.
func TestSite(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b := newBrowser(t, "")
	w := market(t, 26)
	b.url, b.w = w.url, w
	b.scheme("light")

	t.Run("overview", func(t *testing.T) {
		b.t = t
		b.open("#/", "RTX 4090")
		b.await(`document.querySelectorAll("main tbody tr").length === 5`) // models and kinds of proof
		b.await(`document.querySelectorAll("main .spark svg").length >= 4`)
		for _, want := range []string{"H100 SXM", "L40S", "RTX 3090", "SIMULATED", "firm", "indicative", "of 53 GPUs"} {
			b.awaitText(want)
		}
		if got := eval[string](b, `document.querySelector("#simulated").innerText`); !strings.HasPrefix(got, "SIMULATED 2 GPUs") {
			t.Errorf("banner: %q", got)
		}
		b.await(`document.querySelector("#live-text").innerText === "live"`)
		b.shoot("overview-1280-light")
		b.quiet(t)
	})

	t.Run("live", func(t *testing.T) {
		b.t = t
		b.open("#/offers?q=gpu_name%3DL40S", "2 offers of 11 match")
		eval[bool](b, `window.untouched = true`)
		a := w.host("tundra")
		a.offer.Rate = 6123 * pricing.Rate(pricing.USD) / 10_000
		a.post(t)
		b.awaitText("$0.6123/h")
		if !eval[bool](b, `window.untouched === true`) {
			t.Error("the page was loaded again")
		}
		b.quiet(t)
	})

	t.Run("unknown field", func(t *testing.T) {
		b.t = t
		b.open("#/offers", "11 offers of 11 match")
		b.do(chromedp.SendKeys("#q", "gpu_rma>=24"+kb.Enter))
		b.await(`document.querySelector("#q-problem").innerText.includes("gpu_rma")`)
		if got := eval[string](b, `document.querySelector("#q-problem").innerText`); !strings.Contains(got, "gpu_ram") {
			t.Errorf("problem without the nearest: %q", got)
		}
		b.shoot("problem-1280-light")
		b.do(chromedp.Click(`#q-problem button`))
		b.await(`document.querySelector("#q").value === "gpu_ram>=24"`)
		b.awaitText("of 11 match")
		b.quiet(t, "400 (Bad Request)")
	})

	t.Run("relax", func(t *testing.T) {
		b.t = t
		b.open("#/offers?q="+`gpu_name%3DRTX_4090%20price<%3D0.30%2Fh`, "0 offers of 11 match")
		b.awaitText("Nothing matches; nearest are")
		b.awaitText("leaves out")
		b.shoot("relax-1280-light")
		b.click("button", "Relax to price<=0.34/h")
		b.awaitText("1 offer of 11 matches")
		if got, want := eval[string](b, `document.querySelector("#q").value`), "gpu_name=RTX_4090 price<=0.34/h"; got != want {
			t.Errorf("query after the click: %q, want %q", got, want)
		}
		b.click("summary", "What each condition does")
		b.awaitText("Without it match")
		b.shoot("offers-1280-light")
		b.quiet(t)
	})

	t.Run("sort", func(t *testing.T) {
		b.t = t
		b.open("#/offers?sort=-price", "11 offers of 11 match")
		prices := eval[[]string](b, `[...document.querySelectorAll("main tbody td:nth-child(2) b data")].map((d) => d.value)`)
		if len(prices) != 11 || prices[0] != "1890000000" || prices[10] != "170000000" {
			t.Errorf("dearest first: %q", prices)
		}
		if got, want := eval[string](b, `document.querySelector("th[aria-sort]").getAttribute("aria-sort")`), "descending"; got != want {
			t.Errorf("aria-sort %q, want %q", got, want)
		}
	})

	t.Run("model", b.model)
	t.Run("terms", b.terms)
	t.Run("calculator", b.calculator)
	t.Run("tariff", b.tariff)
	t.Run("money", b.money)
	t.Run("jobs", b.jobs)

	t.Run("phone", func(t *testing.T) {
		b.t = t
		b.size(390, 844, true)
		defer b.size(1280, 900, false)
		for _, p := range places(w) {
			b.open(p.hash, p.sign)
			if got := eval[int](b, `Math.max(document.documentElement.scrollWidth, innerWidth)`); got > 390 {
				wide := eval[[]string](b, `[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right > 391).map((e) => e.tagName + "." + e.className + ": " + e.innerText?.slice(0, 40))`)
				t.Errorf("%s scrolls sideways: %d pixels wide: %q", p.hash, got, wide)
			}
			if got := eval[int](b, `[...document.querySelectorAll("table.cards tbody tr")].filter((e) => getComputedStyle(e).display !== "block").length`); got > 0 {
				t.Errorf("%s: %d rows are no cards", p.hash, got)
			}
			b.shoot(p.name + "-390-light")
		}
		b.quiet(t)
	})

	t.Run("contrast", func(t *testing.T) {
		b.t = t
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, p := range places(w) {
				b.open(p.hash, p.sign)
				b.await(`document.querySelector("#live-text").innerText === "live"`)
				b.shoot(p.name + "-1280-" + scheme)
				for _, bad := range eval[[]string](b, contrast) {
					t.Errorf("%s, %s: %s", scheme, p.hash, bad)
				}
			}
		}
		b.scheme("light")
		b.quiet(t)
	})

	t.Run("keyboard", func(t *testing.T) {
		b.t = t
		for _, p := range places(w) {
			b.open(p.hash, p.sign)
			const name = `(e => e === document.body || e.id === "main" ? "" : [e.tagName, e.id || e.dataset.key || e.textContent].join(" "))`
			controls := eval[[]string](b, `[...new Set([...document.querySelectorAll("a[href], button, input, select, summary, [tabindex='0']")].filter((e) => e.checkVisibility() && !e.disabled).map(`+name+`))]`)
			reached := map[string]bool{}
			eval[bool](b, `document.activeElement.blur(), true`)
			missing := func() bool { return slices.ContainsFunc(controls, func(c string) bool { return !reached[c] }) }
			for n := 0; n < 3*len(controls) && missing(); n++ { // live changes may add some on the way
				b.do(chromedp.KeyEvent(kb.Tab))
				at := eval[string](b, name+`(document.activeElement)`)
				reached[at] = true
				if at == "" {
					continue
				}
				if !eval[bool](b, `(() => { const s = getComputedStyle(document.activeElement); return s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2; })()`) {
					t.Errorf("%s: the focus on %q is not seen", p.hash, eval[string](b, `document.activeElement.outerHTML.slice(0, 120)`))
				}
			}
			for _, c := range controls {
				if !reached[c] {
					t.Errorf("%s: Tab never reaches %.100s", p.hash, c)
				}
			}
		}
		b.open("#/", "RTX 4090")
		b.do(chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter))
		if got := eval[string](b, `document.activeElement.id`); got != "main" {
			t.Errorf("skipping to the content led to %q", got)
		}
	})

	t.Run("names", func(t *testing.T) {
		b.t = t
		for _, p := range places(w) {
			b.open(p.hash, p.sign)
			for _, bad := range nameless(b) {
				t.Errorf("%s: %s", p.hash, bad)
			}
			if got := eval[int](b, `document.querySelectorAll("main h1").length`); got != 1 {
				t.Errorf("%s has %d first headings", p.hash, got)
			}
			if got := eval[int](b, `document.querySelectorAll("main table:not(:has(caption))").length`); got != 0 {
				t.Errorf("%s has %d tables without a caption", p.hash, got)
			}
		}
	})
}

// place is a page to look at, and what it says when it is there.
type place struct{ name, hash, sign string }

func places(w *world) []place {
	return []place{
		{"overview", "#/", "RTX 4090"},
		{"offers", "#/offers?q=gpu_ram%3E%3D24+price%3C%3D0.40%2Fh", "Near misses"},
		{"model", "#/model/RTX%204090", "Order book"},
		{"calculator", "#/calculator", "Those that fit, cheapest expected cost first"},
		{"jobs", "#/jobs", "Jobs, newest first"},
		{"job", "#/job/" + string(w.running), "Start-up"},
	}
}

// nameless lists controls and pictures that a screen reader has no name for.
func nameless(b *browser) []string {
	b.t.Helper()
	nodes := call(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	var bad []string
	seen := 0
	for _, n := range nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		role := strings.Trim(string(n.Role.Value), `"`)
		switch role {
		case "button", "link", "textbox", "searchbox", "combobox", "checkbox", "spinbutton", "img", "image", "slider", "navigation", "table", "figure":
			seen++
			if n.Name == nil || strings.Trim(string(n.Name.Value), `" `) == "" {
				bad = append(bad, fmt.Sprintf("a %s without a name (node %s)", role, n.NodeID))
			}
		}
	}
	if seen < 8 {
		bad = append(bad, fmt.Sprintf("only %d controls in the accessibility tree", seen))
	}
	return bad
}

// contrast lists texts whose contrast with what is behind them is below 4.5 (WCAG 2.2, 1.4.3).
const contrast = `(() => {
	const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
	const rgba = (css) => {
		canvas.clearRect(0, 0, 1, 1);
		canvas.fillStyle = css;
		canvas.fillRect(0, 0, 1, 1);
		const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
		return [r, g, b, a / 255];
	};
	const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3]));
	const behind = (e) => {
		if (!e) return [255, 255, 255];
		const c = rgba(getComputedStyle(e).backgroundColor);
		return c[3] === 1 ? c : over(c, behind(e.parentElement));
	};
	const light = (c) => {
		const [r, g, b] = c.map((x) => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
		return 0.2126 * r + 0.7152 * g + 0.0722 * b;
	};
	const bad = new Set();
	let seen = 0;
	for (const e of document.querySelectorAll("body *")) {
		if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
		const s = getComputedStyle(e);
		const back = behind(e);
		const front = over(rgba(e instanceof SVGElement ? s.fill : s.color), back);
		const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
		const ratio = (a + 0.05) / (b + 0.05);
		seen++;
		if (ratio < 4.5) bad.add(ratio.toFixed(2) + " " + e.tagName + "." + e.getAttribute("class") + " " + e.textContent.slice(0, 30));
	}
	if (seen < 20) bad.add("only " + seen + " texts");
	return [...bad];
})()`

// TestEmptyMarket: a market without providers says how to start one, and shows the first offer as soon as it is there.
func TestEmptyMarket(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	b := newBrowser(t, "")
	w := newWorld(t)
	a := w.agent("toybox", "RTX 4090", "DE", 2, 40*cent, simulated)
	t.Cleanup(w.run(time.Minute))
	w.serve()
	b.url = w.url
	b.scheme("light")
	b.open("#/", "No provider is connected")
	b.awaitText("rialto-provider run --broker " + w.url)
	b.shoot("empty-1280-light")
	a.post(t)
	b.awaitText("RTX 4090")
	b.awaitText("Every GPU on this market is simulated")
	a.withdraw(t)
	b.await(`document.querySelector("main .meter")?.innerText.startsWith("0 of 0")`)
	b.quiet(t)
}
