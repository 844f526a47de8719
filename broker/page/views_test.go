package page_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"rialto/broker"
	"rialto/pricing"
)

// model: a price history that zooms by keyboard and by a drag, an order book, offers.
func (b *browser) model(t *testing.T) {
	b.t = t
	b.open("#/", "RTX 4090")
	b.click("main a.model", "H100 SXM")
	b.awaitText("Order book")
	b.awaitText("No order stands.")
	order := b.w.submit("", 2, func(s *broker.JobSpec) {
		s.GPU.Model, s.MaxRate, s.MaxCost, s.GoodUntil = "H100 SXM", 1_333_000_000, 0, time.Now().Add(24*time.Hour).UTC()
		s.MaxDuration = time.Hour
	})
	b.awaitText("$1.333/h")
	if got := eval[string](b, `document.querySelector(".pair svg.chart").getAttribute("aria-label")`); !strings.Contains(got, "2 GPUs bid for from $1.333 to $1.333 an hour") {
		t.Errorf("the book's picture says %q", got)
	}
	b.shoot("book-1280-light")
	if _, err := b.w.Cancel(t.Context(), b.w.account, order.ID, "test"); err != nil {
		t.Fatal(err)
	}
	b.awaitText("No order stands.")
	b.await(`document.querySelector(".plot polyline.stroke")?.points.length > 10`)
	b.awaitText("Offers, all regions")
	b.awaitText("firm")
	if got := eval[string](b, `document.querySelector("main h1").innerText`); !strings.HasPrefix(got, "H100 SXM") {
		t.Errorf("heading %q", got)
	}
	b.awaitText("To raise it by 1%, one operator would have to trade $")
	width := func() int {
		return eval[int](b, `(({ from, to }) => Math.round((to - from) / 60000))(document.querySelector(".plot").dataset)`)
	}
	whole := width()
	eval[bool](b, `document.querySelector(".plot").focus(), true`)
	first := eval[string](b, `document.querySelector(".readout").innerText`)
	b.do(chromedp.KeyEvent(kb.ArrowLeft))
	if got := eval[string](b, `document.querySelector(".readout").innerText`); got == first || !strings.Contains(got, "$") {
		t.Errorf("readout %q, was %q", got, first)
	}
	b.do(chromedp.KeyEvent("+"))
	if got := width(); got >= whole {
		t.Errorf("zoomed with +: %d minutes of %d", got, whole)
	}
	b.do(chromedp.KeyEvent(kb.Home))
	if got := width(); got != whole {
		t.Errorf("after Home: %d minutes of %d", got, whole)
	}
	box := eval[[]float64](b, `(({ left, top, width, height }) => [left, top, width, height])(document.querySelector(".plot svg").getBoundingClientRect())`)
	y := box[1] + box[3]/2
	b.do(chromedp.DragAndDropXY(box[0]+box[2]*0.4, y, box[0]+box[2]*0.7, y, 5))
	if got := width(); got > whole/2 {
		t.Errorf("zoomed by a drag: %d minutes of %d", got, whole)
	}
	zoomed := width()
	eval[bool](b, `(document.querySelector(".readout").textContent = "old", true)`)
	b.await(`document.querySelector(".readout").textContent !== "old"`) // a print came
	if got := width(); got != zoomed {
		t.Errorf("after a print: %d minutes, was zoomed to %d", got, zoomed)
	}
	b.shoot("model-zoomed-1280-light")
	b.click("button", "Show all")
	b.click("summary", "The same as a table")
	b.awaitText("Paid, by GPU-hours")
	b.click(".tabs a", "5 minutes")
	b.await(`location.hash.includes("step=5m") && document.querySelector(".plot polyline.stroke")?.points.length > 10`)
	b.quiet(t)
}

// terms: a price for who commits to a term is a cell of its own, and not the one that a model's page begins with.
func (b *browser) terms(t *testing.T) {
	b.t = t
	b.open("#/model/L40S", "Order book")
	if got := eval[string](b, `document.querySelector("main h1").innerText`); got != "L40S nvml" {
		t.Errorf("heading %q", got)
	}
	b.click(".tabs a", "all regions, reserved")
	b.awaitText("L40S, reserved")
	b.awaitText("$0.55/h")
	b.quiet(t)
}

// calculator: eight GPU-hours with at least 24 GB.
func (b *browser) calculator(t *testing.T) {
	b.t = t
	b.open("#/calculator", "Those that fit, cheapest expected cost first")
	// prairie sells an RTX 4090 for 0.34; attic's RTX 3090 for 0.17 has 24 GB and is the cheapest.
	if got, want := eval[string](b, `document.querySelector(".total data").value`), "1360000000"; got != want {
		t.Errorf("total %q, want %q", got, want)
	}
	// Only his own machine has the customer's key: here the command is shown, and what it says is what was calculated.
	command := fmt.Sprintf("rialto quote --firm --provider '%s' --gpu 'RTX 3090:1' --for 480m IMAGE", b.w.host("attic").id())
	if got := eval[string](b, `document.querySelector(".quote .line").innerText`); got != command {
		t.Errorf("the command for a firm quote: %q, want %q", got, command)
	}
	b.do(chromedp.SetValue("#hours", "2.5"), chromedp.SetValue("#memory", "80"), chromedp.SetValue("#image", "10"))
	eval[bool](b, `(document.querySelector("#place").selectedIndex = 1, true)`)
	b.click("button", "Calculate")
	b.awaitText("for 2.5 GPU-hours on H100 SXM, boreal, Sweden")
	b.awaitText("On the index of H100 SXM its GPUs would be")
	b.awaitText("10 GB take about 1 min 20 s")
	if got, want := eval[string](b, `document.querySelector(".total data").value`), "4570000000"; got != want {
		t.Errorf("total %q, want %q", got, want)
	}
	b.do(chromedp.SetValue("#hours", "-1"))
	b.click("button", "Calculate")
	b.awaitText("GPU-hours: want a number above zero")
	b.open("#/calculator?hours=1&memory=500", "No offer fits")
	b.awaitText("leaves out")
	b.quiet(t)
}

// tariff: what a host charges for beside its GPUs is in its offer, in the calculator, and in a job and its bill.
func (b *browser) tariff(t *testing.T) {
	b.t = t
	const h100 = "#/offers?q=gpu_name%3DH100_SXM"
	b.open(h100, "$0.144/GiB-month")
	cells := eval[[]string](b, `[...document.querySelectorAll("main tbody td:nth-child(2)")].map((e) => e.innerText)`)
	if want := []string{"$1.75/h", "$1.82/h\nall in $1.837/h\n$0.144/GiB-month\n$0.005 in, $0.01 out/GB", "$1.89/h\nall in $1.907/h\n$0.144/GiB-month\n$0.005 in, $0.01 out/GB"}; !slices.Equal(cells, want) {
		t.Errorf("prices %q, want %q", cells, want)
	}
	look := func(name string, places ...place) {
		for _, scheme := range []string{"light", "dark"} {
			b.scheme(scheme)
			for _, p := range places {
				b.open(p.hash, p.sign)
				b.shoot(name + p.name + "-1280-" + scheme)
				for _, bad := range eval[[]string](b, contrast) {
					t.Errorf("%s, %s: %s", scheme, p.hash, bad)
				}
			}
		}
		b.scheme("light")
		b.size(390, 844, true)
		defer b.size(1280, 900, false)
		for _, p := range places {
			b.open(p.hash, p.sign)
			if got := eval[int](b, `Math.max(document.documentElement.scrollWidth, innerWidth)`); got > 390 {
				t.Errorf("%s scrolls sideways: %d pixels wide", p.hash, got)
			}
			b.shoot(name + p.name + "-390-light")
		}
	}
	const calculated = "#/calculator?hours=5&gpus=2&memory=80&disk=50.5&traffic=20&place=SE"
	look("tariff-", place{"offers", h100, "$0.144/GiB-month"}, place{"calculator", calculated, "for traffic, if so much is carried"})
	// 2 GPUs for 2.5 hours on boreal: 9.10 for them, 50.5 GiB are 0.0101 an hour, 20 GB each way 0.30.
	b.open(calculated, "for 5 GPU-hours on H100 SXM, boreal")
	if got, want := eval[string](b, `document.querySelector(".total data").value`), "9425250000"; got != want {
		t.Errorf("total %q, want %q", got, want)
	}
	b.awaitText("$9.10 of it are for GPUs, $0.0252 for the disk, $0.30 for traffic, if so much is carried.")
	b.awaitText("you pay for 50.5 GiB of disk and 20 GB of traffic each way at most.")
	if got := eval[string](b, `document.querySelector(".quote .line").innerText`); !strings.HasSuffix(got, "--for 150m --disk 51712MiB --traffic 20GB IMAGE") {
		t.Errorf("the command for a firm quote: %q", got)
	}
	for bad, want := range map[string]string{
		"disk=0": "Disk: want 0.016 to 16383 GiB", "disk=-1": "Disk: want", "disk=20000": "Disk: want", "disk=x": "Disk: want",
		"traffic=0": "Traffic: want a number of GB above zero", "traffic=1000001": "Traffic: want", "traffic=1TB": "Traffic: want",
	} {
		b.open("#/calculator?hours=1&"+bad, want)
	}
	eval[bool](b, fmt.Sprintf(`(sessionStorage.setItem("rialto.token", %q), true)`, b.w.token))
	job := "#/job/" + string(b.w.running)
	b.open(job, "1.2 GB in, 40 MB out")
	b.awaitText("Beside its GPUs the host charges $0.144 for a GiB of disk a month, and $0.005 for a GB in, $0.01 for a GB out: you pay for 10 GiB of disk and 1 GB of traffic each way at most.")
	b.awaitText("The 1 GB each way that you pay for are used up")
	look("tariff-", place{"job", job, "used up"})
	b.open("#/job/"+string(b.w.done), "costs nothing here")
	if eval[bool](b, `document.querySelector("main").innerText.includes("used up")`) {
		t.Error("traffic of a host that does not charge for it is used up")
	}
	eval[bool](b, `(sessionStorage.removeItem("rialto.token"), true)`)
	b.quiet(t)
}

// money: the page's arithmetic is the market's.
func (b *browser) money(t *testing.T) {
	b.t = t
	b.open("#/", "RTX 4090")
	eval[bool](b, `(async () => {
		const dir = document.querySelector("script[src]").getAttribute("src").replace("main.js", "");
		window.lib = { ...await import(dir + "format.js"), ...await import(dir + "api.js"), ...await import(dir + "calculator.js"), ...await import(dir + "tariff.js") };
		return true;
	})()`)
	for _, tt := range []struct{ js, want string }{
		{`lib.usd(9007199254740993n)`, "$9,007,199.254740993"},
		{`lib.usd(400000000n)`, "$0.40"},
		{`lib.usd(1n)`, "$0.000000001"},
		{`lib.usd(-1250000000n)`, "−$1.25"},
		{`lib.usd(123450000n, 4)`, "$0.1234"}, // half to even
		{`lib.usd(123550000n, 4)`, "$0.1236"},
		{`lib.usd(999999999n, 2)`, "$1.00"},
		{`lib.decode('{"a_nanousd":9007199254740993,"n":1}').a_nanousd.toString()`, "9007199254740993"},
		{`lib.decode('{"text":"\\"x_nanousd\\":5"}').text`, `"x_nanousd":5`},
		{`String(lib.nanoOf("1e3"))`, "null"},
		{`lib.flags(51200, 20000000000)`, " --disk 50GiB --traffic 20GB"},
		{`lib.flags(51201, 1500000)`, " --disk 51201MiB --traffic 1500000B"},
		{`lib.flags("", 2000000)`, " --traffic 2MB"},
		{`lib.flags(undefined, "")`, ""},
	} {
		if got := eval[string](b, tt.js); got != tt.want {
			t.Errorf("%s = %q, want %q", tt.js, got, tt.want)
		}
	}
	random := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		tariff := broker.Tariff{Disk: pricing.Rate(random.Int64N(1e9)), Ingress: pricing.Money(random.Int64N(1e10)), Egress: pricing.Money(random.Int64N(1e10))}
		spec := broker.JobSpec{GPU: broker.GPURequest{Count: 1}, DiskMiB: uint64(16 + random.Int64N(broker.MaxDiskMiB-16)), Traffic: 1 + random.Int64N(broker.MaxTraffic)}
		charge, err := spec.Charge(0, tariff)
		if err != nil {
			t.Fatal(err)
		}
		got := eval[string](b, fmt.Sprintf(`((t) => lib.perHour(t, %d) + " " + lib.carried(t, %d))({ disk_nanousd_per_gib_hour: %dn, ingress_nanousd_per_gb: %dn, egress_nanousd_per_gb: %dn })`,
			spec.DiskMiB, spec.Traffic, tariff.Disk, tariff.Ingress, tariff.Egress))
		if want := fmt.Sprint(int64(charge.Disk), int64(charge.Traffic)); got != want {
			t.Errorf("%d MiB and %d bytes at %+v: the page says %s, the market %s", spec.DiskMiB, spec.Traffic, tariff, got, want)
		}
		r, hours := pricing.Rate(random.Int64N(20_000_000_000)), random.Int64N(1_000_000_000_000)
		want, err := r.Cost(time.Duration(hours) * 3600)
		if err != nil {
			t.Fatal(err)
		}
		if got := eval[string](b, fmt.Sprintf(`String(lib.costOf(%dn, %dn))`, r, hours)); got != fmt.Sprint(int64(want)) {
			t.Errorf("%d nanodollars an hour for %d billionths of an hour: the page says %s, the market %d", r, hours, got, want)
		}
	}
}

// jobs: signing in, the list, a job that runs and ends while one looks, one that failed.
func (b *browser) jobs(t *testing.T) {
	b.t = t
	w := b.w
	b.open("#/jobs", "paste your account")
	b.shoot("signin-1280-light")
	b.do(chromedp.SendKeys("#token", "rialto_wrong"+kb.Enter))
	b.awaitText("does not know the token")
	b.do(chromedp.SetValue("#token", w.token))
	b.click("button", "Sign in")
	b.awaitText("Jobs, newest first")
	if eval[bool](b, fmt.Sprintf(`JSON.stringify(localStorage).includes(%q) || document.cookie !== ""`, w.token)) {
		t.Error("the token outlives the tab")
	}
	b.awaitText("done, exit 3")
	b.awaitText("none: rialto account limit --day 20 sets one")
	if _, err := w.SetLimits(t.Context(), w.account, broker.Limits{Job: 250 * pricing.USD, Day: 5000 * pricing.USD}); err != nil {
		t.Fatal(err)
	}
	b.awaitText("$250.00 a job")
	b.awaitText("$5,000.00 a day")
	// A gang is one row with a row for each of its nodes, and each node knows the others.
	b.awaitText("3 hosts at once")
	nodes := eval[[]string](b, `[...document.querySelectorAll("tr.node th")].map((e) => e.innerText)`)
	var want []string
	for rank := range 3 {
		want = append(want, fmt.Sprintf("[%d] %s", rank, broker.MemberID(w.gang, rank)))
	}
	if !slices.Equal(nodes, want) {
		t.Errorf("nodes %q, want %q", nodes, want)
	}
	b.click("main a.model", string(broker.MemberID(w.gang, 1)))
	b.awaitText("One of 3 hosts that run it at once")
	if got := eval[string](b, `document.querySelector("tr.here").innerText`); !strings.HasPrefix(got, want[1]) {
		t.Errorf("the node that is shown: %q, want %q", got, want[1])
	}
	b.click("main a", string(broker.MemberID(w.gang, 2)))
	b.await(fmt.Sprintf(`document.querySelector("tr.here")?.innerText.startsWith(%q)`, want[2]))
	b.shoot("gang-1280-light")
	b.open("#/jobs", "Jobs, newest first")
	b.click("main a.model", string(w.running))
	b.awaitText("Start-up: 309 ms")
	b.awaitText("from other hosts")
	b.awaitText("rialto logs -f " + string(w.running))
	b.await(`document.querySelectorAll(".events li").length >= 3`)
	before := eval[int](b, `document.querySelectorAll(".events li").length`)
	eval[bool](b, `window.untouched = true`)
	w.host("moraine").report(t, w.lease, 2, broker.PhaseExited, 0)
	b.await(fmt.Sprintf(`document.querySelectorAll(".events li").length > %d`, before))
	b.awaitText("Billed: corroborated time")
	b.awaitText("10 GiB, at $0.144 for a GiB a month: $")
	b.awaitText("1.2 GB in, 40 MB out, at $0.005 for a GB in, $0.01 for a GB out: $")
	if !eval[bool](b, `window.untouched === true`) {
		t.Error("the page was loaded again")
	}
	b.open("#/job/"+string(w.failed), "no command python3 in the image")
	b.open("#/job/j-of-nobody", "not found")
	b.quiet(t, "401 (Unauthorized)", "404 (Not Found)")
}
