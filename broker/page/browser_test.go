package page_test

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// browser is one tab of a headless Chromium.
type browser struct {
	context.Context //nolint:containedctx // to chromedp, a tab is a context
	t               *testing.T
	url             string
	w               *world // that is looked at

	mu       sync.Mutex
	problems []string // what the console said
}

// newBrowser starts one, or skips the test when there is none.
func newBrowser(t *testing.T, url string) *browser {
	t.Helper()
	binary := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if at, err := exec.LookPath(name); err == nil {
			binary = at
			break
		}
	}
	if binary == "" {
		t.Skip("missing: chromium (make deps, or apt-get install chromium)")
	}
	options := append([]chromedp.ExecAllocatorOption{chromedp.ExecPath(binary), chromedp.UserDataDir(t.TempDir())}, chromedp.DefaultExecAllocatorOptions[:]...)
	for _, flag := range []string{"no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking", "disable-component-update", "disable-sync"} {
		options = append(options, chromedp.Flag(flag, true))
	}
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), append(options, chromedp.WSURLReadTimeout(time.Minute))...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	b := &browser{Context: ctx, t: t, url: url}
	b.first(chromedp.Navigate("about:blank"))
	go b.hear() // ends with the browser
	b.size(1280, 900, false)
	return b
}

// first starts the browser, which lives as long as the context of this call.
func (b *browser) first(a chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b, a); err != nil {
		b.t.Fatalf("start chromium: %v", err)
	}
}

// hear keeps errors and warnings of the console.
func (b *browser) hear() {
	for m, err := range chromedp.Console(b) {
		if err != nil {
			return
		}
		if slices.Contains([]chromedp.ConsoleType{chromedp.ConsoleError, chromedp.ConsoleWarning, chromedp.ConsoleException, "assert"}, m.Type) {
			b.mu.Lock()
			b.problems = append(b.problems, m.Text)
			b.mu.Unlock()
		}
	}
}

// quiet fails the test if the console said anything but what is expected.
func (b *browser) quiet(t *testing.T, expected ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.problems {
		ok := false
		for _, e := range expected {
			ok = ok || strings.Contains(p, e)
		}
		if !ok {
			t.Errorf("console: %s", p)
		}
	}
	b.problems = nil
}

func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	run(b, chromedp.Steps(actions...))
}

// run returns what an action does.
func run[T any](b *browser, a chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b, time.Minute)
	defer cancel()
	out, err := chromedp.Run(ctx, a)
	if err != nil {
		b.t.Fatalf("browser: %v", err)
	}
	return out
}

// call sends a command of the DevTools protocol.
func call[P, R any](b *browser, c cdp.Command[P, R], params P) R {
	b.t.Helper()
	return run(b, func(ctx context.Context, t *chromedp.Target) (R, error) { return cdp.Call(ctx, t, c, params) })
}

func (b *browser) size(width, height int64, phone bool) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: phone})
}

func (b *browser) scheme(name string) {
	b.t.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: name}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}})
}

// eval evaluates an expression of JavaScript.
func eval[T any](b *browser, expression string) T {
	b.t.Helper()
	return run(b, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// click clicks the first element of a kind that says something.
func (b *browser) click(kind, text string) {
	b.t.Helper()
	quoted, _ := json.Marshal(text)
	// In one go, for what is live may be drawn anew between looking and clicking; and only if nothing lies over it.
	b.await(fmt.Sprintf(`(() => {
		const found = [...document.querySelectorAll(%q)].find((e) => e.checkVisibility() && e.innerText.includes(%s));
		if (!found) return false;
		found.scrollIntoView({ block: "center", behavior: "instant" });
		const { x, y, width, height } = found.getBoundingClientRect();
		const top = document.elementFromPoint(x + width / 2, y + height / 2);
		if (!top || !found.contains(top) && !top.contains(found)) return false;
		found.click();
		return true;
	})()`, kind, quoted))
}

// await waits until an expression is true.
func (b *browser) await(expression string) {
	b.t.Helper()
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(30 * time.Millisecond) {
		if eval[bool](b, "!!("+expression+")") {
			return
		}
	}
	b.t.Fatalf("never true: %s\nthe page says:\n%s", expression, eval[string](b, `document.getElementById("main")?.innerText ?? ""`))
}

// open goes to a place on the page and waits for what must be there, and until it is live.
func (b *browser) open(place, sign string) {
	b.t.Helper()
	b.do(chromedp.Navigate("about:blank"), chromedp.Navigate(b.url+"/"+place))
	b.awaitText(sign)
	b.await(`document.querySelector("#live-text").innerText === "live"`)
}

func (b *browser) awaitText(sign string) {
	b.t.Helper()
	quoted, _ := json.Marshal(sign)
	b.await(fmt.Sprintf(`document.body.innerText.includes(%s)`, quoted))
}

// shoot keeps a picture of the whole page, in RIALTO_SCREENS or .cache/screens.
func (b *browser) shoot(name string) {
	b.t.Helper()
	dir := cmp.Or(os.Getenv("RIALTO_SCREENS"), filepath.Join("..", "..", ".cache", "screens"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	picture := run(b, chromedp.FullScreenshot(100))
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		b.t.Fatal(err)
	}
}
